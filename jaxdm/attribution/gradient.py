"""Attribution by gradients: TracIn, TRAK and influence functions of one model each.

All three start from the gradients phi of the log-odds (`output_gradients`) and the
probabilities p of the correct class; an example's loss has the gradient -(1 - p) phi.
Each gives one row an example, float32[n, d], whose products with the targets' gradients
(`scores`) are the scores. Average those over models.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from jaxdm import numerics
from jaxdm.errors import UserError
from jaxdm.typing import Array

_TINY = jnp.finfo(jnp.float32).tiny


# Of the damping that float32 can solve with. Of 300 gradients in 1,000 dimensions, random
# ones and ones whose spectrum decays, scores have errors of at most 2 % of the largest
# score at 1e-3, 10 % at 1e-4, 100 % at 1e-5, and no values at all at 1e-6. Above 1e30,
# they underflow; the rest of that range is for the scale of the gradients.
LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e10


def check_damping(damping: float) -> None:
  """Raises UserError on a damping that float32 cannot solve with."""
  if not LEAST_DAMPING <= damping <= MOST_DAMPING:
    raise UserError(
      "damping",
      f"must be in [{LEAST_DAMPING:g}, {MOST_DAMPING:g}], got {damping:g}; with less, "
      "rounding errors exceed the scores, and with more, scores underflow",
    )


class Gradients(NamedTuple):
  """What is known of one model.

  Attributes:
    train_nd: float32, gradients of the training examples' log-odds.
    target_td: float32, of the targets'.
    odds_n: float32, the training examples' log-odds.
    gram_nn: None, or float32, the products of the examples' gradients, if train_nd and
      target_td are coordinates as of `in_examples`.
  """

  train_nd: Array
  target_td: Array
  odds_n: Array
  gram_nn: Array | None = None


@numerics.pinned()
@jax.jit
def in_examples(model: Gradients) -> Gradients:
  """The same in coordinates of the examples where these are fewer than the dimensions.

  What scores have in place of an example's gradient is always a sum of factors times the
  examples' gradients, and a score is its product with a target's gradient. Here, the
  factors are the coordinates of an example, at first a unit vector; those of a target are
  its products with all examples. Scores are the same, and the linear systems of all
  methods share the products over dimensions.
  """
  n, d = model.train_nd.shape
  if n >= d or model.gram_nn is not None:
    return model
  gram_nn, target_tn = (
    jnp.dot(rows, model.train_nd.T, precision="highest")
    for rows in (model.train_nd, model.target_td)
  )
  return Gradients(jnp.eye(n, dtype=gram_nn.dtype), target_tn, model.odds_n, gram_nn)


@numerics.pinned()
@jax.jit
def scores(rows_nd: Array, target_td: Array) -> Array:
  """What examples with these rows have to do with targets, as float32[t, n]."""
  return jnp.dot(target_td, rows_nd.T, precision="highest")


@numerics.pinned()
@jax.jit
def root_mean_square(rows_nd: Array, target_td: Array) -> jax.Array:
  """Of all `scores`; at least the smallest positive float32."""
  n, d = rows_nd.shape
  # Scaled, since rows of very sure models are tiny.
  sizes = [jnp.maximum(jnp.abs(x).max(), _TINY) for x in (rows_nd, target_td)]
  rows_nd, target_td = (
    x / size for x, size in zip((rows_nd, target_td), sizes, strict=True)
  )
  if n <= d:
    total = (scores(rows_nd, target_td) ** 2).sum()
  else:  # |T R'|^2 = tr(T'T R'R), without the scores themselves.
    grams = [jnp.dot(x.T, x, precision="highest") for x in (rows_nd, target_td)]
    total = jnp.maximum((grams[0] * grams[1]).sum(), 0.0)
  mean = total / (jnp.float32(n) * len(target_td))
  return jnp.maximum(jnp.sqrt(mean) * sizes[0] * sizes[1], _TINY)


@numerics.pinned()
@jax.jit
def tracin(model: Gradients) -> Array:
  """What one unit of gradient descent on an example adds to a target's log-odds.

  Pruthi et al., 'Estimating Training Data Influence by Tracing Gradient Descent'
  (arXiv:2002.08484); sum it over checkpoints, times their learning rates.
  """
  wrong_n = jax.nn.sigmoid(-model.odds_n)
  return model.train_nd * wrong_n[:, None]


@numerics.pinned()
@jax.jit
def trak(model: Gradients, damping: Array | float) -> Array:
  """TRAK without its factor 1 - p: (Phi' Phi + c I)^-1 phi_n.

  Equation 15 of Park et al. (arXiv:2303.14186) averages these and 1 - p over models
  and then multiplies them.

  Args:
    model: the model.
    damping: c in units of the examples' mean squared gradient. The paper has none,
      which needs more examples than dimensions.
  """
  return solve(model, jnp.ones_like(model.odds_n), model.train_nd, damping).T


@numerics.pinned()
@jax.jit
def influence(model: Gradients, damping: Array | float) -> Array:
  """What leaving an example out takes from a target's log-odds, to first order.

  Koh and Liang, 'Understanding Black-box Predictions via Influence Functions'
  (arXiv:1703.04730), with the Gauss-Newton matrix of the examples' binary problems,
  label or not, as the Hessian H = Phi' diag(p (1 - p)) Phi:
  (H + c I)^-1 (1 - p_n) phi_n. The scores are in logits.

  Args:
    model: the model.
    damping: c in units of the mean over examples of p (1 - p) |phi|^2.
  """
  solution = solve(model, newton_weights(model), model.train_nd, damping)
  return (solution * jax.nn.sigmoid(-model.odds_n)).T


@numerics.pinned()
@jax.jit
def newton_targets(model: Gradients, damping: Array | float) -> Array:
  """The targets' rows in place of the inverse Hessian, float32[t, d].

  Their products (`scores`) with any rows of examples, (H + c I)^-1 being symmetric, are
  those of the targets with `solve` of these rows: with the rows of `tracin`, they are
  influence functions. For few targets and many rows, this solves fewer systems.

  Args:
    model: the model.
    damping: as for `influence`.
  """
  return _solve_targets(model, newton_weights(model), damping).T


def newton_weights(model: Gradients) -> jax.Array:
  """sqrt(p (1 - p)) of the examples, float32[n]: the squares weight the Hessian."""
  return jnp.sqrt(jax.nn.sigmoid(model.odds_n) * jax.nn.sigmoid(-model.odds_n))


def solve(
  model: Gradients, weights_n: Array, left_cd: Array, damping: Array | float
) -> jax.Array:
  """(R'R + damping * mean |row|^2 I)^-1 left', as [d, c], of the rows R = w phi.

  With more dimensions than rows, by the identity of Woodbury, (R'R + c I)^-1 =
  (I - R' (R R' + c I)^-1 R) / c, so that the system has the smaller of both sizes.

  Args:
    model: has the gradients phi.
    weights_n: w of each example.
    left_cd: gradients, or sums over examples if those of the model are.
    damping: c, see above.
  """
  n, d = model.train_nd.shape
  rows_nd, left_dc = model.train_nd * weights_n[:, None], jnp.asarray(left_cd).T
  if model.gram_nn is None and n >= d:
    gram_dd = jnp.dot(rows_nd.T, rows_nd, precision="highest")
    return _solve_damped(gram_dd, left_dc, n, damping)
  if model.gram_nn is None:
    gram_nn = jnp.dot(rows_nd, rows_nd.T, precision="highest")
    products_nc = jnp.dot(rows_nd, left_dc, precision="highest")
  else:
    weighted_nn = jnp.asarray(weights_n)[:, None] * model.gram_nn
    gram_nn = weighted_nn * weights_n
    products_nc = jnp.dot(weighted_nn, left_dc, precision="highest")
  factors_nc = _solve_damped(gram_nn, products_nc, n, damping)
  projection_dc = jnp.dot(rows_nd.T, factors_nc, precision="highest")
  return (left_dc - projection_dc) / damping / _mean(gram_nn, n)


def _solve_targets(
  model: Gradients, weights_n: Array, damping: Array | float
) -> jax.Array:
  """[d, t], whose products with `left_cd` are those of the targets with `solve`."""
  if model.gram_nn is None:
    return solve(model, weights_n, model.target_td, damping)
  # The transpose of `solve`: of sums over examples, products with all examples.
  n, weights_n1 = len(model.train_nd), jnp.asarray(weights_n)[:, None]
  gram_nn, target_nt = weights_n1 * model.gram_nn * weights_n, model.target_td.T
  factors_nt = _solve_damped(gram_nn, weights_n1 * target_nt, n, damping)
  weighted_nt = weights_n1 * factors_nt
  projection_nt = jnp.dot(model.gram_nn, weighted_nt, precision="highest")
  return jnp.subtract(target_nt, projection_nt) / damping / _mean(gram_nn, n)


def _solve_damped(
  gram: jax.Array, right: jax.Array, n: int, damping: Array | float
) -> jax.Array:
  """(gram + damping * mean I)^-1 right."""
  mean = _mean(gram, n)
  # Scaled so that very sure models, whose p (1 - p) vanish, lose no digits.
  matrix = gram / mean + damping * jnp.eye(len(gram), dtype=gram.dtype)
  factor = jax.scipy.linalg.cho_factor(matrix)
  return jax.scipy.linalg.cho_solve(factor, right / mean)


def _mean(gram: jax.Array, n: int) -> jax.Array:
  """Mean squared norm of the n rows whose products a Gram matrix holds."""
  return jnp.maximum(jnp.trace(gram) / n, _TINY)
