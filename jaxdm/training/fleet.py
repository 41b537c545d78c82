"""Many models at once: those of `train`, mapped and spread over devices."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import linen as nn
from jax import lax

from jaxdm import devices, numerics, prng, training_sets
from jaxdm.errors import UserError
from jaxdm.rounding import share_of
from jaxdm.storage import checkpoint, identity
from jaxdm.training import conv, output_gradients, train, tuning
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
    vmap_width: Number of models that one device trains in parallel, or auto: the fastest
      number is measured when a device, a network and an input size are first used, and
      then remembered. Default: on CPU 1 for networks with convolutions, else 32; on GPU
      and TPU auto.
    chunk: Number of models per device and call. The results of a chunk are stored
      together. Default: 8 for networks with convolutions, else 128, and at least
      vmap_width.
    checkpoint_seconds: Largest number of seconds of training that are lost when a run
      is killed. Models that take longer are saved to disk during training. 0: never. A
      single step of a chunk must not take longer than a fifth of this time.
    conv_backend: How convolutions are computed: as matrix products (im2col), by XLA
      (lax), in the form that is fastest on CPU for each layer (cpu; with vmap_width > 1
      the same as im2col), or auto: im2col or lax, measured as vmap_width is. Default: on
      CPU cpu, on GPU and TPU auto.
  """

  vmap_width: int | Literal["auto"] | None = None
  chunk: int | None = None
  checkpoint_seconds: float = 300.0
  conv_backend: Literal["auto", "cpu", "im2col", "lax"] | None = None

  def __post_init__(self) -> None:
    for name in ("vmap_width", "chunk"):
      value = getattr(self, name)
      if value not in (None, "auto") and value < 1:
        raise UserError(f"{name} must be >= 1, got {value}")
    if not self.checkpoint_seconds >= 0:
      raise UserError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}")


# Models side by side on CPU, and a chunk, of networks with convolutions and of others.
_CPU_WIDTH = {True: 1, False: 32}
_CHUNK = {True: 8, False: 128}
# What a step's time depends on, of a training configuration.
_TIMED = (
  "width",
  "batch_size",
  "muon_rate",
  "flip",
  "translate_pixels",
  "cutout_pixels",
  "compute_dtype",
)
_TIMED_EXAMPLES = 1024
_TIMED_SECONDS = 0.2

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
    tuning_folder: epath.PathLike | None = None,
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
      tuning_folder: where the processes of one job agree on what `auto` chooses; None:
        the user's cache.

    Raises:
      UserError: on a network that does not fit the inputs or the config.
    """
    self._progress, self._tuning_folder = progress, tuning_folder
    self._config, self.values = config, values
    self.num_classes = num_classes
    self._speed, self._network = speed, network
    self._lax_recipe = self._made("lax")
    self._gradient_dim = gradient_dim
    self._proven: set[Program] = set()
    self._may_narrow = True

  def _made(self, backend: conv.Backend) -> Recipe:
    """The recipe, with one way to compute convolutions."""
    return recipe_lib.make(
      self._config,
      num_classes=self.num_classes,
      input_shape=self.values.shape[1:],
      network=self._network,
      conv_backend=backend,
    )

  @functools.cached_property
  def choice(self) -> tuning.Choice:
    """How many models a device trains in parallel, and by which convolution."""
    convolves, speed = self._lax_recipe.network.convolves, self._speed
    on_cpu = jax.default_backend() == "cpu"
    width = speed.vmap_width or (_CPU_WIDTH[convolves] if on_cpu else "auto")
    backend = speed.conv_backend or ("cpu" if on_cpu else "auto")
    backends: tuple[conv.Backend, ...] = ("lax",)
    if convolves:
      backends = ("im2col", "lax") if backend == "auto" else (backend,)
    most = speed.chunk or (tuning.MOST_WIDTH if width == "auto" else width)
    if width != "auto" and len(backends) == 1:
      return tuning.Choice(min(width, most), backends[0])

    def choose() -> tuning.Choice:
      if width != "auto":
        return tuning.fastest(self._seconds, backends, min(width, most), most=None)
      first = tuning.first_width(self._lax_recipe, self.values.shape[1:])
      return tuning.fastest(self._seconds, backends, min(first, most), most=most)

    asked = width, backends, most
    return tuning.remembered((self._timed(), asked), choose, self._tuning_folder)

  def _timed(self) -> dict[str, Any]:
    """What the time of a step depends on."""
    network, config = self._lax_recipe.network.identity, dataclasses.asdict(self._config)
    return {
      "train": {name: config[name] for name in _TIMED},
      "network": network,
      "input_shape": list(self.values.shape[1:]),
      "num_classes": self.num_classes,
      "devices": devices.describe(),
      "made_by": identity.made_by(),
    }

  def _seconds(self, choice: tuning.Choice) -> float:
    """Seconds of a step of one model on a device; infinite where memory is too small."""
    width, backend = choice
    speed = Speed(vmap_width=width, chunk=width, conv_backend=backend)
    classes, network = self.num_classes, self._network
    few = self.values[:_TIMED_EXAMPLES]  # How many there are changes no step's time.
    trial = Fleet(self._config, few, classes, speed, network=network)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      try:
        return trial.seconds_per_step() / width
      except (UserError, jax.errors.JaxRuntimeError):
        return math.inf

  def seconds_per_step(self) -> float:
    """Seconds that a step of a whole chunk takes, measured for a fraction of a second.

    Raises:
      JaxRuntimeError: if the memory does not suffice for all models in parallel.
    """
    self._may_narrow = False
    n, rows = len(self.values), self.rows
    sets = training_sets.from_masks(np.ones((rows, n), bool), np.zeros(n, np.int32))
    keys = prng.keys_for(0, [prng.Seed("bench", i) for i in range(rows)])
    batch, keys = devices.by_row((sets, keys))
    state = self._run(lambda made: made.begin, self._inputs, keys)

    def seconds_of(steps: int) -> float:
      start = time.perf_counter()
      jax.block_until_ready(self._advanced((batch, keys), state, 0, steps))
      return time.perf_counter() - start

    seconds_of(1)  # Compiles.
    steps, seconds = 1, seconds_of(1)
    while seconds < _TIMED_SECONDS:
      steps *= 2
      seconds = seconds_of(steps)
    return seconds / steps

  @functools.cached_property
  def recipe(self) -> Recipe:
    """How each model is trained, as functions of arrays."""
    backend = self.choice.conv_backend
    return self._lax_recipe if backend == "lax" else self._made(backend)

  @functools.cached_property
  def _width(self) -> int:
    """Models that a device trains in parallel; it becomes less where memory is short."""
    return self.choice.vmap_width

  def identity(self) -> dict[str, Any]:
    """What trained models depend on beside their sets and keys, as JSON values."""
    network = self._lax_recipe.network.identity
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
    width, backend = self.choice
    return {"conv_backend": backend, "vmap_width": str(width)}

  @functools.cached_property
  def _values_digest(self) -> str:
    """Of the training inputs."""
    return identity.digest(self.values)

  @functools.cached_property
  def rows(self) -> int:
    """Models a chunk."""
    least = max(_CHUNK[self._lax_recipe.network.convolves], self.choice.vmap_width)
    return (self._speed.chunk or least) * devices.count()

  @functools.cached_property
  def _inputs(self) -> Inputs:
    """The training inputs, on every device."""
    inputs: Inputs = devices.everywhere(Inputs.of(self.values))
    return inputs

  @functools.cached_property
  def programs(self) -> Programs:
    """What is compiled to run a chunk."""
    return self._compiled()

  def _compiled(self) -> Programs:
    """The programs that run a chunk, `self._width` models of a device side by side."""
    recipe, dim, width = self.recipe, self._gradient_dim, self._width

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
      return output_gradients.per_example(
        recipe, variables, values, labels, key, dim=dim, models=width
      )

    def class_gradients_row(values: Array, row: Any) -> Array:
      variables, key = row
      return output_gradients.per_class(
        recipe, variables, values, key, dim=dim, models=width
      )

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
        program = program_of(self.programs)
        outputs = program(shared, rows)
        if program not in self._proven:  # Later calls need no more than the first.
          jax.block_until_ready(outputs)
          self._proven.add(program)
        return outputs
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or not self._may_narrow:
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
        self.programs, self._proven = self._compiled(), set()

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
    return next(self.train_through(sets, keys, [until]))

  def train_through(
    self,
    sets: training_sets.TrainingSets,
    keys: Array,
    moments: Sequence[float],
  ) -> Iterator[Variables]:
    """Trains as `train_chunk` does, and stops on the way.

    Args:
      sets: training sets of at most `rows` models.
      keys: theirs; more may be given, so that their number need not change.
      moments: shares of training, ascending.

    Yields:
      At each of them, what `train_chunk` would return.
    """
    fill = self.rows - len(sets.counts)
    rows = np.concatenate([np.arange(len(sets.counts)), np.zeros(fill, int)])
    batch, keys = devices.by_row((sets.rows(rows), keys[rows]))
    state = self._run(lambda made: made.begin, self._inputs, keys)
    num_steps, first = self._lax_recipe.num_steps(sets.counts).max(), 0
    advance = functools.partial(self._advanced, (batch, keys))
    for until in moments:
      last = math.floor(share_of(until, num_steps))
      if self._progress:
        name = self._name(sets, keys, until)
        state = self._progress.run(name, state, first, last, advance)
      else:
        state = advance(state, first, last)
      yield self._run(lambda made: made.variables, self._inputs, (state, batch))
      first = last

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
