"""Scores by how similar images, or a model's features of them, are."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm import numerics
from jaxdm.attribution.scores import ScoreRows
from jaxdm.typing import Array

_BLOCK_EXAMPLES = 4096
_EXACT_TERMS = 2**10


def pixel_rows(train_images: np.ndarray, target_images: np.ndarray) -> ScoreRows:
  """Minus the Euclidean distance of inputs, computed for the targets that are indexed.

  Squared distances of images are exact: see `_squared_distances`. So images that are
  equally far get equal scores.

  Args:
    train_images: uint8[n, ...], or float[n, d].
    target_images: uint8[t, ...], or float[t, d], of the same size.
  """
  train_np = train_images.reshape(len(train_images), -1)
  target_tp = target_images.reshape(len(target_images), -1)

  def rows_of(targets: np.ndarray) -> np.ndarray:
    if train_np.dtype != np.uint8:
      return np.asarray(closeness(train_np, target_tp[targets]))
    scores_un = np.empty((len(targets), len(train_np)), np.float32)
    for start in range(0, len(train_np), _BLOCK_EXAMPLES):
      part = slice(start, start + _BLOCK_EXAMPLES)
      scores_un[:, part] = -np.sqrt(
        _squared_distances(target_tp[targets], train_np[part])
      )
    return scores_un

  return ScoreRows((len(target_tp), len(train_np)), rows_of)


def _squared_distances(a_up: np.ndarray, b_np: np.ndarray) -> np.ndarray:
  """|a - b|^2 of rows of uint8, float64[u, n] without rounding.

  |a|^2 + |b|^2 - 2 a.b, where products of pixels less 128 are at most 2^14. A float32
  product of matrices holds the sum of 2^10 of them exactly, in any order.
  """
  total_un = np.zeros((len(a_up), len(b_np)))
  for start in range(0, a_up.shape[1], _EXACT_TERMS):
    part = slice(start, start + _EXACT_TERMS)
    a, b = (x[:, part].astype(np.float32) - 128 for x in (a_up, b_np))
    total_un -= 2 * (a @ b.T)
    for axis, x in enumerate((a, b)):
      total_un += np.expand_dims(np.einsum("ip,ip->i", x, x), 1 - axis)
  return total_un


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
