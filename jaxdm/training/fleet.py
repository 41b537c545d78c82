"""Many models at once: those of `train`, mapped and spread over devices."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxdm import devices, numerics, training_sets
from jaxdm.errors import UserError
from jaxdm.rounding import share_of
from jaxdm.storage import checkpoint, identity
from jaxdm.training import conv, output_gradients, train
from jaxdm.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Settings of speed, which change what models are by rounding alone.

  They are no part of a model's identity: a run may go on with others, on another device.
  Stores note them (`Fleet.provenance`).

  Attributes:
    vmap_width: models that one device trains side by side. 1 measures best on CPU;
      on a GPU it has not been measured, and small networks will want more.
    chunk: models per device and call; results arrive (and are stored) a chunk at
      a time.
    checkpoint_seconds: seconds of training that a killed run loses at most, if a step of
      a chunk takes no longer than a fifth of them; models that take longer to train are
      written to disk half-trained. 0: never.
    conv_backend: the convolution's backend.
  """

  vmap_width: int = 1
  chunk: int = 8
  checkpoint_seconds: float = 300.0
  conv_backend: conv.Backend = "auto"

  def __post_init__(self) -> None:
    for name in ("vmap_width", "chunk"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} must be >= 1, got {getattr(self, name)}")
    if not self.checkpoint_seconds >= 0:
      raise UserError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}")


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
    num_classes: k.
  """

  def __init__(
    self,
    config: train.TrainConfig,
    pixels: np.ndarray,
    num_classes: int,
    speed: Speed = Speed(),
    *,
    gradient_dim: int = 1024,
    progress: checkpoint.Progress | None = None,
  ):
    """Uses no device yet.

    Args:
      config: the recipe.
      pixels: uint8[n, h, w, c], the training images.
      num_classes: k.
      speed: how to run it.
      gradient_dim: numbers that an example's gradient is projected to.
      progress: writes models that take long to train; None: nothing is written.
    """
    self._progress = progress
    self._config, self._pixels, self._speed = config, pixels, speed
    self.num_classes = num_classes
    self._net = train.network(config, num_classes, speed.conv_backend)
    self._gradient_dim = gradient_dim
    self._width = min(speed.vmap_width, speed.chunk)
    self._proven: set[str] = set()

  def identity(self) -> dict[str, Any]:
    """What trained models depend on beside their sets and keys, as JSON values."""
    return {
      "train": dataclasses.asdict(self._config),
      "train_pixels": self._pixels_digest,
      "num_classes": self.num_classes,
      "computation": identity.computation(),
    }

  @property
  def provenance(self) -> dict[str, str]:
    """Settings that change rounding; no part of a model's identity, but noted with it."""
    backend, width = (
      self._speed.conv_backend,
      min(self._speed.vmap_width, self._speed.chunk),
    )
    return {"conv_backend": backend, "vmap_width": str(width)}

  @functools.cached_property
  def _pixels_digest(self) -> str:
    """Of the training images."""
    return identity.digest(self._pixels)

  @functools.cached_property
  def rows(self) -> int:
    """Models a chunk."""
    return self._speed.chunk * devices.count()

  @functools.cached_property
  def _images(self) -> train.Images:
    """The training images, on every device."""
    images: train.Images = devices.everywhere(train.Images.of(self._pixels))
    return images

  @functools.cached_property
  def _programs(self) -> dict[str, Callable[..., Any]]:
    """See `_compiled`."""
    return self._compiled()

  def _compiled(self) -> dict[str, Callable[..., Any]]:
    """The programs that run a chunk, `self._width` models of a device side by side."""
    config, net, dim, width = self._config, self._net, self._gradient_dim, self._width

    def on_one_device(fn: Any) -> Any:
      """Maps fn(shared, one model's arguments) over a device's models."""

      def mapped(shared: Any, rows: Any) -> Any:
        one = functools.partial(fn, shared)
        return lax.map(one, rows, batch_size=width if width > 1 else None)

      return devices.spread(mapped)

    def begin_row(images: train.Images, key: Array) -> train.State:
      return train.begin(config, net, images, key)

    def advance_row(shared: Any, row: Any) -> train.State:
      (images, steps), (state, training_set, key) = shared, row
      return train.advance(config, net, images, training_set, key, state, steps)

    def variables_row(images: train.Images, row: Any) -> train.Variables:
      state, training_set = row
      return train.variables_of(state, images, training_set)

    def predict_row(pixels: Array, variables: train.Variables) -> Any:
      return train.predict(net, variables, pixels, mirror=config.flip)

    def gradients_row(examples: Any, row: Any) -> Any:
      (pixels, labels), (variables, key) = examples, row
      return output_gradients.per_example(
        net, variables, pixels, labels, key, dim=dim, mirror=config.flip
      )

    def class_gradients_row(pixels: Array, row: Any) -> Array:
      variables, key = row
      return output_gradients.per_class(
        net, variables, pixels, key, dim=dim, mirror=config.flip
      )

    rows = (begin_row, advance_row, variables_row, predict_row, gradients_row)
    return {fn.__name__: on_one_device(fn) for fn in (*rows, class_gradients_row)}

  @numerics.pinned()
  def _run(self, program: str, shared: Any, rows: Any) -> Any:
    """Runs a program; where the memory does not suffice, with half as many side by side.

    Raises:
      ValueError: if not even one model at a time fits.
    """
    while True:
      try:
        outputs = self._programs[program](shared, rows)
        if program not in self._proven:  # Later calls need no more than the first.
          jax.block_until_ready(outputs)
          self._proven.add(program)
        return outputs
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        if self._width == 1:
          raise UserError(
            "chunk, --width or --batch_size must be smaller: the device's memory does "
            "not hold one model at a time"
          ) from error
        self._width //= 2
        warnings.warn(
          "out of device memory; going on with --vmap_width="
          f"{self._width}, which changes no result",
          stacklevel=2,
        )
        self._programs, self._proven = self._compiled(), set()

  def train_models(
    self,
    chunks: Iterable[tuple[training_sets.TrainingSets, Array]],
    pixels: np.ndarray,
  ) -> Iterator[Outputs]:
    """Trains models and predicts with them, a chunk at a time.

    While a caller works on one chunk's outputs the devices train the next, unless chunks
    take so long that their outputs must be stored first.

    Args:
      chunks: training sets and their keys, at most `rows` models each; read one
        ahead, so that they need not exist all at once.
      pixels: uint8[t, h, w, c], the images to predict.

    Yields:
      The outputs of each chunk, in order.
    """
    pixels = devices.everywhere(pixels)
    ahead: Outputs | None = None
    for sets, keys in chunks:
      logits, features = self.predict_chunk(self.train_chunk(sets, keys), pixels)
      logits.copy_to_host_async()
      if ahead is not None:
        yield ahead
      ahead = Outputs(len(sets.counts), logits, features)
      if self._progress and self._progress.has_much_to_store():
        yield ahead
        ahead = None
    if ahead is not None:
      yield ahead

  def train_chunk(
    self, sets: training_sets.TrainingSets, keys: Array, *, until: float = 1.0
  ) -> train.Variables:
    """Trains at most `rows` models; variables stay on the devices, padded to `rows`.

    Args:
      sets: their training sets.
      keys: theirs; more may be given, so that their number need not change.
      until: the share of training after which to stop and look.
    """
    fill = self.rows - len(sets.counts)
    rows = np.concatenate([np.arange(len(sets.counts)), np.zeros(fill, int)])
    last = math.floor(share_of(until, self._config.num_steps(sets.counts).max()))
    batch, keys = devices.by_row((sets.rows(rows), keys[rows]))
    state = self._run("begin_row", self._images, keys)
    if self._progress:
      name = self._name(sets, keys, until)
      advance = functools.partial(self._advanced, (batch, keys))
      state = self._progress.run(name, state, last, advance)
    else:
      state = self._advanced((batch, keys), state, 0, last)
    return self._run("variables_row", self._images, (state, batch))

  def _advanced(self, rows: Any, state: train.State, first: int, stop: int) -> Any:
    """The chunk after some steps."""
    shared = self._images, (np.int32(first), np.int32(stop))
    return self._run("advance_row", shared, (state, *rows))

  def _name(self, sets: training_sets.TrainingSets, keys: Array, until: float) -> str:
    """Names a chunk by all that its models depend on.

    By the software too: half a model by one version and half by another is neither's.
    """
    depends_on = self, identity.made_by(), self.provenance, until, sets, keys
    return identity.digest(depends_on)

  def settle(self) -> None:
    """Removes what was written of finished chunks, once their outputs are stored."""
    if self._progress:
      self._progress.settle()

  def predict_chunk(self, variables: train.Variables, pixels: np.ndarray) -> Any:
    """Logits [rows, t, k] and features [rows, t, f] of uint8 images, on device."""
    return self._run("predict_row", devices.everywhere(pixels), variables)

  def gradients_chunk(
    self, variables: train.Variables, pixels: np.ndarray, labels: np.ndarray, keys: Array
  ) -> Any:
    """Log-odds [rows, b] and projected gradients [rows, b, d] of examples, on device.

    Args:
      variables: of `train_chunk`.
      pixels: uint8[b, h, w, c].
      labels: int[b].
      keys: of the models; each has its own projection.
    """
    examples = devices.everywhere((pixels, np.asarray(labels, np.int32)))
    return self._run("gradients_row", examples, (variables, self._filled(keys)))

  def class_gradients_chunk(
    self, variables: train.Variables, pixels: np.ndarray, keys: Array
  ) -> jax.Array:
    """Projected gradients of every logit, float32[rows, b, k, d], on device.

    The arguments, and so the projections, are those of `gradients_chunk`.
    """
    shared = devices.everywhere(pixels)
    rows = variables, self._filled(keys)
    return self._run("class_gradients_row", shared, rows)

  def _filled(self, keys: Array) -> Array:
    """Keys of a whole chunk, on the devices."""
    return devices.by_row(keys[np.resize(np.arange(len(keys)), self.rows)])
