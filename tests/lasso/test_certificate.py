"""The gap is an upper bound: against objectives that other solvers reach."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import linear_model

import jaxdm
from jaxdm.lasso import certificate, fista, solver, solver_plan
from jaxdm.lasso.result import Status

SHAPES = [(60, 8), (8, 5), (25, 40), (200, 20)]
TARGETS = 3


def make_design(kind: str, m: int, n: int, rng: np.random.Generator) -> np.ndarray:
  """A design [m, n] of one of the kinds that are hard for a step-size rule."""
  normal = rng.normal(size=(m, n))
  if kind == "masks":
    return rng.random((m, n)) < 0.5
  if kind == "masks of different sizes":
    return rng.random((m, n)) < rng.uniform(0.02, 0.98, (m, 1))
  if kind == "one dominating column":
    normal[:, 0] *= 10.0 ** rng.integers(1, 7)
  if kind == "columns that move together":
    normal = 0.05 * normal + rng.normal(size=(m, 1))
  if kind == "ill conditioned":
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    normal = left * np.geomspace(1, 10.0 ** -rng.integers(1, 7), min(m, n)) @ right
  if kind == "scales of their own":
    normal *= 10.0 ** rng.uniform(-12, 12, n)
  if kind == "far from zero":
    normal += 10.0 ** rng.integers(2, 8) * rng.normal(size=n)
  return normal


KINDS = [
  "masks",
  "masks of different sizes",
  "normal",
  "one dominating column",
  "columns that move together",
  "ill conditioned",
  "scales of their own",
  "far from zero",
]


def make_outcomes(x: np.ndarray, r2: float, rng: np.random.Generator) -> np.ndarray:
  """Outcomes [m, t] of that R2: along the first direction, one column, many columns."""
  x = x - x.mean(axis=0, dtype=float)
  unit = x / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
  first = np.linalg.svd(x, full_matrices=False)[0][:, 0]
  signal = np.stack([first, unit[:, 0], unit @ rng.normal(size=x.shape[1])], axis=1)
  spread = signal.std(axis=0)
  signal = signal / np.where(spread > 0, spread, 1)
  noise = rng.normal(size=signal.shape)
  return r2**0.5 * signal + (1 - r2) ** 0.5 * noise + rng.normal(size=TARGETS)


SAMPLE_WEIGHTS = ["none", "none", "random", "counts", "far apart"]


def make_weights(kind: str, m: int, rng: np.random.Generator) -> np.ndarray | None:
  """Weights of rows; of counts a quarter are 0."""
  if kind == "none":
    return None
  if kind == "counts":
    return rng.permutation(np.where(np.arange(m) < m // 4, 0, rng.integers(1, 5, m)))
  return 10.0 ** rng.uniform(-6, 6, m) if kind == "far apart" else rng.uniform(0.1, 3, m)


def objective(x, y, w, b, lam, weights=None) -> float:
  """The lasso's objective in extended precision, relative to that at w = 0."""
  x, y, w = (np.asarray(a, np.longdouble) for a in (x, y, w))
  s = np.ones(len(y), np.longdouble) if weights is None else np.longdouble(weights)
  # Large columns less their means, lest even these digits be too few.
  centre = s @ x / s.sum()
  place = np.longdouble(b) + centre @ w
  loss = s @ (y - (x - centre) @ w - place) ** 2 / s.sum() / 2
  null = s @ (y - s @ y / s.sum()) ** 2 / s.sum() / 2
  return float((loss + np.longdouble(lam) * np.abs(w).sum()) / null)


def plain_descent(gram, products, lam, steps) -> np.ndarray:
  """Cyclic coordinate descent in float64, column by column."""
  w = np.zeros(len(gram))
  slope = products.copy()
  for _ in range(steps):
    for j in np.flatnonzero(np.diag(gram) > 0):
      old = w[j]
      free = slope[j] + gram[j, j] * old
      w[j] = np.sign(free) * max(abs(free) - lam, 0) / gram[j, j]
      slope -= gram[j] * (w[j] - old)
  return w


def best_objective(x, y, lam, weights=None) -> float:
  """The smallest objective that scikit-learn and a long plain run reach."""
  x = np.asarray(x, float)
  s = np.ones(len(y)) if weights is None else weights / weights.mean()
  centred, goal = x - np.average(x, axis=0, weights=s), y - np.average(y, weights=s)
  # Units near 1, by which scikit-learn's criterion and float64's range suffer less.
  x_unit = max(np.abs(centred).max(), 1e-300)
  y_unit = np.average(goal**2, weights=s) ** 0.5
  centred, goal = centred / x_unit, goal / y_unit
  penalty = lam / x_unit / y_unit
  found = [np.zeros(x.shape[1])]
  m, weighted = len(y), centred.T * s
  found.append(plain_descent(weighted @ centred / m, weighted @ goal / m, penalty, 300))
  if penalty > 0:
    peer = linear_model.Lasso(
      alpha=penalty, tol=1e-12, max_iter=20_000, fit_intercept=False
    )
    found.append(peer.fit(centred, goal, sample_weight=weights).coef_)
  else:
    root = np.sqrt(s)
    found.append(np.linalg.lstsq(centred * root[:, None], goal * root)[0])
  # Judged on the numbers themselves, whose means are not exact in float64.
  x, y, s = x.astype(np.longdouble), y.astype(np.longdouble), s.astype(np.longdouble)
  x_mean, y_mean = s @ x / s.sum(), s @ y / s.sum()
  scaled = [w.astype(np.longdouble) * y_unit / x_unit for w in found]
  return min(objective(x, y, w, y_mean - x_mean @ w, lam, s) for w in scaled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Objective did not converge", "ignore:.*alpha=0.*")
@hypothesis.settings(max_examples=150)
@hypothesis.given(
  shape=st.sampled_from(SHAPES),
  kind=st.sampled_from(KINDS),
  r2=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.9999]),
  share=st.sampled_from([0.0, 1e-4, 0.003, 0.03, 0.3, 0.99, 2.0]),
  x_scale=st.sampled_from([1.0, 1.0, 1e-30, 1e20]),
  y_scale=st.sampled_from([1.0, 1.0, 1e-30, 1e20]),
  tol=st.sampled_from([1e-3, 1e-4, 1e-6, 1e-9]),
  max_steps=st.sampled_from([1, 5, 5000]),
  weighted=st.sampled_from(SAMPLE_WEIGHTS),
  seed=st.integers(0, 10_000),
)
def test_the_gap_bounds_the_distance_to_the_best_objective_known(
  shape, kind, r2, share, x_scale, y_scale, tol, max_steps, weighted, seed
) -> None:
  rng = np.random.default_rng(seed)
  x = make_design(kind, *shape, rng)
  y = make_outcomes(x, r2, rng) * y_scale
  if x.dtype != bool:
    x = x * x_scale
  weights = make_weights(weighted, len(x), rng)
  centred_x, centred_y = (a - np.average(a, axis=0, weights=weights) for a in (x, y))
  if weights is not None:
    centred_x = centred_x * (weights / weights.mean())[:, None]
  lam = share * np.abs(centred_x.T @ centred_y).max(axis=0) / len(x)
  fit = jaxdm.fit_lasso(x, y, lam, tol=tol, max_steps=max_steps, sample_weight=weights)
  for t in range(TARGETS):
    ours = objective(x, y[:, t], fit.weights[t], fit.intercepts[t], lam[t], weights)
    distance = ours - best_objective(x, y[:, t], lam[t], weights)
    converged = fit.status[t] == Status.CONVERGED
    assert converged or fit.status[t] == Status.LIMIT
    assert np.isfinite(fit.gap[t]) and fit.gap[t] >= 0
    assert distance <= fit.gap[t] + 1e-15
    assert converged == (fit.gap[t] <= tol)
  easy = kind != "ill conditioned" and weighted != "far apart"
  if max_steps == 5000 and share >= 0.3 and easy:
    assert (fit.status == Status.CONVERGED).all()


@pytest.mark.device
@pytest.mark.parametrize("rows", [20_000, 500])
def test_a_long_first_step_that_overshoots_is_no_optimum(rows) -> None:
  """Outcomes along the first direction: one step leaves weights a quarter too large."""
  rng = np.random.default_rng(0)
  x = rng.random((rows, 20)) < 0.5
  y = x @ rng.normal(size=(20, 1)) + 0.1 * rng.normal(size=(rows, 1))
  fit = jaxdm.fit_lasso(x, y, 0.01)
  peer = linear_model.Lasso(alpha=0.01, tol=1e-12).fit(x, y[:, 0])
  assert fit.status[0] == Status.CONVERGED and fit.gap[0] <= 1e-4
  np.testing.assert_allclose(fit.weights[0], peer.coef_, atol=0.02)
  short = jaxdm.fit_lasso(x, y, 0.01, max_steps=1)
  assert short.status[0] == Status.LIMIT
  share = np.linalg.norm(short.weights[0]) / np.linalg.norm(peer.coef_)
  assert 0.8 < share < 1.4
  over = objective(x, y[:, 0], short.weights[0], short.intercepts[0], 0.01)
  least = objective(x, y[:, 0], peer.coef_, peer.intercept_, 0.01)
  assert 1e-4 < over - least <= short.gap[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one column", "one column ten times as large"])
def test_outcomes_along_the_only_large_column_are_solved(kind) -> None:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 20)) * np.where(np.arange(20) == 0, 10, 1)
  y, lam = x[:, :1] + 0.3 * rng.normal(size=(200, 1)), 0.05
  if kind == "one column":
    x = rng.random((200, 1)) < 0.5
    y, lam = 3.0 * x + 0.1 * rng.normal(size=(200, 1)), 0.01
  fit = jaxdm.fit_lasso(x, y, lam)
  assert fit.status[0] == Status.CONVERGED
  ours = objective(x, y[:, 0], fit.weights[0], fit.intercepts[0], lam)
  assert ours - best_objective(x, y[:, 0], lam) <= fit.gap[0] <= 1e-4
  peer = linear_model.Lasso(alpha=lam, tol=1e-12).fit(x, y[:, 0])
  assert abs(fit.weights[0].sum() - peer.coef_.sum()) < 0.01 * abs(peer.coef_.sum())


def test_weights_added_to_an_offset_are_certified_as_they_are_rounded() -> None:
  rng = np.random.default_rng(0)
  x = rng.random((400, 30)) < 0.5
  y = x @ rng.normal(size=(30, 2)) + 0.1 * rng.normal(size=(400, 2))
  offset = (1e4 * rng.normal(size=(2, 30))).astype(np.float32)
  plan = solver_plan.choose(400, 30, 2, is_bool=True)
  made = solver.Solver(x, np.arange(400), plan)
  fit = made.finish(
    made.tile(y), np.full(2, 0.02), tol=1e-9, limit=5000, offset_tn=offset
  )
  assert fit.weights.dtype == np.float32
  for t in range(2):
    own = fit.weights[t] - offset[t].astype(float)
    ours = objective(x, y[:, t], own, fit.intercepts[t], 0.02)
    distance = ours - best_objective(x, y[:, t], 0.02)
    # Rounding to float32 near 1e4 costs more than the tolerance, and is not hidden.
    assert 1e-9 < distance <= fit.gap[t]
    assert fit.status[t] == Status.LIMIT


REAL_DTYPES = [
  *(order + kind for kind in ("f2", "f4", "f8") for order in "<>"),
  *(order + kind + size for kind in "iu" for size in "248" for order in "<>"),
  *("i1", "u1", "g", "?"),
]


@pytest.mark.parametrize("layout", ["C", "F", "reversed", "every second", "read only"])
def test_every_real_dtype_byte_order_and_layout_gives_the_same_fit(layout) -> None:
  rng = np.random.default_rng(0)
  x = (rng.random((120, 30)) < 0.5).astype(float)
  y = (8 * x @ rng.normal(size=(30, 4))).round()
  expected = jaxdm.fit_lasso(x, y, 0.4)

  def laid_out(array: np.ndarray) -> np.ndarray:
    if layout == "reversed":
      return array[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "every second":
      return np.repeat(np.repeat(array, 2, axis=0), 2, axis=1)[::2, ::2]
    array = np.array(array, order="F" if layout == "F" else "C")
    array.setflags(write=layout != "read only")
    return array

  for dtype in REAL_DTYPES:
    fit = jaxdm.fit_lasso(laid_out(x.astype(dtype)), y, 0.4)
    np.testing.assert_allclose(fit.weights, expected.weights, atol=0.05)
    assert (fit.status == Status.CONVERGED).all()
    if dtype not in ("?", "u1") and dtype[1:] not in ("u2", "u4", "u8"):
      fit = jaxdm.fit_lasso(x, laid_out(y.astype(dtype)), 0.4)
      np.testing.assert_array_equal(fit.weights, expected.weights)


def test_what_holds_no_real_numbers_is_refused() -> None:
  x, y = np.eye(6)[:, :3], np.arange(6.0)[:, None]
  for wrong, message in [
    (x.astype(complex), "masks must hold real numbers, got dtype complex128"),
    (x.astype(str), "masks must hold real numbers, got dtype <U"),
    (x.astype("M8[s]"), "masks must hold real numbers, got dtype datetime64"),
    (np.array([["a", 1.0]] * 6, object), "masks must hold real numbers"),
    (np.ma.masked_equal(x, 1), "masks must not hold masked values"),
    (np.zeros(6, [("a", float)]), "masks must hold real numbers, got dtype"),
    (np.where(x > 0, np.inf, 0), "masks must be finite"),
    (np.where(x > 0, -np.inf, 0).astype(np.float16), "masks must be finite"),
    ([[1, 2], [3]], "masks must hold real numbers: "),
  ]:
    with pytest.raises(ValueError, match=message):
      jaxdm.fit_lasso(wrong, y, 0.1)
  with pytest.raises(ValueError, match="outcomes must hold real numbers, got dtype"):
    jaxdm.fit_lasso(x, y.astype(complex), 0.1)


@pytest.mark.parametrize("wrong", [np.nan, -1e-3, -np.inf])
def test_a_gap_that_cannot_be_is_a_status_of_its_own(monkeypatch, wrong) -> None:
  rng = np.random.default_rng(0)
  x = rng.random((60, 8)) < 0.5
  y = x @ rng.normal(size=(8, 2)) + rng.normal(size=(60, 2))
  gap = certificate.fista.gap
  spoilt = np.array([1.0, 0.0])  # The first target's alone.

  def with_fault(problem, w_tn, slope_tn, aligned_t, residual_t):
    found = np.asarray(gap(problem, w_tn, slope_tn, aligned_t, residual_t))
    return np.where(np.resize(spoilt, len(found)) > 0, wrong, found)

  monkeypatch.setattr(certificate.fista, "gap", with_fault)
  fista._compile.cache_clear()
  monkeypatch.setattr(fista, "_gap_at", lambda problem, w_tn, gw_tn: 0 * w_tn[:, 0])
  fit = jaxdm.fit_lasso(x, y, 0.3, max_steps=50)
  fista._compile.cache_clear()
  assert fit.status[0] == Status.UNCERTIFIED and fit.gap[0] == np.inf
  assert fit.status[1] in (Status.CONVERGED, Status.LIMIT) and np.isfinite(fit.gap[1])


@pytest.mark.parametrize("x_scale", [1e-200, 1e-30, 1.0, 1e20, 1e150])
@pytest.mark.parametrize("y_scale", [1e-30, 1.0, 1e20, 1e150])
def test_units_change_nothing_but_the_weights_units(x_scale, y_scale) -> None:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 8))
  y = x @ rng.normal(size=(8, 3)) + rng.normal(size=(60, 3))
  plain = jaxdm.fit_lasso(x, y, 0.1, tol=1e-9)
  fit = jaxdm.fit_lasso(x * x_scale, y * y_scale, 0.1 * x_scale * y_scale, tol=1e-9)
  if np.log10(y_scale) - np.log10(x_scale) > 300:  # Weights that float64 cannot hold.
    assert (fit.status == Status.UNCERTIFIED).all() and (fit.gap == np.inf).all()
    return
  assert (fit.status == Status.CONVERGED).all()
  expected = plain.weights * (y_scale / x_scale)
  np.testing.assert_allclose(fit.weights, expected, rtol=1e-3)
  np.testing.assert_allclose(fit.intercepts, plain.intercepts * y_scale, rtol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_what_unpenalised_columns_explain_exactly_is_found(seed) -> None:
  x = np.random.default_rng(seed).random((60, 10)) < 0.5
  factors = np.r_[0, 0, np.ones(8)]
  fit = jaxdm.fit_lasso(x, x[:, 0] - 2.0 * x[:, 1], 0.1, penalty_factors=factors)
  assert fit.status[0] == Status.CONVERGED and fit.gap[0] <= 1e-4
  np.testing.assert_allclose(fit.weights[0], [1, -2, *[0] * 8], atol=0.05)


@pytest.mark.parametrize("unpenalised", [6, 7, 8, 12])
@pytest.mark.parametrize("seed", range(4))
def test_gaps_bound_where_unpenalised_columns_span_all_rows(seed, unpenalised) -> None:
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(8, 20)), rng.normal(size=8)
  factors = np.r_[np.zeros(unpenalised), np.ones(20 - unpenalised)]
  fit = jaxdm.fit_lasso(x, y, 0.1, penalty_factors=factors, tol=1e-6)
  residual = y - x @ fit.weights[0] - fit.intercepts[0]
  found = residual @ residual / 16 + 0.1 * np.abs(fit.weights[0]) @ factors
  free = np.column_stack([np.ones(8), x[:, :unpenalised]])
  least = y - free @ np.linalg.lstsq(free, y, rcond=None)[0]  # One that is feasible.
  assert found - least @ least / 16 <= fit.gap[0] * y.var() / 2 * (1 + 1e-9)
