"""The solver of many lassos on one design: float32 steps, float64 certificates.

Steps are taken in float32; the gap that is reported comes from the residuals in
float64, and targets that float32 did not bring to the tolerance go on in float64.
"""

import functools
from typing import Any

import jax
import numpy as np

from jaxdm import devices, matrices
from jaxdm.lasso import certificate, design, fista, solver_plan, stopping
from jaxdm.lasso.outcomes import Tile, standardise
from jaxdm.lasso.result import LassoFit, Status
from jaxdm.typing import Array


class Solver:
  """Some rows of a design, prepared once for any number of targets.

  Attributes:
    plan: the design's form, targets a tile, and the memory that takes.
  """

  def __init__(
    self,
    design_mn: matrices.Matrix,
    rows_m: np.ndarray,
    plan: solver_plan.Plan,
    weights_m: np.ndarray | None = None,
  ):
    """Reads nothing yet.

    Args:
      design_mn: bool or real.
      rows_m: int, which of its rows.
      plan: of `solver_plan.choose`.
      weights_m: float64 > 0, a weight for each of those rows; None: 1.
    """
    self._x, self._rows, self.plan = design_mn, rows_m, plan
    self._weights = weights_m

  @functools.cached_property
  def _columns(self) -> matrices.ColumnScales:
    """Shifts, scales and means of the columns, and whether each is constant."""
    return matrices.describe(self._x, self._rows, self._weights)

  @property
  def mean_n(self) -> np.ndarray:
    """float64, column means, in the columns' own units; those of bool columns are 1."""
    return self._columns.mean_n

  @property
  def constant_columns(self) -> np.ndarray:
    """int[c], those that cannot be told from the intercept."""
    return np.flatnonzero(self._columns.constant_n)

  @functools.cached_property
  def _design(self) -> tuple[design.Design, Array]:
    """The design in float32 on every device, and its Lipschitz constant."""
    matrix = self._make_design(np.float32)
    # On one device, so that their number changes nothing.
    one = jax.tree.map(lambda x: x.addressable_data(0), matrix)
    size = self._x.shape[1]
    return matrix, np.asarray(design.largest_eigenvalue(one, size, np.float32))

  def _make_design(self, dtype: Any) -> design.Design:
    """The design on every device that is used."""
    form, lanes = self.plan.form, self.plan.lanes
    return design.make(form, self._x, self._rows, self._columns, dtype, lanes)

  def tile(self, outcomes_mt: np.ndarray, factors_tn: np.ndarray | None = None) -> Tile:
    """Makes at most `plan.tile` targets ready.

    Args:
      outcomes_mt: real, a row for each of the solver's rows.
      factors_tn: v >= 0; None: 1.
    """
    count = outcomes_mt.shape[1]
    fill = self.plan.tile - count
    outcomes_mt = np.pad(np.asarray(outcomes_mt, np.float64), [(0, 0), (0, fill)])
    outcomes_mt = np.ascontiguousarray(outcomes_mt)  # Else their layout would matter.
    factors_tn = self._factors(factors_tn, count, fill)
    finite_t = np.isfinite(outcomes_mt).all(axis=0)
    outcomes_mt = np.where(finite_t, outcomes_mt, 0.0)
    varies_t = outcomes_mt.max(axis=0) > outcomes_mt.min(axis=0)
    status_t = np.where(varies_t, Status.CONVERGED, Status.CONSTANT)
    root_m = self._columns.root_m
    unit_mt, mean_t, scale_t = standardise(outcomes_mt, varies_t, root_m)
    corr_tn = design.correlations(self._x, self._rows, self._columns, unit_mt)
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
      devices.shard_rows(fista.round_to_float32(problem), self.plan.lanes),
      self._columns.common_scale,
    )

  def _factors(self, factors_tn: np.ndarray | None, count: int, fill: int) -> np.ndarray:
    """Penalty factors of weights of columns with units of their own, padded."""
    if factors_tn is None:
      factors_tn = np.ones((count, 1))
    most = np.finfo(np.float64).max
    with np.errstate(over="ignore"):
      ratio_n = np.minimum(self._columns.common_scale / self._columns.scale_n, most)
      ratio_n = np.where(self._columns.constant_n, 1.0, ratio_n)
      if (ratio_n != 1).any():
        factors_tn = np.minimum(factors_tn * ratio_n, most)
    return np.pad(np.asarray(factors_tn, float), [(0, fill), (0, 0)], mode="edge")

  def _free(self, factors_tn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `fista.Problem` holds of unpenalised columns."""
    t, n = len(factors_tn), self._x.shape[1]
    is_free = np.broadcast_to(factors_tn == 0, (t, n)) & ~self._columns.constant_n
    width = int(is_free.sum(axis=1).max(initial=0))
    free_tz, corr_trn = np.full((t, width), n, np.int32), np.zeros((t, width, n))
    basis_tzr = np.zeros((t, width, width))
    if width:
      used = np.flatnonzero(is_free.any(axis=0))
      centred_mu = design.centre(self._x, self._rows, self._columns, used)
      for i in range(t):
        mine = np.flatnonzero(is_free[i])
        vectors_mr, basis_zr = certificate.orthonormal(
          centred_mu[:, np.searchsorted(used, mine)]
        )
        size, rank = basis_zr.shape
        free_tz[i, :size], basis_tzr[i, :size, :rank] = mine, basis_zr
        corr_trn[i, :rank] = design.correlations(
          self._x, self._rows, self._columns, vectors_mr
        )
    return free_tz, basis_tzr, corr_trn

  def solve(
    self,
    tile: Tile,
    lam_t: np.ndarray,
    start: fista.State | None = None,
    *,
    tol: float,
    limit: int,
  ) -> fista.State:
    """Solutions for outcomes of variance 1 and columns of unit scale, in float32.

    Args:
      tile: the targets.
      lam_t: penalties > 0 for the outcomes and the design as they were given.
      start: what `solve` returned for other penalties.
      tol: relative gap, by float32's own account.
      limit: steps a target.
    """
    (matrix, lipschitz), lanes = self._design, self.plan.lanes
    if start is None:
      zeros = devices.shard_rows(np.zeros(tile.problem.corr_tn.shape, np.float32), lanes)
      start = fista.begin(zeros, zeros, lanes)
    unit_t = np.minimum(tile.unit_penalties(lam_t), fista.LARGEST_PENALTY)
    lam_t = devices.shard_rows(unit_t.astype(np.float32), lanes)
    shared = _shared_of(matrix, lipschitz, np.float32, tol, limit)
    return fista.solve(shared, tile.rough._replace(lam_t=lam_t), start, lanes)

  def finish(
    self,
    tile: Tile,
    lam_t: np.ndarray,
    *,
    tol: float,
    limit: int,
    offset_tn: np.ndarray | None = None,
  ) -> LassoFit:
    """Solutions whose gap is certified; in float64 where float32 is not enough.

    Args:
      tile: the targets.
      lam_t: penalties >= 0 for the outcomes and the design as they were given.
      tol: relative gap.
      limit: steps a target, in each precision.
      offset_tn: float32, added to the weights, whose sum is float32 then. The gap is that
        of the sum, as it was rounded, less the offset.
    """
    lam_t = tile.pad(lam_t)
    w_tn, steps_t, gap_t = self._solve_in_units(tile, lam_t, tol=tol, limit=limit)
    if offset_tn is not None:
      fill = [(0, len(w_tn) - tile.size), (0, 0)]
      shape = tile.size, w_tn.shape[1]
      offset_tn = np.pad(np.broadcast_to(offset_tn, shape), fill)
      return self._fit(tile, lam_t, w_tn, steps_t, tol, np.float32, offset_tn)
    if tol >= stopping.FLOAT32_GAP:
      fit = self._fit(tile, lam_t, w_tn, steps_t, tol, np.float32)
      enough_t = np.maximum(tol, 2 * gap_t[: tile.size])
      if not (fit.gap > enough_t).any():
        return fit
    # Float32 cannot hold these weights, or not to the tolerance.
    return self._fit(tile, lam_t, w_tn, steps_t, tol, np.float64)

  def _fit(
    self,
    tile: Tile,
    lam_t: np.ndarray,
    w_tn: np.ndarray,
    steps_t: np.ndarray,
    tol: float,
    dtype: Any,
    offset_tn: np.ndarray | float = 0.0,
  ) -> LassoFit:
    """Weights in the units of design and outcomes, in `dtype`, and their gaps."""
    columns, offset_tn = self._columns, np.asarray(offset_tn, np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
      ratio_tn = tile.scale_t[:, None] / columns.scale_n
      weights_tn = np.where(w_tn == 0, 0, w_tn * ratio_tn) + offset_tn
      weights_tn = weights_tn.astype(dtype)
      own_tn = weights_tn - offset_tn
      cert = self._certify(tile, lam_t, np.where(own_tn == 0, 0, own_tn / ratio_tn))
      place_t = own_tn @ columns.shift_n + own_tn @ (columns.scale_n * columns.mean_n)
    varies_t = tile.status_t == Status.CONVERGED
    gap_t = np.where(varies_t, cert.gap_t, 0.0)
    status_t = np.where(gap_t <= tol, tile.status_t, Status.LIMIT)
    used = slice(tile.size)
    return LassoFit(
      weights_tn[used],
      (tile.mean_t + tile.scale_t * cert.mean_t - place_t)[used],
      np.where(np.isfinite(tile.mean_t), gap_t, np.nan)[used],
      steps_t[used],
      np.where(np.isinf(gap_t), Status.UNCERTIFIED, status_t)[used],
      self.constant_columns,
    )

  def _solve_in_units(
    self, tile: Tile, lam_t: np.ndarray, *, tol: float, limit: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights for outcomes and columns of unit scale in float64, steps, and gaps."""
    rough, most = stopping.float32_limits(tol, limit)
    # Zeros are solved directly below.
    state = self.solve(tile, np.where(lam_t > 0, lam_t, np.inf), tol=rough, limit=most)
    steps_t, w_tn = np.array(state.steps_t), self._usable(state.w_tn)
    gap_t = self._certify(tile, lam_t, w_tn).gap_t
    short_t = (tile.status_t == Status.CONVERGED) & ~(gap_t <= tol)
    again = np.flatnonzero(short_t & (lam_t > 0) & (steps_t < limit))
    if again.size:
      w_tn[again], more = self._in_float64(tile, lam_t, w_tn, again, tol=tol, limit=limit)
      steps_t[again] += more
    direct = np.flatnonzero(short_t & (lam_t == 0))
    if direct.size:
      vectors_mr, basis_nr = self._all_columns
      in_basis_dr = tile.outcomes_mt[:, direct].T @ vectors_mr / len(self._rows)
      w_tn[direct] = self._usable(in_basis_dr @ basis_nr.T)
    if again.size or direct.size:
      gap_t = self._certify(tile, lam_t, w_tn).gap_t
    return w_tn, steps_t, gap_t

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
    gap = stopping.float64_gap(tol)
    with jax.enable_x64(True):
      matrix = self._make_design(np.float64)
      shared = _shared_of(matrix, self._design[1], np.float64, gap, limit)
      all_targets = tile.problem._replace(lam_t=tile.unit_penalties(lam_t))
      problem = devices.shard_rows(jax.tree.map(lambda x: x[padded], all_targets), lanes)
      start = devices.shard_rows(w_tn[padded], lanes)
      gw_tn = fista.times_gram(matrix, start, lanes)
      state = fista.begin(start, gw_tn, lanes)
      state = fista.solve(shared, problem, state, lanes)
      size = len(rows)
      return self._usable(state.w_tn)[:size], np.asarray(state.steps_t)[:size]

  def _usable(self, w_tn: Array) -> np.ndarray:
    """Weights in float64: 0 for constant columns, and where a row is not finite."""
    w_tn = np.array(w_tn, np.float64)
    w_tn[~np.isfinite(w_tn).all(axis=1)] = 0
    w_tn[:, self.constant_columns] = 0
    return w_tn

  @functools.cached_property
  def _all_columns(self) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of all columns, for targets without a penalty."""
    return certificate.orthonormal(design.centre(self._x, self._rows, self._columns))

  def _certify(
    self, tile: Tile, lam_t: np.ndarray, w_tn: np.ndarray
  ) -> certificate.Certificate:
    """What residuals in float64 say of weights for outcomes and columns of unit scale."""
    problem = tile.problem._replace(lam_t=tile.unit_penalties(lam_t))
    part = self._x, self._rows, self._columns
    direct = np.flatnonzero((lam_t == 0) & (tile.status_t == Status.CONVERGED))
    basis = self._all_columns[0] if direct.size else None
    return certificate.certify(*part, problem, tile.outcomes_mt, w_tn, direct, basis)


def _shared_of(
  matrix: design.Design, lipschitz: Array, dtype: Any, tol: float, limit: int
) -> fista.SharedInputs:
  """What all targets have in common, in one precision."""
  numbers = np.asarray(lipschitz, dtype), np.asarray(tol, dtype)
  limit = min(limit, np.iinfo(np.int32).max)
  return fista.SharedInputs(
    matrix, *numbers, np.asarray(limit, np.int32), np.asarray(True)
  )
