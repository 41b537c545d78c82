"""Many models at once: the only room with vmap, lax.map, shard_map and meshes."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdm import Array, conv, train, training_sets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Settings that change how fast models are trained, never what they are.

  Attributes:
    vmap_width: models that one device trains side by side. 1 measures best on CPU;
      on a GPU it has not been measured, and small networks will want more.
    chunk: models per device and call; results arrive (and are stored) a chunk at
      a time.
    conv_backend: the convolution's backend.
  """

  vmap_width: int = 1
  chunk: int = 8
  conv_backend: conv.Backend = "auto"

  def __post_init__(self) -> None:
    for name in ("vmap_width", "chunk"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


def use_all_devices(cache_dir: str | None = None) -> None:
  """Makes every CPU core a device, and keeps compiled programs between runs.

  Call it before anything touches JAX; afterwards the core count is fixed. It has no
  effect on how many GPUs or TPUs are used: all of them always are.

  Args:
    cache_dir: for compiled programs; None: `jaxdm` in the user's cache folder.
  """
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  jax.config.update("jax_num_cpu_devices", cores or os.cpu_count() or 1)
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  cache_dir = cache_dir or os.path.join(home, "jaxdm", "xla")
  jax.config.update("jax_compilation_cache_dir", cache_dir)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Outputs(NamedTuple):
  """What a chunk of trained models says of some images.

  Attributes:
    num_models: m; the arrays may hold padding beyond.
    logits: float32[rows, t, k], on device.
    features: float32[rows, t, f], on device.
  """

  num_models: int
  logits: jax.Array
  features: jax.Array


class Fleet:
  """Trains chunks of models on every local device, one compiled program for all.

  Attributes:
    rows: models a chunk.
  """

  def __init__(
    self,
    config: train.TrainConfig,
    pixels: np.ndarray,
    num_classes: int,
    speed: Speed = Speed(),
  ):
    """Puts the training images on every device.

    Args:
      config: the recipe.
      pixels: uint8[n, h, w, c], the training images.
      num_classes: k.
      speed: how to run it.
    """
    devices = jax.local_devices()
    self._config = config
    self._net = train.network(config, num_classes, speed.conv_backend)
    mesh = jax.make_mesh(
      (len(devices),),
      ("models",),
      axis_types=(jax.sharding.AxisType.Auto,),
      devices=devices,
    )
    self._by_model = NamedSharding(mesh, PartitionSpec("models"))
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._images = jax.device_put(train.Images.of(pixels), self._everywhere)
    self.rows = speed.chunk * len(devices)
    width = min(speed.vmap_width, speed.chunk)

    def on_one_device(fn: Any) -> Any:
      """Maps fn(shared, one model's arguments) over a device's models."""

      def mapped(shared: Any, rows: Any) -> Any:
        one = functools.partial(fn, shared)
        return lax.map(one, rows, batch_size=width if width > 1 else None)

      specs = (PartitionSpec(), PartitionSpec("models"))
      # Nothing is communicated, so there is no replication for check_vma to check.
      return jax.jit(
        jax.shard_map(
          mapped, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False
        )
      )

    def train_row(shared: Any, row: Any) -> train.Variables:
      images, loop_steps = shared
      training_set, key = row
      return train.train_one(config, self._net, images, training_set, key, loop_steps)

    def predict_row(pixels: Array, variables: train.Variables) -> Any:
      return train.predict(self._net, variables, pixels, mirror=config.flip)

    self._train = on_one_device(train_row)
    self._predict = on_one_device(predict_row)

  def train_models(
    self,
    chunks: Iterable[tuple[training_sets.TrainingSets, Array]],
    pixels: np.ndarray,
  ) -> Iterator[Outputs]:
    """Trains models and predicts with them, a chunk at a time.

    While a caller works on one chunk's outputs the devices train the next.

    Args:
      chunks: training sets and their keys, at most `rows` models each; read one
        ahead, so that they need not exist all at once.
      pixels: uint8[t, h, w, c], the images to predict.

    Yields:
      The outputs of each chunk, in order.
    """
    pixels = jax.device_put(pixels, self._everywhere)
    ahead: Outputs | None = None
    for sets, keys in chunks:
      logits, features = self.predict_chunk(self.train_chunk(sets, keys), pixels)
      logits.copy_to_host_async()
      if ahead is not None:
        yield ahead
      ahead = Outputs(len(sets.counts), logits, features)
    if ahead is not None:
      yield ahead

  def train_chunk(self, sets: training_sets.TrainingSets, keys: Array) -> train.Variables:
    """Trains at most `rows` models; variables stay on the devices, padded to `rows`."""
    fill = self.rows - len(sets.counts)
    rows = np.concatenate([np.arange(len(sets.counts)), np.zeros(fill, int)])
    steps = np.asarray(self._config.num_steps(sets.counts), np.int32).max()
    batch = jax.device_put((sets.rows(rows), keys[rows]), self._by_model)
    return self._train((self._images, steps), batch)

  def predict_chunk(self, variables: train.Variables, pixels: np.ndarray) -> Any:
    """Logits [rows, t, k] and features [rows, t, f] of uint8 images, on device."""
    return self._predict(jax.device_put(pixels, self._everywhere), variables)
