"""Many models at once: those of `train`, mapped and spread over devices."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import lax

from jaxdm import devices, numerics, training_sets
from jaxdm.errors import UserError
from jaxdm.rounding import share_of
from jaxdm.storage import checkpoint, identity
from jaxdm.training import conv, output_gradients, train
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.inputs import Inputs
from jaxdm.training.networks import Variables
from jaxdm.training.recipe import Recipe, TrainConfig
from jaxdm.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Settings of speed, which change what models are by rounding alone.

  They are no part of a model's identity: a run may go on with others, on another device.
  Stores note them (`Fleet.provenance`).

  >>> import jaxdm
  >>> jaxdm.Speed(vmap_width=4, chunk=32).chunk
  32

  Attributes:
    vmap_width: Number of models that one device trains in parallel; default: 1 for
      networks with convolutions (fastest on CPU; not measured on a GPU), else 32.
    chunk: Number of models per device and call. The results of a chunk are stored
      together. Default: 8 for networks with convolutions, else 128.
    checkpoint_seconds: Largest number of seconds of training that are lost when a run
      is killed. Models that take longer are saved to disk during training. 0: never. A
      single step of a chunk must not take longer than a fifth of this time.
    conv_backend: How convolutions are computed: as matrix products (im2col), by XLA
      (lax), or chosen by the type of device (auto).
  """

  vmap_width: int | None = None
  chunk: int | None = None
  checkpoint_seconds: float = 300.0
  conv_backend: conv.Backend = "auto"

  def __post_init__(self) -> None:
    for name in ("vmap_width", "chunk"):
      if getattr(self, name) is not None and getattr(self, name) < 1:
        raise UserError(f"{name} must be >= 1, got {getattr(self, name)}")
    if not self.checkpoint_seconds >= 0:
      raise UserError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}")


# Models side by side, and a chunk, of networks with convolutions and of others.
_DEFAULTS = {True: (1, 8), False: (32, 128)}

Program = Callable[[Any, Any], Any]  # From shared arguments and those of each model.


class Programs(NamedTuple):
  """What is compiled to run a chunk; each maps one function of `train` over models.

  Attributes:
    begin: shared inputs; keys.
    advance: shared inputs and steps; states, training sets and keys.
    variables: shared inputs; states and training sets.
    predict: shared inputs to predict; variables.
    gradients: shared examples and labels; variables and keys.
    class_gradients: shared examples; variables and keys.
  """

  begin: Program
  advance: Program
  variables: Program
  predict: Program
  gradients: Program
  class_gradients: Program


class Outputs(NamedTuple):
  """What a chunk of trained models says of some inputs.

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
    values: the training inputs.
  """

  def __init__(
    self,
    config: TrainConfig,
    values: np.ndarray,
    num_classes: int,
    speed: Speed = Speed(),
    *,
    network: str | nn.Module = "resnet9",
    gradient_dim: int = 1024,
    progress: checkpoint.Progress | None = None,
  ):
    """Uses no device yet.

    Args:
      config: how each model is trained.
      values: uint8[n, h, w, c] training images, or float32[n, d] feature vectors.
      num_classes: k.
      speed: how to run it.
      network: see `networks.make`.
      gradient_dim: numbers that an example's gradient is projected to.
      progress: writes models that take long to train; None: nothing is written.

    Raises:
      UserError: on a network that does not fit the inputs or the config.
    """
    self._progress = progress
    self._config, self.values = config, values
    self.num_classes = num_classes
    self._recipe = recipe_lib.make(
      config,
      num_classes=num_classes,
      input_shape=values.shape[1:],
      network=network,
      conv_backend=speed.conv_backend,
    )
    self._gradient_dim = gradient_dim
    width, chunk = _DEFAULTS[self._recipe.network.convolves]
    self._chunk = speed.chunk or max(chunk, speed.vmap_width or 0)
    self._asked_width = min(speed.vmap_width or width, self._chunk)
    self._width, self._conv_backend = self._asked_width, speed.conv_backend
    self._proven: set[Program] = set()

  @property
  def recipe(self) -> Recipe:
    """How each model is trained, as functions of arrays."""
    return self._recipe

  def identity(self) -> dict[str, Any]:
    """What trained models depend on beside their sets and keys, as JSON values."""
    network = self._recipe.network.identity
    return {
      "train": dataclasses.asdict(self._config),
      "train_pixels": self._values_digest,
      "num_classes": self.num_classes,
      "computation": identity.computation(),
      **({} if network is None else {"network": network}),
    }

  @property
  def provenance(self) -> dict[str, str]:
    """Settings that change rounding; no part of a model's identity, but noted with it."""
    return {"conv_backend": self._conv_backend, "vmap_width": str(self._asked_width)}

  @functools.cached_property
  def _values_digest(self) -> str:
    """Of the training inputs."""
    return identity.digest(self.values)

  @functools.cached_property
  def rows(self) -> int:
    """Models a chunk."""
    return self._chunk * devices.count()

  @functools.cached_property
  def _inputs(self) -> Inputs:
    """The training inputs, on every device."""
    inputs: Inputs = devices.everywhere(Inputs.of(self.values))
    return inputs

  @functools.cached_property
  def _programs(self) -> Programs:
    """See `_compiled`."""
    return self._compiled()

  def _compiled(self) -> Programs:
    """The programs that run a chunk, `self._width` models of a device side by side."""
    recipe, dim, width = self._recipe, self._gradient_dim, self._width

    def on_one_device(fn: Any) -> Any:
      """Maps fn(shared, one model's arguments) over a device's models."""

      def mapped(shared: Any, rows: Any) -> Any:
        one = functools.partial(fn, shared)
        return lax.map(one, rows, batch_size=width if width > 1 else None)

      return devices.spread(mapped)

    def begin_row(inputs: Inputs, key: Array) -> train.State:
      return train.begin(recipe, inputs, key)

    def advance_row(shared: Any, row: Any) -> train.State:
      (inputs, steps), (state, training_set, key) = shared, row
      return train.advance(recipe, inputs, training_set, key, state, steps)

    def variables_row(inputs: Inputs, row: Any) -> Variables:
      state, training_set = row
      return train.variables_of(state, inputs, training_set)

    def predict_row(values: Array, variables: Variables) -> Any:
      return train.predict(recipe, variables, values)

    def gradients_row(examples: Any, row: Any) -> Any:
      (values, labels), (variables, key) = examples, row
      return output_gradients.per_example(recipe, variables, values, labels, key, dim=dim)

    def class_gradients_row(values: Array, row: Any) -> Array:
      variables, key = row
      return output_gradients.per_class(recipe, variables, values, key, dim=dim)

    rows = (begin_row, advance_row, variables_row, predict_row, gradients_row)
    return Programs(*map(on_one_device, (*rows, class_gradients_row)))

  @numerics.pinned()
  def _run(
    self, program_of: Callable[[Programs], Program], shared: Any, rows: Any
  ) -> Any:
    """Runs a program; where the memory does not suffice, with half as many side by side.

    Raises:
      ValueError: if not even one model at a time fits.
    """
    while True:
      try:
        program = program_of(self._programs)
        outputs = program(shared, rows)
        if program not in self._proven:  # Later calls need no more than the first.
          jax.block_until_ready(outputs)
          self._proven.add(program)
        return outputs
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        if self._width == 1:
          raise UserError(
            "chunk, width or batch_size must be smaller: the device's memory does "
            "not hold one model at a time"
          ) from error
        self._width //= 2
        warnings.warn(
          "out of device memory; going on with vmap_width="
          f"{self._width}, which changes no result",
          stacklevel=2,
        )
        self._programs, self._proven = self._compiled(), set()

  def train_models(
    self,
    chunks: Iterable[tuple[training_sets.TrainingSets, Array]],
    values: np.ndarray,
  ) -> Iterator[Outputs]:
    """Trains models and predicts with them, a chunk at a time.

    While a caller works on one chunk's outputs the devices train the next, unless chunks
    take so long that their outputs must be stored first.

    Args:
      chunks: training sets and their keys, at most `rows` models each; read one
        ahead, so that they need not exist all at once.
      values: uint8[t, h, w, c] or float32[t, d], the inputs to predict.

    Yields:
      The outputs of each chunk, in order.
    """
    values = devices.everywhere(values)
    ahead: Outputs | None = None
    for sets, keys in chunks:
      logits, features = self.predict_chunk(self.train_chunk(sets, keys), values)
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
  ) -> Variables:
    """Trains at most `rows` models; variables stay on the devices, padded to `rows`.

    Args:
      sets: their training sets.
      keys: theirs; more may be given, so that their number need not change.
      until: the share of training after which to stop and look.
    """
    fill = self.rows - len(sets.counts)
    rows = np.concatenate([np.arange(len(sets.counts)), np.zeros(fill, int)])
    last = math.floor(share_of(until, self._recipe.num_steps(sets.counts).max()))
    batch, keys = devices.by_row((sets.rows(rows), keys[rows]))
    state = self._run(lambda made: made.begin, self._inputs, keys)
    if self._progress:
      name = self._name(sets, keys, until)
      advance = functools.partial(self._advanced, (batch, keys))
      state = self._progress.run(name, state, last, advance)
    else:
      state = self._advanced((batch, keys), state, 0, last)
    return self._run(lambda made: made.variables, self._inputs, (state, batch))

  def _advanced(self, rows: Any, state: train.State, first: int, stop: int) -> Any:
    """The chunk after some steps."""
    shared = self._inputs, (np.int32(first), np.int32(stop))
    return self._run(lambda made: made.advance, shared, (state, *rows))

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

  def predict_chunk(self, variables: Variables, values: np.ndarray) -> Any:
    """Logits [rows, t, k] and features [rows, t, f] of inputs, on device."""
    return self._run(lambda made: made.predict, devices.everywhere(values), variables)

  def gradients_chunk(
    self, variables: Variables, values: np.ndarray, labels: np.ndarray, keys: Array
  ) -> Any:
    """Log-odds [rows, b] and projected gradients [rows, b, d] of examples, on device.

    Args:
      variables: of `train_chunk`.
      values: uint8[b, h, w, c] or float32[b, d].
      labels: int[b].
      keys: of the models; each has its own projection.
    """
    examples = devices.everywhere((values, np.asarray(labels, np.int32)))
    return self._run(
      lambda made: made.gradients, examples, (variables, self._filled(keys))
    )

  def class_gradients_chunk(
    self, variables: Variables, values: np.ndarray, keys: Array
  ) -> jax.Array:
    """Projected gradients of every logit, float32[rows, b, k, d], on device.

    The arguments, and so the projections, are those of `gradients_chunk`.
    """
    shared = devices.everywhere(values)
    rows = variables, self._filled(keys)
    return self._run(lambda made: made.class_gradients, shared, rows)

  def _filled(self, keys: Array) -> Array:
    """Keys of a whole chunk, on the devices."""
    return devices.by_row(keys[np.resize(np.arange(len(keys)), self.rows)])
