"""Times the trainer beside PyTorch, a plain vmap and the machine's matmul peak.

  python -m experiments.bench_trainer --json=bench_trainer.json       (extra `bench`)

All sides run in one run, on the same images and recipe, each in processes of its own,
one at a time. Rounds repeat everything; a figure is the median over rounds.

  fleet   this trainer
  torch   PyTorch, one model at a time, one process a core (on a GPU: one process,
          compiled, channels last)
  torch-best  the same at the batch size from 64 to 512 that is fastest for it
  vmap    jax.vmap over 8 models, with Flax's own convolution
  matmul  the fastest of several square products: the peak that shares refer to

`--scaling=64,512,4096` instead times the collection of so many models of the preset
`fashion`, store included.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from experiments import cost, lab, presets, settings, workdir
from jaxdm import Array, fleet, prng, train, training_sets

JSON = flags.DEFINE_string("json", None, "File for the full results.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "How often every side is timed.", 1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "Least duration of one timing.", 0.01)
ROWS = flags.DEFINE_list("rows", None, "Only these rows, such as w8-8x8-b32.")
SIDES = flags.DEFINE_list(
  "sides", ["fleet", "torch", "torch-best", "vmap"], "Only these sides."
)
SCALING = flags.DEFINE_list("scaling", None, "Numbers of models to collect instead.")
_CHILD = flags.DEFINE_list("child", None, "Internal: the side and row of this process.")

_NUM_CLASSES = 10
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
  def recipe(self) -> train.TrainConfig:
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
    return images, rng.integers(0, _NUM_CLASSES, self.num_train)


def all_rows() -> dict[str, Row]:
  """By name: what suits this machine."""
  if jax.default_backend() == "cpu":
    rows = [Row("fashion", w, 8, 1, b, 1024, 10.0) for w in (8, 16) for b in (32, 64)]
    rows.append(Row("cifar10", 16, 32, 3, 64, 1024, 1.0))
  else:
    rows = [Row("cifar10", 64, 32, 3, 512, 25_000, 2.0, "bfloat16")]
  return {row.name: row for row in rows}


def _timed(run: Callable[[], Any], samples: int) -> dict[str, float]:
  """Compiles `run`, which trains on so many images, then times it."""
  start = time.perf_counter()
  run()
  first = time.perf_counter() - start
  taken: list[float] = []
  while len(taken) < 2 or sum(taken) < SECONDS.value:
    start = time.perf_counter()
    run()
    taken.append(time.perf_counter() - start)
  seconds = statistics.median(taken)
  return {
    "samples_per_second": samples / seconds,
    "compile_seconds": max(0.0, first - seconds),
    "memory_bytes": _memory_bytes(),
  }


def _memory_bytes() -> float:
  """Peak memory of this process, or of its accelerator if it has one."""
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  stats = jax.local_devices()[0].memory_stats() or {}
  return float(stats.get("peak_bytes_in_use", host))


def _models(row: Row, m: int) -> tuple[training_sets.TrainingSets, Array]:
  """Training sets and keys of m models on all of a row's images."""
  masks = np.ones((m, row.num_train), bool)
  sets = training_sets.from_masks(masks, row.images()[1])
  return sets, prng.keys_for(0, [prng.Seed("bench", i) for i in range(m)])


def _fleet(row: Row) -> dict[str, float]:
  """This trainer."""
  given = settings.speed()
  models = fleet.Fleet(row.recipe, row.images()[0], _NUM_CLASSES, given)
  sets, keys = _models(row, models.rows)

  def run() -> None:
    jax.block_until_ready(models.train_chunk(sets, keys))

  measured = _timed(run, models.rows * row.steps * row.batch_size)
  return {**measured, "vmap_width": given.vmap_width}


def _vmap(row: Row) -> dict[str, float]:
  """What one would write first."""
  images = jax.tree.map(jnp.asarray, train.Images.of(row.images()[0]))
  # It is slow: a few steps tell.
  recipe = dataclasses.replace(row.recipe, epochs=row.epochs / 32)
  steps = recipe.num_steps(np.array(row.num_train)).astype(np.int32)
  net = train.network(recipe, _NUM_CLASSES, "lax")
  sets, keys = _models(row, _VMAP_MODELS)
  many = jax.jit(jax.vmap(lambda s, k: train.train_one(recipe, net, images, s, k, steps)))
  return _timed(
    lambda: jax.block_until_ready(many(sets, keys)),
    _VMAP_MODELS * int(steps) * row.batch_size,
  )


def _matmul(row: Row) -> dict[str, float]:
  """Operations a second of the fastest square product."""
  rates = []
  for size in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384):
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(row.compute_dtype))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    for _ in range(10):
      start = time.perf_counter()
      jax.block_until_ready(product(x))
      rates.append(2.0 * size**3 / (time.perf_counter() - start))
  return {"flops_per_second": max(rates)}


def _torch(row: Row) -> dict[str, float]:
  """PyTorch."""
  on_gpu = jax.default_backend() == "gpu"
  num = 1 if on_gpu else len(os.sched_getaffinity(0))
  context = multiprocessing.get_context("spawn")
  barrier, results = context.Barrier(num), context.Queue()
  arguments = (row, SECONDS.value, barrier, results)
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


def _torch_best(row: Row) -> dict[str, float]:
  """PyTorch at the batch size that suits it best; a model it trains is another one."""
  tried = [
    {**_torch(dataclasses.replace(row, batch_size=size)), "batch_size": size}
    for size in _TORCH_BATCHES
  ]
  return max(tried, key=lambda measured: measured["samples_per_second"])


def _torch_worker(row: Row, seconds: float, barrier: Any, results: Any) -> None:
  """One process: one model after another, while all the others do the same."""
  import torch

  from experiments import torch_resnet9

  on_gpu = torch.cuda.is_available()
  torch.set_num_threads(1)
  trainer = torch_resnet9.Trainer(
    row.recipe, *row.images(), _NUM_CLASSES, compiled=on_gpu
  )
  start = time.perf_counter()
  trainer.run(row.steps)
  first = time.perf_counter() - start
  barrier.wait()
  taken: list[float] = []
  while len(taken) < 2 or sum(taken) < seconds:
    start = time.perf_counter()
    trainer.run(row.steps)
    taken.append(time.perf_counter() - start)
  typical = statistics.median(taken)
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
  results.put(
    {
      "samples_per_second": row.steps * row.batch_size / typical,
      "compile_seconds": max(0.0, first - typical),
      "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else memory,
    }
  )


SIDES_BY_NAME = {
  "fleet": _fleet,
  "torch": _torch,
  "torch-best": _torch_best,
  "vmap": _vmap,
  "matmul": _matmul,
}


def _measure(side: str, row: Row, cache: str) -> dict[str, Any]:
  """One side of one row in a process of its own, which forwards all flags."""
  command = [sys.executable, "-m", "experiments.bench_trainer", *sys.argv[1:]]
  result = subprocess.run(
    [*command, f"--child={side},{row.name}"],
    env={**os.environ, "XDG_CACHE_HOME": cache},
    stdout=subprocess.PIPE,
    text=True,
  )
  if result.returncode:
    print(f"{side} on {row.name} failed; its error is above", file=sys.stderr)
    return {}
  measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
  print(f"  {row.name} {side}: {_phrase(measured)}", file=sys.stderr)
  return measured


def _phrase(measured: dict[str, float]) -> str:
  """One measurement in words."""
  if "flops_per_second" in measured:
    return f"{measured['flops_per_second'] / 1e9:,.0f} GFLOP/s"
  return f"{measured['samples_per_second']:,.0f} samples/s"


def table(results: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  columns = "row | side | samples/s | models/h | share of peak | fleet is x times | "
  columns += "compile s: cold, cached | memory MB | fleet width"
  lines = [columns, " | ".join(["---"] * len(columns.split(" | ")))]
  ours = {r["row"]: r["samples_per_second"] for r in results if r["side"] == "fleet"}
  for r in results:
    speed = r["samples_per_second"]
    cells = [
      r["row"],
      r["side"] + (f", batch {r['batch_size']}" if r["side"] == "torch-best" else ""),
      f"{speed:,.0f}",
      f"{r['models_per_hour']:,.0f}",
      f"{r['share_of_peak']:.0%}",
      f"{ours.get(r['row'], float('nan')) / speed:.2f}",
      f"{r['cold_compile_seconds']:.1f}, {r['cached_compile_seconds']:.1f}",
      f"{r['memory_bytes'] / 1e6:,.0f}",
      str(r.get("vmap_width", "")),
    ]
    lines.append(" | ".join(cells))
  return "\n".join(f"| {line} |" for line in lines)


def summary(row: Row, side: str, runs: list[dict[str, Any]], peak: float) -> Any:
  """Medians over rounds, and what follows from them."""
  speed = statistics.median(r["samples_per_second"] for r in runs)
  num_train = cost.SIZES[row.preset].num_train
  samples = cost.samples_per_model(presets.PRESETS[row.preset](), num_train)
  flops = cost.flops_per_sample(row.recipe, row.image_shape, _NUM_CLASSES)
  return {
    "row": row.name,
    "side": side,
    **dataclasses.asdict(row),
    "samples_per_second": speed,
    "all_samples_per_second": [r["samples_per_second"] for r in runs],
    "samples_per_model": samples,
    "models_per_hour": 3600 * speed / samples,
    "flops_per_sample": flops,
    "share_of_peak": speed * flops / peak,
    "cold_compile_seconds": runs[0]["compile_seconds"],
    "cached_compile_seconds": runs[-1]["compile_seconds"],
    "memory_bytes": max(r["memory_bytes"] for r in runs),
    "vmap_width": runs[0].get("vmap_width", ""),
    "batch_size": runs[0].get("batch_size", row.batch_size),
  }


def machine() -> dict[str, Any]:
  """Where and when this ran."""
  return {
    "device": jax.devices()[0].device_kind,
    # A CPU with all its cores counts as one.
    "devices": 1 if jax.default_backend() == "cpu" else jax.local_device_count(),
    "cores": len(os.sched_getaffinity(0)),
    "processor": platform.processor() or platform.machine(),
    "jax": jax.__version__,
    "python": platform.python_version(),
    "date": time.strftime("%Y-%m-%d"),
  }


def compare() -> dict[str, Any]:
  """All sides of all rows."""
  rows = all_rows()
  chosen = [rows[name] for name in ROWS.value or rows]
  runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
  peaks: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as cache:
    for number in range(ROUNDS.value):
      print(f"round {number + 1} of {ROUNDS.value}", file=sys.stderr)
      for row in chosen:
        peak = _measure("matmul", row, cache)["flops_per_second"]
        peaks.setdefault(row.compute_dtype, []).append(peak)
        for side in SIDES.value:
          if measured := _measure(side, row, cache):
            runs.setdefault((row.name, side), []).append(measured)
  peak_of = {dtype: statistics.median(values) for dtype, values in peaks.items()}
  results = [
    summary(rows[name], side, measured, peak_of[rows[name].compute_dtype])
    for (name, side), measured in runs.items()
  ]
  for dtype, peak in peak_of.items():
    print(f"matmul peak, {dtype}: {peak / 1e9:,.0f} GFLOP/s")
  print(table(results))
  return {"peak_flops_per_second": peak_of, "results": results}


def scale(sizes: list[int]) -> dict[str, Any]:
  """Collects models of the preset `fashion` into stores of several sizes."""
  experiment = presets.PRESETS["fashion"]()
  results = []
  for m in [64, *sizes]:  # The first one compiles.
    with tempfile.TemporaryDirectory() as folder:
      collect = dataclasses.replace(experiment.collect, num_models=m)
      opened = lab.Lab(
        workdir.Workdir(folder),
        dataclasses.replace(experiment, collect=collect),
        settings.speed(),
        lab.load_dataset(experiment.data, {"data_dir": None, "arrays": None}),
      )
      start = time.perf_counter()
      opened.subset_margins(np.arange(m), lab.progress_bar(f"{m} models"))
      speed = m / (time.perf_counter() - start)
    results.append(
      {"models": m, "models_per_second": speed, "memory_bytes": _memory_bytes()}
    )
  print("| models | models/s | peak memory so far, MB |\n|---|---|---|")
  for r in results[1:]:
    cells = f"{r['models_per_second']:.2f} | {r['memory_bytes'] / 1e6:,.0f}"
    print(f"| {r['models']} | {cells} |")
  return {"scaling": results[1:]}


def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  if argv[1:]:
    sys.exit(f"error: arguments must be flags, got {argv[1]!r}; see --help")
  logging.set_verbosity(logging.WARNING)
  if SCALING.value or (_CHILD.value and _CHILD.value[0] == "fleet"):
    fleet.use_all_devices()
  if _CHILD.value:
    side, name = _CHILD.value
    print(json.dumps(SIDES_BY_NAME[side](all_rows()[name])))
    return
  for flag, known in ((ROWS, all_rows()), (SIDES, SIDES_BY_NAME)):
    if unknown := set(flag.value or ()) - known.keys():
      sys.exit(f"error: --{flag.name} must be some of {', '.join(known)}, got {unknown}")
  sizes = [int(m) for m in SCALING.value or ()]
  found = {"machine": machine(), **(scale(sizes) if sizes else compare())}
  if JSON.value:
    pathlib.Path(JSON.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  settings.show_in_help()
  app.run(main)
