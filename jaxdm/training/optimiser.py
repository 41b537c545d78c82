"""The optimiser: SGD with momentum, or Muon for the kernels of most convolutions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxdm.training.config import TrainConfig
from jaxdm.typing import Array


def _kind(path: Any, leaf: Array) -> str:
  """Which rule a parameter follows, where there are two."""
  first_layer = path[0].key == "ConvBlock_0"
  return "muon" if leaf.ndim == 4 and not first_layer else "sgd"


def _as_matrices(kernels: Any) -> Array:
  """Kernels [kh, kw, c, o] as matrices of kh * kw * c by o, with zeros to equal sizes."""
  matrices = [kernel.reshape(-1, kernel.shape[-1]) for kernel in jax.tree.leaves(kernels)]
  rows, columns = (max(m.shape[axis] for m in matrices) for axis in (0, 1))
  return jnp.stack(
    [jnp.pad(m, [(0, rows - len(m)), (0, columns - m.shape[1])]) for m in matrices]
  )


def _as_kernels(matrices: Array, like: Any) -> Any:
  """What `_as_matrices` made matrices of."""
  leaves, treedef = jax.tree.flatten(like)
  kernels = [
    matrix[: leaf.size // leaf.shape[-1], : leaf.shape[-1]].reshape(leaf.shape)
    for matrix, leaf in zip(matrices, leaves, strict=True)
  ]
  return jax.tree.unflatten(treedef, kernels)


def _all_at_once(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """A transformation of matrices, applied to all kernels as one array.

  One by one, Muon's many small products keep an accelerator waiting for launches. The
  zeros that fill a matrix change none of its singular vectors.
  """

  def init(kernels: Any) -> Any:
    return inner.init(_as_matrices(kernels))

  def update(kernels: Any, state: Any, params: Any = None) -> Any:
    matrices, state = inner.update(_as_matrices(kernels), state)
    return _as_kernels(matrices, kernels), state

  return optax.GradientTransformation(init, update)


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
  """From gradients to the direction that the learning rate scales."""
  decay = optax.add_decayed_weights(config.weight_decay)
  sgd = optax.chain(decay, optax.trace(config.momentum))
  if not config.muon_rate:
    return sgd
  # Matrices lie along the first axis.
  matrices = optax.contrib.MuonDimensionNumbers(1, 2)
  by_muon = optax.contrib.scale_by_muon(
    beta=config.momentum, weight_dimension_numbers=matrices
  )
  muon = optax.chain(
    _all_at_once(by_muon),
    decay,
    optax.scale(config.muon_rate / config.peak_learning_rate),
  )
  kinds = functools.partial(jax.tree_util.tree_map_with_path, _kind)
  return optax.partition({"muon": muon, "sgd": sgd}, kinds)
