"""Many models at once: those of `train`, mapped and spread over devices."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import linen as nn

from jaxdm import devices, identity, prng, training_sets
from jaxdm.rounding import share_of
from jaxdm.storage import step_checkpoints
from jaxdm.training import conv, programs, tuning
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.config import TrainConfig
from jaxdm.training.inputs import Inputs
from jaxdm.training.networks import Variables
from jaxdm.training.outputs import Outputs
from jaxdm.training.recipe import Recipe
from jaxdm.training.speed import Speed
from jaxdm.training.train import State
from jaxdm.typing import Array

_TIMED_EXAMPLES = 1024
_TIMED_SECONDS = 0.2


class Fleet:
  """Trains many models per call on every local device, by one compiled program.

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
    gradient_dim: int = 4096,
    checkpoints: step_checkpoints.Checkpoints | None = None,
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
      checkpoints: writes models that take long to train; None: nothing is written.
      tuning_folder: where the processes of one job agree on what `auto` chooses; None:
        the user's cache.

    Raises:
      UserError: on a network that does not fit the inputs or the config.
    """
    self._checkpoints, self._tuning_folder = checkpoints, tuning_folder
    self._config, self.values = config, values
    self.num_classes = num_classes
    self._speed, self._network = speed, network
    self._lax_recipe = self._make_recipe("lax")
    self._gradient_dim = gradient_dim

  def _make_recipe(self, backend: conv.Backend) -> Recipe:
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
    return tuning.choose(
      self._speed,
      self._config,
      self._lax_recipe,
      self.values.shape[1:],
      self.num_classes,
      self._seconds,
      self._tuning_folder,
    )

  def _seconds(self, choice: tuning.Choice) -> float:
    """Seconds of a step of one model on a device; see `tuning.Seconds`."""
    width, backend = choice
    speed = Speed(vmap_width=width, chunk=width, conv_backend=backend)
    classes, network = self.num_classes, self._network
    few = self.values[:_TIMED_EXAMPLES]  # How many there are changes no step's time.
    trial = Fleet(self._config, few, classes, speed, network=network)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      return trial.seconds_per_step() / width

  def seconds_per_step(self) -> float:
    """Seconds of a step of all models of a call, measured for a fraction of a second.

    Raises:
      JaxRuntimeError: if the memory does not suffice for all models in parallel.
    """
    self.runner.may_narrow = False
    n, rows = len(self.values), self.rows
    sets = training_sets.from_masks(np.ones((rows, n), bool), np.zeros(n, np.int32))
    keys = prng.keys_for(0, [prng.Stream("bench", i) for i in range(rows)])
    is_wanted = np.ones(rows, bool)
    batch, keys, is_wanted = devices.shard_rows((sets, keys, is_wanted))
    state = self.runner.run(lambda of: of.begin, self._inputs, keys)

    def seconds_of(steps: int) -> float:
      start = time.perf_counter()
      jax.block_until_ready(self._advance((batch, keys, is_wanted), state, 0, steps))
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
    # Only ResNet-9's own convolutions can be computed in another way.
    if backend == "lax" or self._lax_recipe.network.identity is not None:
      return self._lax_recipe
    return self._make_recipe(backend)

  def identity(self) -> dict[str, Any]:
    """What trained models depend on beside their sets and keys, as JSON values."""
    network = self._lax_recipe.network.identity
    features = {"constant_features": "0"} if self.values.ndim == 2 else {}
    return {
      "train": dataclasses.asdict(self._config),
      "train_pixels": self._values_digest,
      "num_classes": self.num_classes,
      "computation": identity.computation(),
      **({} if network is None else {"network": network}),
      **features,
    }

  @property
  def provenance(self) -> dict[str, str]:
    """Settings that change rounding; no part of a model's identity, but noted with it."""
    backend = self.choice.conv_backend
    return {"conv_backend": backend, "vmap_width": str(self.runner.width)}

  @functools.cached_property
  def _values_digest(self) -> str:
    """Of the training inputs."""
    return identity.digest(self.values)

  @functools.cached_property
  def rows(self) -> int:
    """Models per call, on all devices."""
    convolves, width = self._lax_recipe.network.convolves, self.choice.vmap_width
    return self._speed.models_per_call(width, convolves=convolves) * devices.count()

  @functools.cached_property
  def places(self) -> np.ndarray:
    """int[rows], the row of each model of a call in what `train` and others return."""
    return devices.deal(self.rows)

  @functools.cached_property
  def _inputs(self) -> Inputs:
    """The training inputs, on every device."""
    inputs: Inputs = devices.replicate(Inputs.of(self.values))
    return inputs

  @functools.cached_property
  def runner(self) -> programs.Runner:
    """Runs the programs."""
    return programs.Runner(self._compile, self.choice.vmap_width)

  def _compile(self, width: int) -> programs.Programs:
    """The programs, with so many models of a device side by side."""
    return programs.make_programs(self.recipe, width, self._gradient_dim)

  def train_models(
    self,
    calls: Iterable[tuple[training_sets.TrainingSets, Array]],
    values: np.ndarray,
    *,
    predict_training: bool = False,
  ) -> Iterator[Outputs]:
    """Trains models and predicts with them, at most `rows` at a time.

    While a caller works on the outputs of one call the devices train the next, unless
    calls take so long that their outputs must be stored first.

    Args:
      calls: training sets and their keys, at most `rows` models each; read one ahead,
        so that they need not exist all at once.
      values: uint8[t, h, w, c] or float32[t, d], the inputs to predict.
      predict_training: predict all training examples too.

    Yields:
      The outputs of each call, in order.
    """
    inputs = [devices.replicate(values)]
    if predict_training:
      inputs.append(devices.replicate(self.values))
    ahead: Outputs | None = None
    for sets, keys in calls:
      variables = self.train(sets, keys)
      logits = [self.runner.run(lambda of: of.logits, part, variables) for part in inputs]
      for array in logits:
        array.copy_to_host_async()
      if ahead is not None:
        yield ahead
      ahead = Outputs(self.places[: len(sets.counts)], *logits)
      if self._checkpoints and self._checkpoints.has_much_to_store():
        yield ahead
        ahead = None
    if ahead is not None:
      yield ahead

  def train(
    self, sets: training_sets.TrainingSets, keys: Array, *, until: float = 1.0
  ) -> Variables:
    """Trains at most `rows` models; variables stay on the devices, in `places`.

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
    """Trains as `train` does, and stops on the way.

    Args:
      sets: training sets of at most `rows` models.
      keys: theirs; more may be given, so that their number need not change.
      moments: shares of training, ascending.

    Yields:
      At each of them, what `train` would return.
    """
    models = self._models(len(sets.counts))
    rows, is_wanted = models.clip(0), models >= 0
    batch, keys, is_wanted = devices.shard_rows((sets.rows(rows), keys[rows], is_wanted))
    state = self.runner.run(lambda of: of.begin, self._inputs, keys)
    num_steps, first = self._lax_recipe.num_steps(sets.counts).max(), 0
    advance = functools.partial(self._advance, (batch, keys, is_wanted))
    for until in moments:
      last = math.floor(share_of(until, num_steps))
      if self._checkpoints:
        name = self._name(sets, keys, until)
        units = len(sets.counts) / num_steps
        load = self.runner.load(len(sets.counts), self.rows)
        state = self._checkpoints.run(
          name, state, first, last, advance, units_per_step=units, load=load
        )
      else:
        state = advance(state, first, last)
      yield self.runner.run(lambda of: of.variables, self._inputs, (state, batch))
      first = last

  def _advance(self, rows: Any, state: State, first: int, stop: int) -> Any:
    """The models after some steps."""
    shared = self._inputs, (np.int32(first), np.int32(stop))
    return self.runner.run(lambda of: of.advance, shared, (state, *rows))

  def _name(self, sets: training_sets.TrainingSets, keys: Array, until: float) -> str:
    """Names the models of a call by all that they depend on.

    By the software too: half a model by one version and half by another is neither's.
    """
    depends_on = self, identity.made_by(), self.provenance, until, sets, keys
    return identity.digest(depends_on)

  def settle(self) -> None:
    """Removes what was written of finished models, once their outputs are stored."""
    if self._checkpoints:
      self._checkpoints.settle()

  def predict(self, variables: Variables, values: np.ndarray) -> Any:
    """Logits [rows, t, k] and features [rows, t, f] of inputs, on device, in `places`."""
    return self.runner.run(lambda of: of.predict, devices.replicate(values), variables)

  def gradients(
    self, variables: Variables, values: np.ndarray, labels: np.ndarray, keys: Array
  ) -> Any:
    """Log-odds [rows, b] and projected gradients [rows, b, d] of examples, on device.

    Args:
      variables: of `train`.
      values: uint8[b, h, w, c] or float32[b, d].
      labels: int[b].
      keys: of the models; each has its own projection. Rows of no model may be 0.
    """
    examples = devices.replicate((values, np.asarray(labels, np.int32)))
    rows = variables, *self._keys_of_rows(keys)
    return self.runner.run(lambda of: of.gradients, examples, rows)

  def class_gradients(
    self, variables: Variables, values: np.ndarray, keys: Array
  ) -> jax.Array:
    """Projected gradients of every logit, float32[rows, b, k, d], on device.

    The arguments, and so the projections, are those of `gradients`.
    """
    shared = devices.replicate(values)
    rows = variables, *self._keys_of_rows(keys)
    return self.runner.run(lambda of: of.class_gradients, shared, rows)

  def _keys_of_rows(self, keys: Array) -> tuple[Array, Array]:
    """The keys of all rows, and which rows have one of these models, on the devices."""
    models = self._models(len(keys))
    rows: tuple[Array, Array] = devices.shard_rows((keys[models.clip(0)], models >= 0))
    return rows

  def _models(self, count: int) -> np.ndarray:
    """int[rows], the model of each row; -1: the row only fills the call."""
    models = np.full(self.rows, -1)
    models[self.places[:count]] = np.arange(count)
    return models
