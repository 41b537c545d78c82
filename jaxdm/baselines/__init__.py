"""Other ways of choosing training examples; each comes to scores[t, n].

A score says how much an example supports a target: the highest goes first.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm import Array, numerics, prng

_TILE_TARGETS = 1024


def random(num_targets: int, num_train: int, *, seed: int) -> np.ndarray:
  """Scores without information, as float32[t, n]."""
  rng = prng.generator_for(seed, "random-scores")
  return rng.random((num_targets, num_train), np.float32)


def by_tile(
  score: Callable[[Array, Array], Array], train_rows: Array, target_rows: Array
) -> np.ndarray:
  """Scores of all targets, of which the device never holds more than a tile.

  Args:
    score: from the rows of all training examples and of some targets to float32[t, n].
    train_rows: what `score` knows of the training examples.
    target_rows: [t, ...], of the targets.

  Returns:
    float32[t, n], on the host.
  """
  starts = range(0, len(target_rows), _TILE_TARGETS)
  return np.concatenate(
    [np.asarray(score(train_rows, target_rows[s : s + _TILE_TARGETS])) for s in starts]
  )


@numerics.pinned()
@jax.jit
def similarity(train_features_nf: Array, target_features_tf: Array) -> Array:
  """Cosine similarity of one model's penultimate features; average it over models.

  Args:
    train_features_nf: float, of the training examples.
    target_features_tf: float, of the targets.

  Returns:
    float32[t, n] in [-1, 1]; 0 for features that are 0.
  """
  rows = _unit(target_features_tf), _unit(train_features_nf).T
  return jnp.dot(*rows, precision="highest")


@numerics.pinned()
@jax.jit
def closeness(train_rows_nf: Array, target_rows_tf: Array) -> Array:
  """Minus the Euclidean distance of features, or of pixels, as float32[t, n].

  Differences are squared, instead of expanding the square: near neighbours keep their
  order.
  """

  def one(target_f: Array) -> Array:
    return -jnp.linalg.norm(jnp.asarray(train_rows_nf) - target_f, axis=-1)

  return lax.map(one, jnp.asarray(target_rows_tf))


def _unit(rows: Array) -> jax.Array:
  """Rows scaled to length one; zero rows stay."""
  return jnp.asarray(rows) / jnp.maximum(
    jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12
  )
