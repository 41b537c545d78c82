"""The solver against scikit-learn, float64 and its own optimality conditions."""

import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import linear_model

from jaxdm import devices, matrices, training_sets
from jaxdm.lasso import design, solver, solver_plan
from jaxdm.lasso.fit import fit_lasso
from jaxdm.lasso.result import LassoFit, Status


def planted(m=300, n=40, t=5, alpha=0.5, seed=0):
  rng = np.random.default_rng(seed)
  masks = rng.random((m, n)) < alpha
  weights = rng.normal(size=(t, n)) * (rng.random((t, n)) < 0.2)
  margins = masks @ weights.T + rng.normal(size=(m, t)) * 0.5 + rng.normal(size=t)
  return masks, margins.astype(np.float32)


def lambda_max(masks, margins) -> np.ndarray:
  centred = margins - margins.mean(0)
  return np.abs((masks - masks.mean(0)).T @ centred).max(0) / len(masks)


def reference(x, y, lam, v) -> np.ndarray:
  """One lasso by scikit-learn; unpenalised columns and lam = 0 by least squares."""
  x, y = x - x.mean(0), y - y.mean()
  free = (v == 0) | (lam == 0)
  z = x[:, free]
  held = x[:, ~free] - z @ np.linalg.lstsq(z, x[:, ~free], rcond=None)[0]
  rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
  w = np.zeros(x.shape[1])
  if (~free).any():
    peer = linear_model.Lasso(alpha=lam, tol=1e-14, max_iter=500_000, fit_intercept=False)
    w[~free] = peer.fit(held / v[~free], rest).coef_ / v[~free]
  w[free] = np.linalg.lstsq(z, y - x[:, ~free] @ w[~free], rcond=None)[0]
  return w


def objective(x, y, w, lam, v) -> float:
  residual = y - y.mean() - (x - x.mean(0)) @ w
  return residual @ residual / (2 * len(y)) + lam * np.sum(v * np.abs(w))


FACTORS = ("ones", "different", "free", "0-1-100")


# Few shapes, so that few programs are compiled.
@pytest.mark.slow
@hypothesis.settings(max_examples=60)
@hypothesis.given(
  shape=st.sampled_from([(60, 8, 3), (25, 40, 3), (30, 30, 3), (40, 1, 1)]),
  alpha=st.floats(0.1, 0.9),
  share=st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.99, 1.0, 3.0]),
  factors=st.sampled_from(FACTORS),
  scale=st.sampled_from([1e-6, 1.0, 1e8]),
  constant_column=st.booleans(),
  duplicate_columns=st.booleans(),
  constant_outcome=st.booleans(),
  seed=st.integers(0, 10_000),
)
def test_any_design_is_solved_as_scikit_learn_solves_it(
  shape,
  alpha,
  share,
  factors,
  scale,
  constant_column,
  duplicate_columns,
  constant_outcome,
  seed,
) -> None:
  m, n, t = shape
  masks, outcomes = planted(m, n, t, alpha, seed)
  rng = np.random.default_rng(seed)
  outcomes = outcomes.astype(float) * scale
  if constant_column:
    masks[:, 0] = True
  if duplicate_columns:
    masks[:, -1] = masks[:, n // 2]
  if constant_outcome:
    outcomes[:, 0] = 3.0 * scale
  v = {
    "ones": np.ones((t, n)),
    "different": rng.uniform(0.3, 3, (t, n)),
    "free": np.where(rng.random((t, n)) < 3 / n, 0.0, 1.0),
    "0-1-100": rng.choice([0.0, 1.0, 1.0, 1.0, 100.0], (t, n)),
  }[factors]
  lam = share * lambda_max(masks, outcomes)
  fit = fit_lasso(
    masks, outcomes, lam, penalty_factors=None if factors == "ones" else v, tol=1e-10
  )
  full_rank = np.linalg.matrix_rank(masks - masks.mean(0)) == n
  for i in range(t):
    y = outcomes[:, i]
    null = y.var() / 2
    if np.ptp(y) == 0:
      assert fit.status[i] == Status.CONSTANT
      np.testing.assert_allclose(fit.intercepts[i], y[0], rtol=1e-6)
      assert not fit.weights[i].any()
      continue
    assert fit.status[i] == Status.CONVERGED
    w = reference(masks.astype(float), y, lam[i], v[i])
    best = objective(masks, y, w, lam[i], v[i])
    ours = objective(masks, y, fit.weights[i], lam[i], v[i])
    assert ours - best <= 2e-10 * null
    if full_rank:
      # An objective within 1e-10 of its best leaves weights free by its square root.
      atol = 1e-4 * max(np.abs(w).max(), y.std())
      np.testing.assert_allclose(fit.weights[i], w, atol=atol)
      intercept = y.mean() - masks.mean(0) @ w
      np.testing.assert_allclose(fit.intercepts[i], intercept, atol=10 * atol)
  constant = np.flatnonzero(masks.all(axis=0) | ~masks.any(axis=0))
  np.testing.assert_array_equal(fit.constant_columns, constant)
  assert not fit.weights[:, constant].any()


def test_the_first_weight_appears_just_below_lambda_max() -> None:
  masks, margins = planted()
  factors = np.random.default_rng(0).uniform(0.5, 2, (5, 40))
  factors[:, 7] = 0.0
  masks_f = masks - masks.mean(0)
  top = []
  for t in range(5):
    fitted = np.linalg.lstsq(masks_f[:, [7]], margins[:, t] - margins[:, t].mean())[0]
    rest = margins[:, t] - margins[:, t].mean() - masks_f[:, [7]] @ fitted
    slope = np.abs(masks_f.T @ rest) / len(rest)
    top.append(np.delete(slope / np.maximum(factors[t], 1e-9), 7).max())
  for share, some in ((1.0001, False), (0.999, True)):
    fit = fit_lasso(
      masks, margins, share * np.array(top), penalty_factors=factors, tol=1e-9
    )
    penalised = np.delete(fit.weights, 7, axis=1)
    assert ((penalised != 0).any(axis=1) == some).all()


def test_a_planted_support_is_found() -> None:
  rng = np.random.default_rng(3)
  masks = rng.random((2000, 60)) < 0.5
  support = rng.permutation(60)[:6]
  outcomes = masks[:, support] @ np.full((6, 1), 2.0) + 0.1 * rng.normal(size=(2000, 1))
  fit = fit_lasso(masks, outcomes, 0.1)
  np.testing.assert_array_equal(np.flatnonzero(fit.weights[0]), np.sort(support))


def in_all_forms(masks, margins, lam, **options) -> dict[str, LassoFit]:
  fits = {
    form: fit_lasso(masks, margins, lam, tol=1e-9, form=form, **options)
    for form in ("gram", "rows", "bits")
  }
  fits["tiles of two"] = fit_lasso(masks, margins, lam, tol=1e-9, tile=2, **options)
  return fits


@pytest.mark.slow
def test_forms_and_tiles_give_the_same_weights() -> None:
  masks, margins = planted(150, 40)
  lam = 0.1 * lambda_max(masks, margins)
  factors = np.random.default_rng(1).uniform(0.5, 2, (5, 40))
  fits = in_all_forms(masks, margins, lam, penalty_factors=factors)
  made = fit_lasso(
    masks, margins, lam, tol=1e-9, tile=2, penalty_factors=lambda part: factors[part]
  )
  for fit in (*fits.values(), made):
    assert (fit.status == Status.CONVERGED).all()
    np.testing.assert_allclose(fit.weights, fits["gram"].weights, atol=1e-4)


@pytest.mark.parametrize("form", ["gram", "rows", "bits"])
def test_products_with_the_gram_equal_float64s(form) -> None:
  rng = np.random.default_rng(0)
  masks, weights = rng.random((1100, 30)) < 0.3, rng.normal(size=(3, 30))
  rows = np.arange(1100)
  found = matrices.describe(masks, rows)
  x = masks - masks.mean(0)
  np.testing.assert_allclose(found.mean_n, masks.mean(0))
  assert not found.constant_n.any()
  made = design.make(form, masks, rows, found, np.float32)
  product = design.times_gram(made, weights.astype(np.float32))
  np.testing.assert_allclose(product, weights @ x.T @ x / 1100, atol=3e-6)


def test_masks_in_files_and_in_bits_are_read_alike(tmp_path) -> None:
  masks, margins = planted()
  np.save(tmp_path / "masks.npy", masks)
  mapped = np.load(tmp_path / "masks.npy", mmap_mode="r")
  packed = training_sets.PackedMasks.of([masks[:100], masks[100:]])
  whole = fit_lasso(masks, margins, 0.01)
  for other in (mapped, packed):
    fit = fit_lasso(other, margins, 0.01)
    np.testing.assert_array_equal(fit.weights, whole.weights)


def test_blocks_of_rows_change_only_rounding(monkeypatch) -> None:
  masks, margins = planted()
  whole = fit_lasso(masks, margins, 0.01, tol=1e-9)
  monkeypatch.setattr(matrices, "BLOCK_BYTES", 8 * 40 * 37)
  fit = fit_lasso(masks, margins, 0.01, tol=1e-9)
  np.testing.assert_allclose(fit.weights, whole.weights, atol=1e-8)


def test_what_cannot_be_fitted_is_marked_and_harms_no_other() -> None:
  masks, margins = planted()
  masks[:, 3] = True
  masks[:, 9] = False
  clean = fit_lasso(masks, margins, 0.01)
  margins[:, 2] = 1.5
  margins[7, 4] = np.nan
  fit = fit_lasso(masks, margins, 0.01)
  np.testing.assert_array_equal(
    fit.status,
    [Status.CONVERGED] * 2 + [Status.CONSTANT, Status.CONVERGED, Status.NONFINITE],
  )
  np.testing.assert_array_equal(fit.constant_columns, [3, 9])
  assert not fit.weights[[2, 4]].any() and not fit.weights[:, [3, 9]].any()
  assert fit.intercepts[2] == 1.5 and np.isnan(fit.intercepts[4])
  np.testing.assert_array_equal(fit.weights[[0, 1, 3]], clean.weights[[0, 1, 3]])


def test_the_form_follows_shape_and_memory() -> None:
  def form(m, n, free, **options) -> str:
    return solver_plan.choose(m, n, 1000, is_bool=True, free_bytes=free, **options).form

  assert form(6000, 1500, 10**10) == "gram"
  assert form(200, 20_000, 10**11) == "rows"
  assert form(300_000, 100_000, 80 * 10**9) == "bits"
  assert form(6000, 1500, 10**10, form="rows") == "rows"
  small = solver_plan.choose(6000, 1500, 4000, is_bool=True, free_bytes=6 * 10**8)
  assert small.tile < 4000 and small.tile % devices.count() == 0
  with pytest.raises(ValueError, match="does not fit in 0.0 GB in any form"):
    form(6000, 1500, 10**6)
  with pytest.raises(ValueError, match="needs a bool design"):
    solver_plan.choose(60, 15, 10, is_bool=False, form="bits")


def weighted(m=300, seed=0):
  """Weights of rows: one by one, and as many copies of a row."""
  rng = np.random.default_rng(seed)
  return rng.exponential(size=m), rng.integers(0, 4, m)


@pytest.mark.parametrize("form", ["gram", "rows", "bits", "real"])
def test_weights_of_rows_are_those_of_scikit_learn(form) -> None:
  x, margins = planted()
  if form == "real":
    x, form = 5 + np.random.default_rng(1).normal(size=x.shape), "gram"
  weights, counts = weighted()
  factors = np.random.default_rng(2).uniform(0.5, 2, 40)
  for v, s in ((np.ones(40), weights), (factors, counts + 1)):
    fit = fit_lasso(
      x, margins, 0.02, penalty_factors=v, sample_weight=s, tol=1e-11, form=form
    )
    assert (fit.status == Status.CONVERGED).all()
    for t in range(5):
      peer = linear_model.Lasso(alpha=0.02, tol=1e-12, max_iter=100_000)
      peer.fit(x / v, margins[:, t].astype(float), sample_weight=s)
      np.testing.assert_allclose(fit.weights[t], peer.coef_ / v, atol=1e-5)
      np.testing.assert_allclose(fit.intercepts[t], peer.intercept_, atol=1e-4)


def test_a_row_of_weight_0_is_left_out_whatever_it_holds() -> None:
  masks, margins = planted()
  _, counts = weighted()
  left = counts > 0
  for x, broken in (
    (masks, masks),
    (masks * 1.0, np.where(left[:, None], masks, np.inf)),
  ):
    expected = fit_lasso(x[left], margins[left], 0.02, sample_weight=counts[left])
    outcomes = np.where(left[:, None], margins, np.nan)
    fit = fit_lasso(broken, outcomes, 0.02, sample_weight=counts)
    packed = training_sets.PackedMasks.of([masks])
    np.testing.assert_array_equal(fit.weights, expected.weights)
    np.testing.assert_array_equal(fit.intercepts, expected.intercepts)
  again = fit_lasso(packed, outcomes, 0.02, sample_weight=counts, form="gram")
  fit = fit_lasso(masks, outcomes, 0.02, sample_weight=counts, form="gram")
  np.testing.assert_array_equal(again.weights, fit.weights)


def test_whole_weights_are_rows_that_are_there_several_times() -> None:
  masks, margins = planted()
  _, counts = weighted()
  rows = np.repeat(np.arange(300), counts)
  repeated = fit_lasso(masks[rows], margins[rows], 0.02, tol=1e-12)
  fit = fit_lasso(masks, margins, 0.02, sample_weight=counts, tol=1e-12)
  np.testing.assert_allclose(fit.weights, repeated.weights, atol=1e-6)
  np.testing.assert_allclose(fit.intercepts, repeated.intercepts, atol=1e-5)


def test_equal_weights_change_no_bit() -> None:
  masks, margins = planted()
  plain = fit_lasso(masks, margins, 0.02)
  for weights in (1, 0.3, np.full(300, 7), np.full(300, 1e308), np.full(300, 5e-324)):
    assert matrices.as_weights(weights, 300)[1] is None  # As fast, too.
    fit = fit_lasso(masks, margins, 0.02, sample_weight=weights)
    for ours, expected in zip(fit, plain, strict=True):
      np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_without_a_penalty_weighted_rows_are_fitted_by_least_squares(lam) -> None:
  masks, margins = planted()
  weights, _ = weighted()
  factors = np.where(np.arange(40) < 3, 0, 1e6 if lam else 1)
  fit = fit_lasso(
    masks, margins, lam, penalty_factors=factors, sample_weight=weights, tol=1e-12
  )
  free = np.arange(40) < (3 if lam else 40)
  x = np.column_stack([masks[:, free], np.ones(300)]) * np.sqrt(weights)[:, None]
  expected = np.linalg.lstsq(x, margins * np.sqrt(weights)[:, None])[0]
  assert (fit.status == Status.CONVERGED).all()
  np.testing.assert_allclose(fit.weights[:, free], expected[:-1].T, atol=1e-5)
  assert not fit.weights[:, ~free].any()
  np.testing.assert_allclose(fit.intercepts, expected[-1], atol=1e-4)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_weights_as_far_apart_as_float64_allows_are_no_error() -> None:
  masks, margins = planted()
  without = fit_lasso(masks[1:], margins[1:], 0.02)
  for least in (1e-320, 1e-300, 1e-160, 1e-30):
    weights = np.where(np.arange(300) < 1, least, 1.0)
    fit = fit_lasso(masks, margins, 0.02, sample_weight=weights)
    assert (fit.status == Status.CONVERGED).all()
    np.testing.assert_allclose(fit.weights, without.weights, atol=1e-3)
    # Only the lightest row differs: no variance is left that float64 can hold.
    outcomes = np.where(np.arange(300) < 1, 1.001, 1.0)[:, None] * np.ones(5)
    for rows in (2, 300):
      one = weights[:rows]
      fit = fit_lasso(masks[:rows], outcomes[:rows], 0.02, sample_weight=one)
      np.testing.assert_allclose(fit.intercepts, 1, atol=1e-6)
      assert not fit.weights.any() and (fit.gap >= 0).all()


def test_bad_input_is_named() -> None:
  masks, margins = planted()
  for x, outcomes, lam, factors, message in [
    (masks[:-1], margins, 0.1, None, "299 rows but outcomes have 300"),
    (masks, margins[None], 0.1, None, "outcomes must be a matrix"),
    (masks[:, :0], margins, 0.1, None, "must not be empty"),
    (masks, margins, -0.1, None, "lam must be >= 0"),
    (masks, margins, np.nan, None, "lam must be >= 0"),
    (masks, margins, 0.1, -np.ones((5, 40)), "must be >= 0 and finite"),
    (masks, margins, 0.1, np.ones((5, 41)), r"\(5, 40\)"),
    (np.full((300, 40), np.nan), margins, 0.1, None, "masks must be finite"),
  ]:
    with pytest.raises(ValueError, match=message):
      fit_lasso(x, outcomes, lam, penalty_factors=factors)
  with pytest.raises(ValueError, match="tol must be positive"):
    fit_lasso(masks, margins, 0.1, tol=0.0)


DEVICES_PROGRAM = """
import jax, numpy as np, sys
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from jaxdm.lasso.fit import fit_lasso
rng = np.random.default_rng(0)
masks = rng.random((120, 50)) < 0.5
outcomes = masks @ rng.normal(size=(50, 11)) + rng.normal(size=(120, 11))
fit = fit_lasso(masks, outcomes, 0.2, tol=1e-6)
assert jax.local_device_count() == int(sys.argv[1])
np.savez(sys.argv[2], **fit._asdict())
"""


@pytest.mark.slow
def test_eight_devices_and_one_agree_within_the_gap(tmp_path) -> None:
  for count in ("1", "8"):
    path = str(tmp_path / f"{count}.npz")
    command = [sys.executable, "-c", DEVICES_PROGRAM, count, path]
    subprocess.run(command, check=True)
  one, eight = (np.load(tmp_path / f"{count}.npz") for count in ("1", "8"))
  rng = np.random.default_rng(0)
  masks = rng.random((120, 50)) < 0.5
  outcomes = masks @ rng.normal(size=(50, 11)) + rng.normal(size=(120, 11))
  for t in range(11):
    v, y = np.ones(50), outcomes[:, t]
    a, b = (objective(masks, y, fit["weights"][t], 0.2, v) for fit in (one, eight))
    assert abs(a - b) <= max(one["gap"][t], eight["gap"][t]) * y.var() / 2
    assert max(one["gap"][t], eight["gap"][t]) <= 1e-6


@pytest.mark.parametrize("real", [False, True])
def test_the_largest_penalty_counts_what_unpenalised_columns_leave(real) -> None:
  rng = np.random.default_rng(0)
  x = rng.random((90, 7)) < 0.5
  if real:
    x = x + 30 * rng.random((90, 7))
  y = 5 * x[:, :1] + x @ rng.normal(size=(7, 3)) + rng.normal(size=(90, 3))
  factors = rng.uniform(0.5, 2, (3, 7))
  factors[:, 0] = 0
  plan = solver_plan.choose(90, 7, 3, is_bool=not real)
  found = solver.Solver(x, np.arange(90), plan).tile(y, factors).lambda_max()[:3]
  both = np.column_stack([x[:, 0], np.ones(90)])
  rest = y - both @ np.linalg.lstsq(both, y)[0]
  steepest = np.abs(x[:, 1:].T.astype(float) @ rest).T / 90 / factors[:, 1:]
  np.testing.assert_allclose(found, steepest.max(axis=1), rtol=1e-6)
