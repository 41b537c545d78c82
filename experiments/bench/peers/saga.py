"""SAGA for many lassos at once, as the literature's GPU solver of datamodels has it.

Proximal SAGA (Defazio, Bach and Lacoste-Julien, 2014) in minibatches over shuffled rows,
every target in the same products, with the step size of Gazagnadou, Gower and Salmon
('Optimal Mini-Batch and Step Sizes for SAGA', 2019). A benchmark's peer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm.typing import Array

_BATCH = 256
_EPOCHS = 2_000
_CHECK_EPOCHS = 4


class State(NamedTuple):
  """w_nt: weights. left_mt: residuals as last seen. mean_nt: the gradient they make."""

  w_nt: jax.Array
  residual_mt: jax.Array
  mean_nt: jax.Array


@functools.partial(jax.jit, donate_argnums=0)
def _epoch(
  state: State, x_mn: jax.Array, y_mt: jax.Array, lam_t: Array, step: Array, order: Array
) -> State:
  """One pass over the rows, `order` being int[batches, b]."""
  m = len(x_mn)

  def batch(state: State, rows: Any) -> tuple[State, None]:
    x = x_mn[rows]
    residual = x @ state.w_nt - y_mt[rows]
    change_nt = x.T @ (residual - state.residual_mt[rows])
    moved = state.w_nt - step * (change_nt / len(rows) + state.mean_nt)
    w_nt = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - step * lam_t, 0)
    residual_mt = state.residual_mt.at[rows].set(residual)
    return State(w_nt, residual_mt, state.mean_nt + change_nt / m), None

  return lax.scan(batch, state, order)[0]


@jax.jit
def _gap(w_nt: Array, x_mn: Array, y_mt: Array, lam_t: Array) -> Array:
  """The largest duality gap, relative to the objective at 0."""
  m = len(x_mn)
  residual = y_mt - x_mn @ w_nt
  square, aligned = (residual**2).sum(axis=0) / m, (residual * y_mt).sum(axis=0) / m
  slope = jnp.abs(x_mn.T @ residual).max(axis=0) / m
  most = lam_t / slope
  scale = jnp.clip(aligned / square, -most, most)
  dual = scale * aligned - scale**2 * square / 2
  primal = square / 2 + lam_t * jnp.abs(w_nt).sum(axis=0)
  return ((primal - dual) / ((y_mt**2).sum(axis=0) / (2 * m))).max()


def path(
  x_mn: np.ndarray, y_mt: np.ndarray, lam_lt: np.ndarray, tol: float, *, keep: int
) -> tuple[np.ndarray, int]:
  """Solutions along a path of penalties, each from the one before.

  Args:
    x_mn: float, centred.
    y_mt: float, centred.
    lam_lt: float, penalties.
    tol: relative gap of the worst target.
    keep: of how many targets the solutions are wanted; all are solved.

  Returns:
    float32[l, at most keep, n], and the epochs taken.
  """
  x, y = jnp.asarray(x_mn, jnp.float32), jnp.asarray(y_mt, jnp.float32)
  m, size = len(x), min(_BATCH, len(x))
  steepest = float((x**2).sum(axis=1).max())
  average = float(jnp.linalg.norm(x, 2) ** 2) / m
  # Expected smoothness of a minibatch without replacement.
  smooth = m * (size - 1) / (size * (m - 1)) * average
  smooth += (m - size) / (size * (m - 1)) * steepest
  step = jnp.float32(1 / (4 * smooth))
  state = State(jnp.zeros((x.shape[1], y.shape[1])), -y, -x.T @ y / m)
  rng, weights, epochs = np.random.default_rng(0), [], 0
  for lam_t in np.asarray(lam_lt, np.float32):
    for epoch in range(_EPOCHS):
      if epoch % _CHECK_EPOCHS == 0 and _gap(state.w_nt, x, y, lam_t) <= tol:
        break
      order = rng.permutation(m)[: m // size * size].reshape(-1, size)
      state = _epoch(state, x, y, lam_t, step, order)
      epochs += 1
    weights.append(np.asarray(state.w_nt[:, :keep]).T)
  return np.stack(weights), epochs
