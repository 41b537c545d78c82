"""The networks that can be trained: by name, or any Flax module of one's own."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdm import numerics
from jaxdm.errors import UserError
from jaxdm.training import conv, resnet9
from jaxdm.typing import Array

NAMES = ("resnet9", "mlp", "linear")
Variables = dict[str, Any]
# Arguments that say whether a module is in training, with their values in training and
# outside of it.
_SWITCHES = {
  "train": (True, False),
  "training": (True, False),
  "is_training": (True, False),
  "deterministic": (False, True),
  "use_running_average": (False, True),
}
_COLLECTIONS = {"params", "batch_stats"}


class MLP(nn.Module):
  """One hidden layer with ReLU, on the flattened input.

  Attributes:
    num_classes: k.
    width: hidden units.
    dtype: of activations and products; parameters stay float32.
  """

  num_classes: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Array) -> tuple[Array, Array]:
    """float32[b, k] logits and float32[b, width] features of float[b, ...] inputs."""
    flat = inputs.reshape(len(inputs), -1).astype(self.dtype)
    hidden = nn.relu(nn.Dense(self.width, dtype=self.dtype)(flat))
    logits = nn.Dense(self.num_classes, dtype=self.dtype)(hidden)
    return logits.astype(jnp.float32), hidden.astype(jnp.float32)


class Linear(nn.Module):
  """Multinomial logistic regression on the flattened input, from weights 0.

  Attributes:
    num_classes: k.
    dtype: of products; parameters stay float32.
  """

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Array) -> tuple[Array, Array]:
    """float32[b, k] logits of float[b, ...] inputs, and the inputs, flattened."""
    flat = inputs.reshape(len(inputs), -1)
    head = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros)
    return head(flat.astype(self.dtype)).astype(jnp.float32), flat.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Network:
  """A Flax module with one way to initialise, train and apply it.

  Attributes:
    module: takes float32[b, ...] inputs; returns logits [b, k], or logits and features.
    initialise: makes 'params' and 'batch_stats' from a key and the shape of one input.
    switch: the argument that says whether the module is in training; '' if it has
      none.
    convolves: whether it has convolutions.
    identity: what tells its models from those of another network, as JSON values; None
      for ResNet-9, which the training configuration describes completely.
  """

  module: nn.Module
  initialise: Callable[[Array, tuple[int, ...]], Variables]
  switch: str
  convolves: bool
  identity: Any = None

  def train_outputs(
    self, params: Any, batch_stats: Any, inputs: Array, key: Array
  ) -> tuple[Array, Any]:
    """Logits float32[b, k] of a training batch, and the batch statistics it leaves."""
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, updates = self.module.apply(
      variables,
      inputs,
      **self._training_argument(0),
      mutable=["batch_stats"],
      rngs={"dropout": key},  # type: ignore[dict-item]
    )
    return _pair(outputs)[0], updates.get("batch_stats", {})

  def outputs(self, variables: Variables, inputs: Array) -> tuple[Array, Array]:
    """Logits float32[b, k] and features float32[b, f] under trained variables.

    Modules that return logits alone have these as their features.
    """
    collections = {name: variables[name] for name in _COLLECTIONS}
    return _pair(self.module.apply(collections, inputs, **self._training_argument(1)))

  def operations(self, input_shape: tuple[int, ...], batch_size: int) -> list[Any]:
    """What `outputs` does, as jaxpr equations; of inner functions, what those do.

    Args:
      input_shape: of one input.
      batch_size: number of inputs.
    """
    variables = jax.eval_shape(lambda: self.initialise(jax.random.key(0), input_shape))
    inputs = jax.ShapeDtypeStruct((batch_size, *input_shape), jnp.float32)
    return _equations(jax.make_jaxpr(self.outputs)(variables, inputs).jaxpr)

  def _training_argument(self, place: int) -> dict[str, Any]:
    """The argument that says whether the module is trained (0) or applied (1)."""
    return {self.switch: _SWITCHES[self.switch][place]} if self.switch else {}


def _equations(jaxpr: Any) -> list[Any]:
  """Equations of a jaxpr, those of inner functions in place of their calls."""
  equations = []
  for equation in jaxpr.eqns:
    inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
    equations += [e for part in inner for e in _equations(part)] or [equation]
  return equations


def make(
  network: str | nn.Module,
  *,
  num_classes: int,
  input_shape: tuple[int, ...],
  width: int,
  dtype: str = "float32",
  conv_backend: conv.Backend = "lax",
) -> Network:
  """The network of a name, of a factory, or around somebody's module.

  Args:
    network: 'resnet9', 'mlp' or 'linear'; a Flax linen module; or
      'package.module:factory', which is called with the number of classes and returns a
      module. A module takes float32[b, ...] inputs, normalised, and if it behaves
      otherwise in training an argument `train` (or `training`, `is_training`,
      `deterministic`, `use_running_average`). It returns logits float[b, k], or these
      and its penultimate features float[b, f]. It may have batch statistics and dropout.
    num_classes: k.
    input_shape: of one input, (h, w, c) or (d,).
    width: channels of ResNet-9's first layer, or hidden units of the MLP.
    dtype: 'float32' or 'bfloat16', of the computations of the named ones.
    conv_backend: of ResNet-9's convolutions.

  Raises:
    UserError: on a network that does not exist or does not fit the inputs.
  """
  kind = jnp.dtype(dtype)
  if network == "resnet9":
    if len(input_shape) != 3:
      raise UserError(
        "network",
        "=resnet9 needs images [number, height, width, channels]; for feature "
        "vectors [number, features] it must be mlp, linear or a Flax module",
      )
    net = resnet9.ResNet9(num_classes, width, kind, conv_backend)
    return Network(net, functools.partial(resnet9.initial_variables, net), "train", True)
  if network == "mlp":
    return _check_module(MLP(num_classes, width, kind), "mlp", num_classes, input_shape)
  if network == "linear":
    return _check_module(Linear(num_classes, kind), "linear", num_classes, input_shape)
  module = _load(network, num_classes) if isinstance(network, str) else network
  return _check_module(module, None, num_classes, input_shape)


def _load(path: str, num_classes: int) -> Any:
  """What the factory 'package.module:factory' makes."""
  where, _, name = path.partition(":")
  if not name:
    raise UserError(
      "network", f"must be {', '.join(NAMES)} or package.module:factory, got {path!r}"
    )
  try:
    factory = getattr(importlib.import_module(where), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise UserError("network", f"={path} cannot be imported: {error}") from error
  return factory(num_classes)


@numerics.pinned()
def _check_module(
  module: Any, name: str | None, num_classes: int, input_shape: tuple[int, ...]
) -> Network:
  """A module that was tried on the shape of an input, without computing anything."""
  if not isinstance(module, nn.Module):
    raise UserError(
      "network",
      "must be a name or a flax.linen.Module (flax.nnx.bridge.to_linen makes one "
      f"of an nnx module), got {type(module).__name__}",
    )
  parameters = inspect.signature(type(module).__call__).parameters
  switch = next((name for name in _SWITCHES if name in parameters), "")
  net = Network(module, functools.partial(_initial, module, switch), switch, False)
  key = jax.random.key(0)
  inputs = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
  try:
    variables = jax.eval_shape(lambda k: net.initialise(k, input_shape), key)
    logits, features = jax.eval_shape(net.outputs, variables, inputs)
    train_logits, _ = jax.eval_shape(
      net.train_outputs, variables["params"], variables["batch_stats"], inputs, key
    )
  except UserError:
    raise
  except Exception as error:  # Whatever somebody's module raises.
    raise UserError(
      "network",
      f"={type(module).__name__} cannot be applied to inputs of shape "
      f"{list(inputs.shape)}: {error}",
    ) from error
  for out in (logits, train_logits):
    if out.shape != (2, num_classes):
      raise UserError(
        "network",
        f"={type(module).__name__} must return logits [b, k] with k = "
        f"{num_classes}, got {list(out.shape)} for a batch of 2",
      )
  if features.ndim != 2:
    raise UserError(
      "network",
      f"={type(module).__name__} must return features [b, f], got "
      f"{list(features.shape)} for a batch of 2",
    )
  if not jax.tree.leaves(variables["params"]):
    raise UserError("network", f"={type(module).__name__} has no parameters")
  about = {"name": name} if name else _identity(net, variables, inputs, key)
  convolves = any(leaf.ndim == 4 for leaf in jax.tree.leaves(variables["params"]))
  return dataclasses.replace(net, identity=about, convolves=convolves)


def _identity(net: Network, variables: Any, inputs: Any, key: Array) -> dict[str, str]:
  """A module's text, and a digest of the programs that it compiles to.

  The programs hold every constant and operation, whoever wrote them and wherever; another
  version of JAX or Flax may write them otherwise, and is then another network.
  """
  arguments = variables["params"], variables["batch_stats"], inputs, key
  programs = (
    jax.jit(lambda k: net.initialise(k, inputs.shape[1:])).trace(key),
    jax.jit(net.outputs).trace(variables, inputs),
    jax.jit(net.train_outputs).trace(*arguments),
  )
  hasher = hashlib.blake2b(digest_size=16)
  for program in programs:
    hasher.update(program.lower(lowering_platforms=("cpu",)).as_text().encode())
  # Functions in lists and in partial ones are written with their places in memory.
  text = re.sub(r" at 0x[0-9a-f]+", "", repr(net.module))
  return {"module": text, "program": hasher.hexdigest()}


def _initial(
  module: nn.Module, switch: str, key: Array, input_shape: tuple[int, ...]
) -> Variables:
  """Variables by the module's own initialisers: 'params', and 'batch_stats' if any."""
  options: dict[str, Any] = {switch: _SWITCHES[switch][1]} if switch else {}
  image = jnp.zeros((1, *input_shape), jnp.float32)
  keys: Any = {"params": key, "dropout": key}
  variables = module.init(keys, image, **options)
  if others := set(variables) - _COLLECTIONS:
    raise UserError(
      "network",
      f"={type(module).__name__} has variables in {', '.join(sorted(others))}; "
      "only params and batch_stats are trained and kept",
    )
  return {"params": {}, "batch_stats": {}, **variables}


def _pair(outputs: Any) -> tuple[Array, Array]:
  """Logits and features as float32; logits are the features of what has no others."""
  logits, features = outputs if isinstance(outputs, tuple) else (outputs, outputs)
  return logits.astype(jnp.float32), features.astype(jnp.float32)
