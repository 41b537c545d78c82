"""Solves T weighted lassos that share one design, with a certificate for each.

Objective per target, as in scikit-learn's `Lasso(alpha=lam)` when v = 1:

  ||y_t - X w_t - b_t||^2 / (2 m)  +  lam_t * sum_n v[t, n] |w[t, n]|

The intercept is free, so the problem is solved on centred columns through the
Gram matrix: with n examples a step for all targets is one [t, n] x [n, n]
product, whatever the number of models m.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm import Array

_EXACT = lax.Precision.HIGHEST
_CHECK_EVERY_STEPS = 10
_POWER_STEPS = 50


class Moments(NamedTuple):
  """What the lasso needs to know of a design and its outcomes.

  Attributes:
    gram_nn: float32, centred X'X / m.
    corr_tn: float32, centred y'X / m, in logits.
    power_t: float32, variance of each outcome (biased), in logits squared.
    mean_n: float32, column means of X.
    mean_t: float32, means of the outcomes, in logits.
  """

  gram_nn: Array
  corr_tn: Array
  power_t: Array
  mean_n: Array
  mean_t: Array


class LassoFit(NamedTuple):
  """Solutions of T lassos, in the basis of the design as it was given.

  Attributes:
    weights_tn: float32; adding w to a prediction is what example n's presence does.
    intercepts_t: float32, in logits.
    gap_t: float32, duality gap divided by the null objective var(y) / 2; an upper
      bound on how far the objective is from its optimum.
    steps: int32 scalar, proximal-gradient steps taken.
    converged_t: bool, whether gap_t reached the tolerance.
  """

  weights_tn: Array
  intercepts_t: Array
  gap_t: Array
  steps: Array
  converged_t: Array


@jax.jit
def moments(design_mn: Array, outcomes_mt: Array) -> Moments:
  """Sufficient statistics of a shared design.

  Args:
    design_mn: bool or real[m, n]. For 0/1 masks the Gram matrix is exact in
      float32 up to 2^24 models; it is centred only afterwards.
    outcomes_mt: float[m, t], finite.

  Returns:
    Moments in float32.
  """
  m = design_mn.shape[0]
  x = design_mn.astype(jnp.float32)
  mean_n, mean_t = x.mean(axis=0), outcomes_mt.mean(axis=0)
  y = (outcomes_mt - mean_t).astype(jnp.float32)
  gram = jnp.einsum("mi,mj->ij", x, x, precision=_EXACT) / m
  corr = jnp.einsum("mt,mn->tn", y, x, precision=_EXACT) / m
  return Moments(
    gram - jnp.outer(mean_n, mean_n), corr, jnp.mean(y**2, axis=0), mean_n, mean_t
  )


def lambda_max(corr_tn: Array, penalty_factors_tn: Array) -> Array:
  """Smallest penalty at which every weight of a target is zero, as float[t]."""
  return jnp.max(jnp.abs(corr_tn) / penalty_factors_tn, axis=1)


def relative_gap(
  stats: Moments, weights_tn: Array, lam_t: Array, penalty_factors_tn: Array
) -> Array:
  """Duality gap of each target, divided by the objective at w = 0.

  The dual point is the residual, scaled into the feasible set (Kim, Koh, Lustig,
  Boyd and Gorinevsky, 'An interior-point method for large-scale l1-regularized
  least squares', 2007, section III).

  Args:
    stats: of the design and outcomes.
    weights_tn: the solutions to judge.
    lam_t: penalties >= 0.
    penalty_factors_tn: v > 0.

  Returns:
    float32[t] >= 0 up to rounding; 0 for a constant outcome with zero weights.
  """
  fit_tn = jnp.einsum("ti,ij->tj", weights_tn, stats.gram_nn, precision=_EXACT)
  explained = jnp.sum(stats.corr_tn * weights_tn, axis=1)
  residual = stats.power_t - 2 * explained + jnp.sum(fit_tn * weights_tn, axis=1)
  residual = jnp.maximum(residual, 0.0)
  alignment = stats.power_t - explained
  penalty = lam_t * jnp.sum(penalty_factors_tn * jnp.abs(weights_tn), axis=1)
  slope = jnp.max(jnp.abs(stats.corr_tn - fit_tn) / penalty_factors_tn, axis=1)
  tiny = jnp.finfo(jnp.float32).tiny
  scale = jnp.minimum(
    alignment / jnp.maximum(residual, tiny), lam_t / jnp.maximum(slope, tiny)
  )
  dual = scale * alignment - scale**2 * residual / 2
  gap = residual / 2 + penalty - dual
  return jnp.where(stats.power_t > 0, gap / jnp.maximum(stats.power_t / 2, tiny), 0.0)


def _largest_eigenvalue(gram_nn: Array) -> Array:
  """An upper estimate of the Gram's largest eigenvalue, by power iteration."""
  start = jnp.abs(gram_nn).sum(axis=1)

  def step(_: int, vector: Array) -> Array:
    vector = gram_nn @ vector
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)

  vector = lax.fori_loop(0, _POWER_STEPS, step, start)
  # Power iteration approaches from below; the margin keeps 1/L a safe step, and
  # the row-sum bound keeps the margin from mattering for tiny designs.
  return jnp.minimum(1.05 * jnp.linalg.norm(gram_nn @ vector), start.max()) + 1e-12


class _State(NamedTuple):
  """Accelerated proximal gradient on every target at once."""

  weights_tn: Array
  ahead_tn: Array
  momentum_t: Array
  gap_t: Array
  steps: Array


def solve(
  stats: Moments,
  lam_t: Array,
  penalty_factors_tn: Array,
  start_tn: Array,
  *,
  tol: float,
  max_steps: int,
) -> tuple[Array, Array, Array]:
  """FISTA with adaptive restart, for all targets in one matrix product a step.

  Beck and Teboulle (2009), with the gradient restart of O'Donoghue and Candes
  (2015) taken per target. Traceable.

  Args:
    stats: of the design and outcomes.
    lam_t: penalties >= 0.
    penalty_factors_tn: v > 0.
    start_tn: where to start.
    tol: relative duality gap at which a target is finished.
    max_steps: limit.

  Returns:
    weights_tn, gap_t and the number of steps.
  """
  step_size = 1 / _largest_eigenvalue(stats.gram_nn)
  threshold_tn = step_size * lam_t[:, None] * penalty_factors_tn

  def prox_step(_: int, state: _State) -> _State:
    ahead = state.ahead_tn
    grad = jnp.einsum("ti,ij->tj", ahead, stats.gram_nn, precision=_EXACT)
    moved = ahead - step_size * (grad - stats.corr_tn)
    new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold_tn, 0.0)
    uphill = jnp.sum((ahead - new) * (new - state.weights_tn), axis=1) > 0
    old_momentum = jnp.where(uphill, 1.0, state.momentum_t)
    momentum = (1 + jnp.sqrt(1 + 4 * old_momentum**2)) / 2
    push = jnp.where(uphill, 0.0, (old_momentum - 1) / momentum)
    ahead = new + push[:, None] * (new - state.weights_tn)
    return _State(new, ahead, momentum, state.gap_t, state.steps + 1)

  def block(state: _State) -> _State:
    state = lax.fori_loop(0, _CHECK_EVERY_STEPS, prox_step, state)
    gap = relative_gap(stats, state.weights_tn, lam_t, penalty_factors_tn)
    return state._replace(gap_t=gap)

  def unfinished(state: _State) -> Array:
    return jnp.any(state.gap_t > tol) & (state.steps < max_steps)

  gap = relative_gap(stats, start_tn, lam_t, penalty_factors_tn)
  start = _State(start_tn, start_tn, jnp.ones_like(lam_t), gap, jnp.int32(0))
  end = lax.while_loop(unfinished, block, start)
  return end.weights_tn, end.gap_t, end.steps


_solve = jax.jit(solve, static_argnames=("tol", "max_steps"))


def check_penalty_factors(penalty_factors_tn: Array, shape: tuple[int, int]) -> None:
  """Raises ValueError unless the factors are positive, finite and of that shape."""
  if penalty_factors_tn.shape != shape:
    raise ValueError(
      f"penalty_factors must have shape [t, n] = {shape}, got {penalty_factors_tn.shape}"
    )
  if not bool(jnp.all((penalty_factors_tn > 0) & jnp.isfinite(penalty_factors_tn))):
    raise ValueError("penalty_factors must be positive and finite")


def fit_lasso(
  design_mn: Array,
  outcomes_mt: Array,
  lam: float | Array,
  *,
  penalty_factors_tn: Array | None = None,
  tol: float = 1e-4,
  max_steps: int = 20_000,
) -> LassoFit:
  """Fits one lasso per outcome, all on the same design.

  Args:
    design_mn: bool or real[m, n], such as training masks.
    outcomes_mt: float[m, t], such as margins in logits; finite.
    lam: penalty >= 0, a scalar or float[t], in logits.
    penalty_factors_tn: v > 0; None means 1.
    tol: relative duality gap to reach.
    max_steps: proximal-gradient steps at most.

  Returns:
    LassoFit.

  Raises:
    ValueError: on shapes that do not match, non-finite outcomes, bad penalties.
  """
  design_mn, outcomes_mt = jnp.asarray(design_mn), jnp.asarray(outcomes_mt)
  if design_mn.ndim != 2 or outcomes_mt.ndim != 2:
    raise ValueError(
      "design and outcomes must be matrices, got shapes "
      f"{design_mn.shape} and {outcomes_mt.shape}"
    )
  (m, n), (rows, t) = design_mn.shape, outcomes_mt.shape
  if m != rows:
    raise ValueError(f"design has {m} rows but outcomes have {rows}")
  if not bool(jnp.isfinite(outcomes_mt).all()):
    raise ValueError("outcomes must be finite")
  lam_t = jnp.broadcast_to(jnp.asarray(lam, jnp.float32), (t,))
  if not bool(jnp.all(lam_t >= 0)):
    raise ValueError(f"lam must be >= 0, got {lam}")
  factors = jnp.ones((t, n)) if penalty_factors_tn is None else penalty_factors_tn
  factors = jnp.asarray(factors, jnp.float32)
  check_penalty_factors(factors, (t, n))
  stats = moments(design_mn, outcomes_mt)
  start = jnp.zeros((t, n), jnp.float32)
  weights, gap, steps = _solve(stats, lam_t, factors, start, tol=tol, max_steps=max_steps)
  intercepts = stats.mean_t - weights @ stats.mean_n
  return LassoFit(weights, intercepts, gap, steps, gap <= tol)
