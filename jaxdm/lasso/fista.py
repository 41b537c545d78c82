"""Accelerated proximal gradient for many lassos at once, with a certificate for each.

Outcomes are centred and of variance 1, so that every target's objective is

  (1 - 2 w.c + w.Gw) / 2  +  lam * sum_n v[n] |w[n]|

with c its correlations and G the centred Gram matrix, and 1/2 at w = 0.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm import devices
from jaxdm.lasso import design, stopping
from jaxdm.typing import Array

# Liang, Luo and Schoenlieb, 'Improving FISTA: faster, smarter and greedier' (2022),
# section 4.3: steps longer than 1 / L, shrunk where iterates move further than at first.
_LONG_STEP = 1.3
_SHRINK = 0.96
_BLOCK_STEPS = 50
_LEAST_BUCKET = 128
# Larger penalties may be infinite in float32, and infinity times a weight of 0 is NaN. At
# this penalty all weights of a problem of variance 1 are 0.
LARGEST_PENALTY = 1e30
# The scale of a dual point is 1 at the optimum. Larger ones than this multiply the
# rounding of a residual that unpenalised columns explain.
_MOST_SCALE = 2.0


class Problem(NamedTuple):
  """What defines each target's lasso, besides the design.

  Attributes:
    corr_tn: correlations of outcomes of variance 1 with the design's columns.
    lam_t: penalties > 0.
    factors_tn: v >= 0; [t, 1] where a target's are all equal.
    free_tz: int32, columns that v = 0 leaves unpenalised, then padding (n).
    free_basis_tzr: makes an orthonormal basis, of mean square 1, of those columns.
    free_corr_trn: correlations of that basis with all columns; 0 for padding.
  """

  corr_tn: Array
  lam_t: Array
  factors_tn: Array
  free_tz: Array
  free_basis_tzr: Array
  free_corr_trn: Array


class State(NamedTuple):
  """Each target's iterate w and the one before, and both times the Gram.

  Attributes:
    w_tn: the solution so far.
    gw_tn: w_tn G.
    old_tn: the iterate before.
    gold_tn: old_tn G.
    push_t: how far beyond w the next gradient is taken, in moves from old to w.
    step_t: length of the next step.
    first_t: squared length of the first move.
    steps_t: int32, taken.
    gap_t: duality gap of w_tn over the objective at 0; infinite before the first check.
  """

  w_tn: Array
  gw_tn: Array
  old_tn: Array
  gold_tn: Array
  push_t: Array
  step_t: Array
  first_t: Array
  steps_t: Array
  gap_t: Array


class SharedInputs(NamedTuple):
  """What all targets have in common.

  Attributes:
    design: X.
    lipschitz: float, an upper estimate of the Gram's largest eigenvalue.
    tol: gap at which a target is finished.
    limit: int32, steps after which it is given up.
    fresh: bool, whether states come from other penalties and only their w counts.
  """

  design: design.Design
  lipschitz: Array
  tol: Array
  limit: Array
  fresh: Array


def round_to_float32(problem: Problem) -> Problem:
  """The problem in float32, its penalties at most what float32 can multiply."""
  problem = problem._replace(
    lam_t=np.minimum(problem.lam_t, LARGEST_PENALTY),
    factors_tn=np.minimum(problem.factors_tn, LARGEST_PENALTY),
  )
  parts = (x if x.dtype == np.int32 else np.asarray(x, np.float32) for x in problem)
  return Problem(*parts)


def _begin(_: None, start: tuple[Array, Array]) -> State:
  """A state of which only w_tn and its product with the Gram count."""
  w_tn, gw_tn = start
  none_t = jnp.zeros(len(w_tn), w_tn.dtype)
  return State(
    w_tn=w_tn,
    gw_tn=gw_tn,
    old_tn=w_tn,
    gold_tn=gw_tn,
    push_t=none_t,
    step_t=none_t,
    first_t=none_t,
    steps_t=jnp.zeros(len(w_tn), jnp.int32),
    gap_t=none_t,
  )


def in_free_basis(problem: Problem, slope_tn: Array) -> Array:
  """Coefficients of vectors in the basis of the unpenalised columns, as [t, r].

  Args:
    problem: the lassos.
    slope_tn: the vectors' correlations with all columns.
  """
  slope_tz = jnp.take_along_axis(slope_tn, problem.free_tz, 1, mode="fill", fill_value=0)
  basis_tzr = problem.free_basis_tzr
  return jnp.einsum("tz,tzr->tr", slope_tz, basis_tzr, precision=design.EXACT)


def without_free(problem: Problem, slope_tn: Array) -> Array:
  """Correlations, as [t, n], of what the unpenalised columns leave of some vectors.

  Args:
    problem: the lassos.
    slope_tn: the vectors' correlations with all columns.
  """
  coefficients_tr = in_free_basis(problem, slope_tn)
  parts = coefficients_tr, problem.free_corr_trn
  return slope_tn - jnp.einsum("tr,trn->tn", *parts, precision=design.EXACT)


def steepest(problem: Problem, slope_tn: Array) -> jax.Array:
  """The largest |slope| / v among penalised columns, as float[t]."""
  v = problem.factors_tn
  return jnp.max(jnp.where(v > 0, jnp.abs(slope_tn) / jnp.where(v > 0, v, 1), 0), axis=1)


def gap(
  problem: Problem, w_tn: Array, slope_tn: Array, aligned_t: Array, residual_t: Array
) -> Array:
  """Duality gap of each target, divided by its objective at w = 0.

  The dual point is the residual, made orthogonal to unpenalised columns, times the
  number for which the dual objective is largest among those for which the point is
  feasible (Kim, Koh, Lustig, Boyd and Gorinevsky, 'An interior-point method for
  large-scale l1-regularized least squares', 2007, section III) and at most 2. That number
  may have either sign, and is bounded on both sides.

  Args:
    problem: the lassos.
    w_tn: the solutions to judge.
    slope_tn: the residual's correlations with the columns.
    aligned_t: mean product of residual and outcome.
    residual_t: mean square of the residual.

  Returns:
    float[t]: at least how far the objective is from its optimum, up to rounding; not
    finite where the arguments are not.
  """
  residual_tr = in_free_basis(problem, slope_tn)
  outcome_tr = in_free_basis(problem, problem.corr_tn)
  dual_residual_t = jnp.maximum(residual_t - jnp.sum(residual_tr**2, axis=1), 0)
  dual_aligned_t = aligned_t - jnp.sum(residual_tr * outcome_tr, axis=1)
  tiny = jnp.finfo(w_tn.dtype).tiny
  slope_t = steepest(problem, without_free(problem, slope_tn))
  most_t = jnp.minimum(problem.lam_t / jnp.maximum(slope_t, tiny), _MOST_SCALE)
  best_t = dual_aligned_t / jnp.maximum(dual_residual_t, tiny)
  scale_t = jnp.clip(best_t, -most_t, most_t)
  penalty_t = problem.lam_t * jnp.sum(problem.factors_tn * jnp.abs(w_tn), axis=1)
  dual_t = 2 * scale_t * dual_aligned_t - scale_t**2 * dual_residual_t
  return residual_t + 2 * penalty_t - dual_t


def _gap_at(problem: Problem, w_tn: Array, gw_tn: Array) -> Array:
  """`gap` through the Gram."""
  explained_t = jnp.sum(problem.corr_tn * w_tn, axis=1)
  residual_t = 1 - 2 * explained_t + jnp.sum(gw_tn * w_tn, axis=1)
  residual_t = jnp.maximum(residual_t, 0)
  return gap(problem, w_tn, problem.corr_tn - gw_tn, 1 - explained_t, residual_t)


def _advance(shared: SharedInputs, rows: tuple[Problem, State]) -> State:
  """Up to `_BLOCK_STEPS` steps for every unfinished target; finished ones stay put."""
  problem, start = rows
  lam_tn = problem.lam_t[:, None] * problem.factors_tn

  def unfinished(state: State) -> Array:
    limits = shared.tol, shared.limit
    return stopping.is_unfinished(state.gap_t, state.steps_t, *limits)

  def body(carry: Any) -> Any:
    done, state = carry
    is_active = unfinished(state)
    push, size = state.push_t[:, None], state.step_t[:, None]
    w, old = state.w_tn, state.old_tn
    ahead = w + push * (w - old)
    gahead = state.gw_tn + push * (state.gw_tn - state.gold_tn)
    step = ahead - size * (gahead - problem.corr_tn)
    proximal = jnp.sign(step) * jnp.maximum(jnp.abs(step) - size * lam_tn, 0)
    new = jnp.where(is_active[:, None], proximal, w)
    gnew = design.times_gram(shared.design, new)
    uphill = jnp.sum((ahead - new) * (new - w), axis=1) > 0
    length = jnp.sum((new - w) ** 2, axis=1)
    first = jnp.where(state.steps_t == 0, length, state.first_t)
    shorter = jnp.maximum(_SHRINK * state.step_t, 1 / shared.lipschitz)
    return done + 1, State(
      w_tn=new,
      gw_tn=gnew,
      old_tn=w,
      gold_tn=state.gw_tn,
      push_t=jnp.where(uphill, 0, 1).astype(w.dtype),
      step_t=jnp.where(length > first, shorter, state.step_t),
      first_t=first,
      steps_t=state.steps_t + is_active,
      gap_t=jnp.where(is_active, _gap_at(problem, new, gnew), state.gap_t),
    )

  def more(carry: Any) -> jax.Array:
    done, state = carry
    return (done < _BLOCK_STEPS) & unfinished(state).any()

  start = start._replace(
    push_t=jnp.where(shared.fresh, 0, start.push_t),
    step_t=jnp.where(shared.fresh, _LONG_STEP / shared.lipschitz, start.step_t),
    steps_t=jnp.where(shared.fresh, 0, start.steps_t),
    gap_t=_gap_at(problem, start.w_tn, start.gw_tn),
  )
  return lax.while_loop(more, body, (jnp.int32(0), start))[1]


@functools.cache
def _compile(lanes: int) -> tuple[Any, Any, Any]:
  """`_begin`, `_advance` and `design.times_gram` on every device that is used."""
  spread = functools.partial(devices.shard_map, lanes=lanes)
  return spread(_begin), spread(_advance), spread(design.times_gram)


def begin(w_tn: Array, gw_tn: Array, lanes: int) -> State:
  """A state at w_tn, whose product with the Gram is known; both spread over devices."""
  state: State = _compile(lanes)[0](None, (w_tn, gw_tn))
  return state


def times_gram(matrix: design.Design, w_tn: Array, lanes: int) -> Array:
  """w_tn times the Gram; both spread over devices."""
  product_tn: Array = _compile(lanes)[2](matrix, w_tn)
  return product_tn


def solve(shared: SharedInputs, problem: Problem, state: State, lanes: int) -> State:
  """Steps until every target is finished or given up.

  Once half of the targets are finished, only the others are carried on with.

  Args:
    shared: the design and when to stop; on every device.
    problem: the lassos, a multiple of `lanes` of them, spread over devices.
    state: what `begin` made, or `solve` for other penalties.
    lanes: of `solver_plan.Plan`.

  Returns:
    Where they end.
  """
  _, advance, _ = _compile(lanes)
  rows, part, all_states = None, problem, state
  while True:
    state = advance(shared, (part, state))
    shared = shared._replace(fresh=np.asarray(False))
    gap_t, steps_t = np.asarray(state.gap_t), np.asarray(state.steps_t)
    limits = np.asarray(shared.tol), np.asarray(shared.limit)
    unfinished = np.flatnonzero(stopping.is_unfinished(gap_t, steps_t, *limits))
    size = _bucket_size(len(unfinished), len(gap_t), lanes)
    if unfinished.size and size == len(gap_t):
      continue
    # One program of all devices at a time: see `devices.row`.
    all_states = (
      state if rows is None else jax.block_until_ready(_put(all_states, rows, state))
    )
    if not unfinished.size:
      return all_states
    places = np.concatenate(
      [unfinished, np.repeat(unfinished[:1], size - len(unfinished))]
    )
    next_ones = jax.block_until_ready(_take((state, part), places))
    state, part = devices.shard_rows(next_ones, lanes)
    rows = places if rows is None else rows[places]


def _bucket_size(unfinished: int, size: int, lanes: int) -> int:
  """The size, halved as often as the unfinished targets fit and lanes stay equal."""
  while max(unfinished, _LEAST_BUCKET) <= size // 2 and size % (2 * lanes) == 0:
    size //= 2
  return size


@jax.jit
def _take(tree: Any, rows: Array) -> Any:
  """Some targets of every array."""
  return jax.tree.map(lambda x: x[rows], tree)


@jax.jit
def _put(all_rows: Any, rows: Array, part: Any) -> Any:
  """Every array with some targets replaced."""
  return jax.tree.map(lambda x, y: x.at[rows].set(y), all_rows, part)
