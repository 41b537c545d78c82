"""The sides of the trainer's benchmark: each trains one row its own way."""

import dataclasses
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import presets
from jaxdm import cgroups, devices, prng, training_sets
from jaxdm.training import fleet, train
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.config import TrainConfig
from jaxdm.training.inputs import Inputs
from jaxdm.training.speed import Speed
from jaxdm.typing import Array

NUM_CLASSES = 10
_VMAP_MODELS = 8
_TORCH_BATCHES = (64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Row:
  """One network, image size and batch size.

  Attributes:
    preset: whose recipe it takes, and whose models an hour are counted.
    width: of the network.
    pixels: the images' side.
    channels: of the images.
    batch_size: examples a step.
    num_train: images that every model trains on.
    epochs: passes over them.
    compute_dtype: of the products.
  """

  preset: str
  width: int
  pixels: int
  channels: int
  batch_size: int
  num_train: int
  epochs: float
  compute_dtype: str = "float32"

  @property
  def name(self) -> str:
    """Such as w8-8x8-b32."""
    return f"w{self.width}-{self.pixels}x{self.pixels}-b{self.batch_size}"

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(h, w, c)."""
    return self.pixels, self.pixels, self.channels

  @property
  def recipe(self) -> TrainConfig:
    """The preset's, at this size."""
    return dataclasses.replace(
      presets.PRESETS[self.preset]().train,
      width=self.width,
      epochs=self.epochs,
      batch_size=self.batch_size,
      compute_dtype=self.compute_dtype,
    )

  @property
  def steps(self) -> int:
    """Of one model."""
    return int(self.recipe.num_steps(np.array(self.num_train)))

  def images(self) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images and labels: the time does not depend on what they show."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (self.num_train, *self.image_shape), np.uint8)
    return images, rng.integers(0, NUM_CLASSES, self.num_train)


def all_rows() -> dict[str, Row]:
  """By name: what suits this machine."""
  if jax.default_backend() == "cpu":
    rows = [Row("fashion", w, 8, 1, b, 1024, 10.0) for w in (8, 16) for b in (32, 64)]
    rows.append(Row("cifar10", 16, 32, 3, 64, 1024, 1.0))
  else:
    rows = [
      *(Row("cifar10", 64, 32, 3, b, 25_000, 2.0, "bfloat16") for b in (512, 1024)),
      Row("cifar10-fast", 64, 32, 3, 256, 25_000, 1.0, "bfloat16"),
      Row("cifar10", 16, 32, 3, 64, 1024, 1.0, "bfloat16"),
      *(Row("fashion", w, 8, 1, 32, 100, 20.0) for w in (8, 16)),
    ]
  return {row.name: row for row in rows}


def _time(run: Callable[[], Any], samples: int, least: float) -> dict[str, float]:
  """Compiles `run`, which trains on so many images; times it for `least` seconds."""
  start = time.perf_counter()
  run()
  first = time.perf_counter() - start
  seconds_of: list[float] = []
  while len(seconds_of) < 2 or sum(seconds_of) < least:
    start = time.perf_counter()
    run()
    seconds_of.append(time.perf_counter() - start)
  seconds = statistics.median(seconds_of)
  return {
    "samples_per_second": samples / seconds,
    "compile_seconds": max(0.0, first - seconds),
    "memory_bytes": devices.peak_bytes(),
  }


def _models(row: Row, m: int) -> tuple[training_sets.TrainingSets, Array]:
  """Training sets and keys of m models on all of a row's images."""
  masks = np.ones((m, row.num_train), bool)
  sets = training_sets.from_masks(masks, row.images()[1])
  return sets, prng.keys_for(0, [prng.Stream("bench", i) for i in range(m)])


def _fleet(row: Row, least: float, speed: Speed) -> dict[str, float]:
  """This trainer."""
  models = fleet.Fleet(row.recipe, row.images()[0], NUM_CLASSES, speed)
  sets, keys = _models(row, models.rows)

  def run() -> None:
    jax.block_until_ready(models.train(sets, keys))

  measured = _time(run, models.rows * row.steps * row.batch_size, least)
  return {**measured, "vmap_width": int(models.provenance["vmap_width"])}


def _vmap(row: Row, least: float, _: Speed) -> dict[str, float]:
  """What one would write first."""
  images = jax.tree.map(jnp.asarray, Inputs.of(row.images()[0]))
  # It is slow: a few steps tell.
  config = dataclasses.replace(row.recipe, epochs=row.epochs / 32)
  steps = config.num_steps(np.array(row.num_train)).astype(np.int32)
  recipe = recipe_lib.make(
    config,
    num_classes=NUM_CLASSES,
    input_shape=row.images()[0].shape[1:],
    conv_backend="lax",
  )
  sets, keys = _models(row, _VMAP_MODELS)
  many = jax.jit(jax.vmap(lambda s, k: train.train_one(recipe, images, s, k, steps)))
  return _time(
    lambda: jax.block_until_ready(many(sets, keys)),
    _VMAP_MODELS * int(steps) * row.batch_size,
    least,
  )


def _matmul(row: Row, _least: float, _: Speed) -> dict[str, float]:
  """Operations a second of the fastest square product."""
  rates = []
  for size in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384):
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(row.compute_dtype))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    for _repeat in range(10):
      start = time.perf_counter()
      jax.block_until_ready(product(x))
      rates.append(2.0 * size**3 / (time.perf_counter() - start))
  return {"flops_per_second": max(rates)}


def _torch(row: Row, least: float, _: Speed) -> dict[str, float]:
  """PyTorch."""
  on_gpu = jax.default_backend() == "gpu"
  num = 1 if on_gpu else cgroups.cpu_count()
  context = multiprocessing.get_context("spawn")
  barrier, results = context.Barrier(num), context.Queue()
  arguments = (row, least, barrier, results)
  workers = [context.Process(target=_torch_worker, args=arguments) for _ in range(num)]
  for worker in workers:
    worker.start()
  parts = [results.get() for _ in workers]
  for worker in workers:
    worker.join()
  return {
    "samples_per_second": sum(p["samples_per_second"] for p in parts),
    "compile_seconds": max(p["compile_seconds"] for p in parts),
    "memory_bytes": sum(p["memory_bytes"] for p in parts),
  }


def _torch_best(row: Row, least: float, speed: Speed) -> dict[str, float]:
  """PyTorch at the batch size that suits it best; a model it trains is another one."""
  rates = [
    {
      **_torch(dataclasses.replace(row, batch_size=size), least, speed),
      "batch_size": size,
    }
    for size in _TORCH_BATCHES
  ]
  return max(rates, key=lambda measured: measured["samples_per_second"])


def _torch_worker(row: Row, seconds: float, barrier: Any, results: Any) -> None:
  """One process: one model after another, while all the others do the same."""
  import torch

  from experiments.bench.peers import torch_resnet9

  on_gpu = torch.cuda.is_available()
  torch.set_num_threads(1)
  trainer = torch_resnet9.Trainer(row.recipe, *row.images(), NUM_CLASSES, compiled=on_gpu)
  start = time.perf_counter()
  trainer.run(row.steps)
  first = time.perf_counter() - start
  barrier.wait()
  seconds_of: list[float] = []
  while len(seconds_of) < 2 or sum(seconds_of) < seconds:
    start = time.perf_counter()
    trainer.run(row.steps)
    seconds_of.append(time.perf_counter() - start)
  typical = statistics.median(seconds_of)
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
  results.put(
    {
      "samples_per_second": row.steps * row.batch_size / typical,
      "compile_seconds": max(0.0, first - typical),
      "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else memory,
    }
  )


SIDES: dict[str, Callable[[Row, float, Speed], dict[str, float]]] = {
  "fleet": _fleet,
  "torch": _torch,
  "torch-best": _torch_best,
  "vmap": _vmap,
  "matmul": _matmul,
}
