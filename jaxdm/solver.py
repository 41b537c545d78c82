"""The solver of many lassos on one design: float32 steps, float64 certificates.

Steps are taken in float32; the gap that is reported comes from the residuals in
float64, and targets that float32 did not bring to the tolerance go on in float64.
"""

import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm import Array, design, devices, fista

# What float32 can resolve of a gap relative to the objective at 0.
_ROUNDING = 2e-6
_FLOAT32_STEPS = 2_000


class Status(enum.IntEnum):
  """How a target's fit ended."""

  CONVERGED = 0
  LIMIT = 1
  CONSTANT = 2
  NONFINITE = 3


class LassoFit(NamedTuple):
  """Solutions of T lassos, in the basis of the design as it was given.

  Attributes:
    weights: float[t, n]; what one more in column n adds to a prediction. float32, or
      float64 where the tolerance asks for it.
    intercepts: float[t].
    gap: float64[t], duality gap of these weights over the objective at w = 0, which is
      var(y) / 2: an upper bound on how far they are from the optimum.
    steps: int[t], proximal-gradient steps taken.
    status: int[t] of `Status`. CONSTANT outcomes get zero weights; NONFINITE ones too,
      and an intercept and a gap that are not numbers.
    constant_columns: int[c], columns that cannot be told from the intercept; their
      weights are 0.
  """

  weights: np.ndarray
  intercepts: np.ndarray
  gap: np.ndarray
  steps: np.ndarray
  status: np.ndarray
  constant_columns: np.ndarray


class Tile(NamedTuple):
  """Some targets made ready: outcomes of mean 0 and variance 1, padded by constants.

  Attributes:
    size: targets before the padding.
    outcomes_mt: float64.
    scale_t: float64, standard deviations before.
    mean_t: float64, means before.
    status_t: CONVERGED, CONSTANT or NONFINITE.
    problem: float64, on the host; penalties are still 0.
    rough: the same in float32, on the devices.
  """

  size: int
  outcomes_mt: np.ndarray
  scale_t: np.ndarray
  mean_t: np.ndarray
  status_t: np.ndarray
  problem: fista.Problem
  rough: fista.Problem

  def lambda_max(self) -> np.ndarray:
    """Smallest penalties at which all penalised weights are 0, padding included."""
    with jax.enable_x64(True):
      left_tn, _, _ = fista.without_free(self.problem, jnp.asarray(self.problem.corr_tn))
      return self.scale_t * np.asarray(fista.steepest(self.problem, left_tn))


class Solver:
  """Some rows of a design, prepared once for any number of targets.

  Attributes:
    plan: the design's form, targets a tile, and the memory that takes.
  """

  def __init__(self, design_mn: design.Matrix, rows_m: np.ndarray, plan: design.Plan):
    """Reads nothing yet.

    Args:
      design_mn: bool or real.
      rows_m: int, which of its rows.
      plan: of `design.plan`.
    """
    self._x, self._rows, self.plan = design_mn, rows_m, plan

  @functools.cached_property
  def _columns(self) -> tuple[np.ndarray, np.ndarray]:
    """Means of the columns, and whether each is constant."""
    return design.column_means(self._x, self._rows)

  @property
  def mean_n(self) -> np.ndarray:
    """float64, column means."""
    return self._columns[0]

  @property
  def constant_columns(self) -> np.ndarray:
    """int[c], those that cannot be told from the intercept."""
    return np.flatnonzero(self._columns[1])

  @functools.cached_property
  def _design(self) -> tuple[design.Design, Array]:
    """The design in float32 on every device, and its Lipschitz constant."""
    made = self._made(np.float32)
    # On one device, so that their number changes nothing.
    one = jax.tree.map(lambda x: x.addressable_data(0), made)
    size = self._x.shape[1]
    return made, np.asarray(design.largest_eigenvalue(one, size, np.float32))

  def _made(self, dtype: Any) -> design.Design:
    """The design on every device that is used."""
    form, lanes = self.plan.form, self.plan.lanes
    return design.make(form, self._x, self._rows, self.mean_n, dtype, lanes)

  def tile(self, outcomes_mt: np.ndarray, factors_tn: np.ndarray | None = None) -> Tile:
    """Makes at most `plan.tile` targets ready.

    Args:
      outcomes_mt: real, a row for each of the solver's rows.
      factors_tn: v >= 0; None: 1.
    """
    count = outcomes_mt.shape[1]
    fill = self.plan.tile - count
    outcomes_mt = np.pad(np.asarray(outcomes_mt, np.float64), [(0, 0), (0, fill)])
    if factors_tn is None:
      factors_tn = np.ones((count, 1))
    factors_tn = np.pad(factors_tn.astype(float), [(0, fill), (0, 0)], mode="edge")
    finite_t = np.isfinite(outcomes_mt).all(axis=0)
    outcomes_mt = np.where(finite_t, outcomes_mt, 0.0)
    varies_t = np.ptp(outcomes_mt, axis=0) > 0
    status_t = np.where(varies_t, Status.CONVERGED, Status.CONSTANT)
    mean_t = outcomes_mt.mean(axis=0)
    scale_t = np.where(varies_t, outcomes_mt.std(axis=0), 1.0)
    unit_mt = np.where(varies_t, (outcomes_mt - mean_t) / scale_t, 0.0)
    corr_tn = design.correlations(self._x, self._rows, self.mean_n, unit_mt)
    corr_tn[:, self.constant_columns] = 0.0
    lam_t = np.zeros(len(corr_tn))
    problem = fista.Problem(corr_tn, lam_t, factors_tn, *self._free(factors_tn))
    return Tile(
      count,
      unit_mt,
      scale_t,
      np.where(finite_t, mean_t, np.nan),
      np.where(finite_t, status_t, Status.NONFINITE),
      problem,
      devices.by_row(fista.rounded(problem), self.plan.lanes),
    )

  def _free(self, factors_tn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `fista.Problem` holds of unpenalised columns."""
    t, n = len(factors_tn), self._x.shape[1]
    is_free = np.broadcast_to(factors_tn == 0, (t, n)) & ~self._columns[1]
    width = int(is_free.sum(axis=1).max(initial=0))
    free_tz, gram_tzn = np.full((t, width), n, np.int32), np.zeros((t, width, n))
    inverse_tzz = np.zeros((t, width, width))
    if width:
      used = np.flatnonzero(is_free.any(axis=0))
      parts = [part[:, used] for _, part in design.blocks(self._x, self._rows)]
      centred = np.concatenate(parts) - self.mean_n[used]
      gram_un = design.correlations(self._x, self._rows, self.mean_n, centred)
      for i in range(t):
        mine = np.flatnonzero(is_free[i])
        size = len(mine)
        free_tz[i, :size] = mine
        gram_tzn[i, :size] = gram_un[np.searchsorted(used, mine)]
        among = gram_tzn[i, :size][:, mine]
        inverse_tzz[i, :size, :size] = np.linalg.pinv(among, hermitian=True)
    return free_tz, gram_tzn, inverse_tzz

  def solve(
    self,
    tile: Tile,
    lam_t: np.ndarray,
    start: fista.State | None = None,
    *,
    tol: float,
    limit: int,
  ) -> fista.State:
    """Solutions for outcomes of variance 1, in float32.

    Args:
      tile: the targets.
      lam_t: penalties > 0 for the outcomes as they were given.
      start: what `solve` returned for other penalties.
      tol: relative gap, by float32's own account.
      limit: steps a target.
    """
    (matrix, lipschitz), lanes = self._design, self.plan.lanes
    if start is None:
      zeros = devices.by_row(np.zeros(tile.problem.corr_tn.shape, np.float32), lanes)
      start = fista.begin(zeros, zeros, lanes)
    lam_t = devices.by_row(_scaled(tile, lam_t).astype(np.float32), lanes)
    shared = _shared(matrix, lipschitz, np.float32, tol, limit)
    return fista.solve(shared, tile.rough._replace(lam_t=lam_t), start, lanes)

  def finish(self, tile: Tile, lam_t: np.ndarray, *, tol: float, limit: int) -> LassoFit:
    """Solutions whose gap is certified; in float64 where float32 is not enough.

    Args:
      tile: the targets.
      lam_t: penalties >= 0 for the outcomes as they were given.
      tol: relative gap.
      limit: steps a target, in each precision.
    """
    lam_t = np.pad(lam_t, (0, len(tile.scale_t) - len(lam_t)), constant_values=1)
    dtype = np.float32 if tol >= _ROUNDING else np.float64
    rough = max(tol - _ROUNDING / 2, _ROUNDING / 2)
    # Close to what float32 resolves it may stall.
    most = limit if tol >= 10 * _ROUNDING else min(limit, _FLOAT32_STEPS)
    # Zeros are solved directly below.
    state = self.solve(tile, np.where(lam_t > 0, lam_t, 1e30), tol=rough, limit=most)
    steps_t, w_tn = np.array(state.steps_t), np.array(state.w_tn, np.float64)
    gap_t = self._certify(tile, lam_t, w_tn)
    short_t = (gap_t > tol) & (tile.status_t == Status.CONVERGED)
    again = np.flatnonzero(short_t & (lam_t > 0) & (steps_t < limit))
    if again.size:
      w_tn[again], more = self._in_float64(tile, lam_t, w_tn, again, tol=tol, limit=limit)
      steps_t[again] += more
    direct = np.flatnonzero(short_t & (lam_t == 0))
    if direct.size:
      w_tn[direct] = tile.problem.corr_tn[direct] @ self._inverse
    weights_tn = (w_tn * tile.scale_t[:, None]).astype(dtype)
    weights_tn[:, self.constant_columns] = 0
    gap_t = self._certify(tile, lam_t, weights_tn / tile.scale_t[:, None])
    status_t = np.where(gap_t > tol, Status.LIMIT, tile.status_t)
    used = slice(tile.size)
    return LassoFit(
      weights_tn[used],
      (tile.mean_t - weights_tn @ self.mean_n).astype(dtype)[used],
      np.where(np.isfinite(tile.mean_t), gap_t, np.nan)[used],
      steps_t[used],
      status_t[used],
      self.constant_columns,
    )

  def _in_float64(
    self,
    tile: Tile,
    lam_t: np.ndarray,
    w_tn: np.ndarray,
    rows: np.ndarray,
    *,
    tol: float,
    limit: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Weights and steps of some targets, carried on from w_tn."""
    lanes = self.plan.lanes
    fill = np.repeat(rows[:1], -len(rows) % lanes)
    padded = np.concatenate([rows, fill])
    with jax.enable_x64(True):
      made = self._made(np.float64)
      shared = _shared(made, self._design[1], np.float64, tol, limit)
      whole = tile.problem._replace(lam_t=_scaled(tile, lam_t))
      problem = devices.by_row(jax.tree.map(lambda x: x[padded], whole), lanes)
      start = devices.by_row(w_tn[padded], lanes)
      gw_tn = fista.times_gram(made, start, lanes)
      begun = fista.begin(start, gw_tn, lanes)
      state = fista.solve(shared, problem, begun, lanes)
      size = len(rows)
      return np.asarray(state.w_tn)[:size], np.asarray(state.steps_t)[:size]

  @functools.cached_property
  def _inverse(self) -> np.ndarray:
    """Pseudo-inverse of the Gram, for targets without a penalty."""
    with jax.enable_x64(True):
      made = design.gram(self._x, self._rows, self.mean_n, np.float64)
      gram_nn = np.array(made)
    gram_nn[self.constant_columns] = gram_nn[:, self.constant_columns] = 0
    return np.linalg.pinv(gram_nn, hermitian=True)

  def _certify(self, tile: Tile, lam_t: np.ndarray, w_tn: np.ndarray) -> np.ndarray:
    """The gap of solutions for outcomes of variance 1, from residuals in float64."""
    with jax.enable_x64(True):
      zeros = jnp.zeros(w_tn.shape)
      sums = zeros, *(jnp.zeros(len(w_tn)) for _ in range(3))
      offset_t = w_tn @ self.mean_n
      for part, block in design.blocks(self._x, self._rows):
        sums = _add_residuals(sums, block, tile.outcomes_mt[part], w_tn, offset_t)
      m = len(self._rows)
      slope_tn, total_t, aligned_t, residual_t = (np.asarray(x) / m for x in sums)
      slope_tn = slope_tn - np.outer(total_t, self.mean_n)
      slope_tn[:, self.constant_columns] = 0
      problem = tile.problem._replace(lam_t=_scaled(tile, lam_t))
      gap_t = np.array(fista.gap(problem, w_tn, slope_tn, aligned_t, residual_t))
    direct = np.flatnonzero((lam_t == 0) & (tile.status_t == Status.CONVERGED))
    if direct.size:
      gap_t[direct] = np.sum(
        (slope_tn[direct] @ self._inverse) * slope_tn[direct], axis=1
      )
    return np.where(tile.status_t == Status.CONVERGED, np.maximum(gap_t, 0), 0.0)


@functools.partial(jax.jit, donate_argnums=0)
def _add_residuals(
  sums: Any, block: Array, outcomes_mt: Array, w_tn: Array, offset_t: Array
) -> Any:
  """Adds one block's part of residual times X, residual, its product with y, square."""
  slope_tn, total_t, aligned_t, residual_t = sums
  x = block.astype(jnp.float64)
  r = outcomes_mt - jnp.einsum("mn,tn->mt", x, w_tn) + offset_t
  return (
    slope_tn + jnp.einsum("mt,mn->tn", r, x),
    total_t + r.sum(axis=0),
    aligned_t + jnp.sum(r * outcomes_mt, axis=0),
    residual_t + jnp.sum(r**2, axis=0),
  )


def _shared(
  made: design.Design, lipschitz: Array, dtype: Any, tol: float, limit: int
) -> fista.Shared:
  """What all targets have in common, in one precision."""
  numbers = np.asarray(lipschitz, dtype), np.asarray(tol, dtype)
  return fista.Shared(made, *numbers, np.asarray(limit, np.int32), np.asarray(True))


def _scaled(tile: Tile, lam_t: np.ndarray) -> np.ndarray:
  """Penalties for outcomes of variance 1; padding gets 1."""
  lam_t = np.pad(lam_t, (0, len(tile.scale_t) - len(lam_t)), constant_values=1)
  return np.where(tile.status_t == Status.CONVERGED, lam_t / tile.scale_t, 1.0)
