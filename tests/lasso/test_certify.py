"""Certificates of any weights, against residuals and dual points in NumPy."""

import numpy as np
import pytest
from support import duality

from jaxdm import matrices
from jaxdm.lasso import certificate, fista

ROWS, COLUMNS, TARGETS = 50, 6, 3
CONSTANT, FREE = 4, [1, 3]
EPS = np.finfo(float).eps


class Judged:
  """Random weights of some rows of a design, and what is known of them."""

  def __init__(self, kind: str, weighted: bool):
    rng = np.random.default_rng(0)
    design_mn = rng.random((2 * ROWS, COLUMNS)) < 0.5
    if kind == "real":
      design_mn = design_mn + rng.normal(size=design_mn.shape)
    design_mn[:, CONSTANT] = 1
    self.rows_m = rng.permutation(2 * ROWS)[:ROWS]
    weights_m = rng.uniform(0.2, 3, ROWS) if weighted else np.ones(ROWS)
    weights_m = weights_m / weights_m.mean()
    self.design_mn, given_m = design_mn, weights_m if weighted else None
    self.columns = matrices.describe(design_mn, self.rows_m, given_m)
    unit_mn = (design_mn[self.rows_m] - self.columns.shift_n) / self.columns.scale_n
    root_m = weights_m[:, None] ** 0.5
    self.x_mn = (unit_mn - weights_m @ unit_mn / ROWS) * root_m
    y = rng.normal(size=(ROWS, TARGETS)) + unit_mn @ rng.normal(size=(COLUMNS, TARGETS))
    y = (y - weights_m @ y / ROWS) * root_m
    self.y_mt = y / np.sqrt(np.mean(y**2, axis=0))
    self.w_tn = rng.normal(size=(TARGETS, COLUMNS)) * (np.arange(COLUMNS) != CONSTANT)
    self.lam_t = np.array([0.01, 0.2, 3.0])
    self.factors_tn = rng.uniform(0.5, 2, (TARGETS, COLUMNS))
    self.factors_tn[:, CONSTANT] = 1e-300  # It counts for nothing all the same.
    self.factors_tn[1, FREE] = 0

  def problem(self) -> fista.Problem:
    """The second lasso has unpenalised columns."""
    free_tz = np.full((TARGETS, 2), COLUMNS, np.int32)
    basis_tzr, corr_trn = np.zeros((TARGETS, 2, 2)), np.zeros((TARGETS, 2, COLUMNS))
    vectors, triangle = np.linalg.qr(self.x_mn[:, FREE])
    free_tz[1], basis_tzr[1] = FREE, np.linalg.inv(triangle) * ROWS**0.5
    corr_trn[1] = vectors.T @ self.x_mn / ROWS**0.5
    corr_tn = self.y_mt.T @ self.x_mn / ROWS
    free_parts = free_tz, basis_tzr, corr_trn
    return fista.Problem(corr_tn, self.lam_t, self.factors_tn, *free_parts)

  def judge(self, direct: tuple[int, ...] = ()) -> certificate.Certificate:
    basis_mr = np.linalg.svd(self.x_mn, full_matrices=False)[0][:, : COLUMNS - 1]
    return certificate.certify(
      *(self.design_mn, self.rows_m, self.columns, self.problem(), self.y_mt, self.w_tn),
      np.array(direct, int),
      basis_mr * ROWS**0.5 if direct else None,
    )


@pytest.mark.parametrize(
  "kind,weighted,block_rows",
  [("bool", False, ROWS), ("bool", True, 10), ("real", True, 10)],
)
def test_certificates_are_those_of_residuals_and_dual_points(
  kind, weighted, block_rows, monkeypatch
) -> None:
  monkeypatch.setattr(matrices, "BLOCK_BYTES", 8 * COLUMNS * block_rows)
  judged = Judged(kind, weighted)
  rows = zip(judged.y_mt.T, judged.w_tn, judged.lam_t, judged.factors_tn, strict=True)
  varies = np.arange(COLUMNS) != CONSTANT
  expected = [
    duality.gap(judged.x_mn[:, varies], y, w[varies], lam, v[varies])
    for y, w, lam, v in rows
  ]
  found = judged.judge()
  np.testing.assert_allclose(found.gap_t, expected, rtol=1e-9)
  np.testing.assert_allclose(found.mean_t, 0, atol=1e-12)
  # Without a penalty it is how much nearer to the outcomes the columns come.
  best_nt = np.linalg.lstsq(judged.x_mn, judged.y_mt)[0]
  ours, best = (
    np.mean((judged.y_mt - judged.x_mn @ w_nt) ** 2, axis=0)
    for w_nt in (judged.w_tn.T, best_nt)
  )
  direct = judged.judge(direct=(0, 2)).gap_t
  expected = np.where(np.arange(TARGETS) == 1, expected, ours - best)
  np.testing.assert_allclose(direct, expected, rtol=1e-9)


def test_the_mean_of_residuals_is_what_the_intercept_lacks() -> None:
  judged = Judged("bool", weighted=True)
  lack_t = np.array([1e-6, 0, -2e-6])
  judged.y_mt = judged.y_mt + judged.columns.root_m[:, None] * lack_t
  np.testing.assert_allclose(judged.judge().mean_t, lack_t, atol=1e-12)


@pytest.mark.parametrize("size", [1, 10])
def test_an_optimum_has_a_gap_of_rounding_and_what_is_no_number_has_no_bound(
  size,
) -> None:
  """All penalties are above lambda_max; unpenalised columns are fitted."""
  judged = Judged("bool", weighted=False)
  judged.y_mt = judged.y_mt * size
  judged.lam_t, judged.w_tn = np.full(TARGETS, 90.0), 0 * judged.w_tn
  fitted, *_ = np.linalg.lstsq(judged.x_mn[:, FREE], judged.y_mt[:, 1])
  judged.w_tn[1, FREE] = fitted
  gap_t = judged.judge().gap_t
  # Products of residuals and weights, each rounded a few times.
  roundings = gap_t / EPS / (1 + np.abs(judged.w_tn).sum(axis=1)) ** 2
  assert (roundings > 16).all() and (roundings < 64).all()
  judged.w_tn[0, 2], judged.w_tn[2, 0] = np.nan, np.inf
  gap_t = judged.judge().gap_t
  assert np.isinf(gap_t[[0, 2]]).all() and np.isfinite(gap_t[1])


def test_without_a_penalty_the_bound_holds_next_to_the_optimum() -> None:
  judged = Judged("bool", weighted=True)
  moved_tn = 1e-12 * judged.w_tn
  judged.w_tn = np.linalg.lstsq(judged.x_mn, judged.y_mt)[0].T + moved_tn
  distance_t = np.mean((judged.x_mn @ moved_tn.T) ** 2, axis=0)
  gap_t = judged.judge(direct=(0, 1, 2)).gap_t
  assert (distance_t < gap_t).all() and (gap_t < 1.3 * distance_t).all()


@pytest.mark.parametrize("rows", [30, 4])
def test_a_basis_of_mean_square_1_spans_what_its_columns_span(rows) -> None:
  rng = np.random.default_rng(0)
  centred = rng.normal(size=(rows, 5))
  centred[:, 3] = centred[:, 0] - 2 * centred[:, 1]
  centred[:, 4] = 1e-9 * rng.normal(size=rows)  # Small, and no rounding.
  basis_mr, transform_zr = certificate.orthonormal(centred)
  rank = min(rows, 4)
  assert basis_mr.shape == (rows, rank) and transform_zr.shape == (5, rank)
  np.testing.assert_allclose(basis_mr.T @ basis_mr / rows, np.eye(rank), atol=1e-12)
  np.testing.assert_allclose(centred @ transform_zr, basis_mr, atol=1e-6)
  inside = basis_mr @ (basis_mr.T @ centred) / rows
  np.testing.assert_allclose(inside, centred, atol=1e-14)
  assert certificate.orthonormal(centred[:, :0])[0].shape == (rows, 0)


@pytest.mark.parametrize("rows", [40, 9])
@pytest.mark.parametrize("above", [0.5, 2.0])
def test_directions_that_are_rounding_are_those_of_matrix_rank(rows, above) -> None:
  centred = np.zeros((rows, 20))
  centred[0, 0], centred[1, 1] = 1, above * EPS * max(rows, 20)
  rank = 1 + (above > 1)
  assert certificate.orthonormal(centred)[0].shape[1] == rank
  assert np.linalg.matrix_rank(centred) == rank
