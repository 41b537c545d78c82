"""The solver against scikit-learn, float64 and its own optimality conditions."""

import numpy as np
import pytest
from sklearn import linear_model

from jaxdm import lasso


def planted(m=300, n=40, t=5, alpha=0.5, seed=0):
  rng = np.random.default_rng(seed)
  masks = rng.random((m, n)) < alpha
  weights = rng.normal(size=(t, n)) * (rng.random((t, n)) < 0.2)
  margins = masks @ weights.T + rng.normal(size=(m, t)) * 0.5 + rng.normal(size=t)
  return masks, margins.astype(np.float32)


def lambda_max(masks, margins) -> np.ndarray:
  return np.abs((masks - masks.mean(0)).T @ (margins - margins.mean(0))).max(0) / len(
    masks
  )


@pytest.mark.parametrize("m,n,alpha", [(300, 40, 0.5), (60, 100, 0.3), (120, 120, 0.7)])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_weights_equal_scikit_learn(m, n, alpha, share) -> None:
  masks, margins = planted(m, n, alpha=alpha)
  lam = share * lambda_max(masks, margins)
  fit = lasso.fit_lasso(masks, margins, lam, tol=1e-6)
  assert np.asarray(fit.converged_t).all()
  for t in range(margins.shape[1]):
    peer = linear_model.Lasso(alpha=lam[t], tol=1e-10, max_iter=100_000)
    peer.fit(masks.astype(float), margins[:, t])
    scale = np.abs(peer.coef_).max()
    np.testing.assert_allclose(fit.weights_tn[t], peer.coef_, atol=2e-3 * scale)
    np.testing.assert_allclose(fit.intercepts_t[t], peer.intercept_, atol=2e-2 * scale)


def test_penalty_factors_equal_a_rescaled_design() -> None:
  masks, margins = planted()
  rng = np.random.default_rng(1)
  factors = rng.choice([0.1, 1.0, 3.0, 100.0], size=(5, 40))
  lam = 0.1 * lambda_max(masks, margins)
  fit = lasso.fit_lasso(masks, margins, lam, penalty_factors_tn=factors, tol=1e-6)
  for t in range(5):
    peer = linear_model.Lasso(alpha=lam[t], tol=1e-10, max_iter=100_000)
    peer.fit(masks / factors[t], margins[:, t])
    np.testing.assert_allclose(fit.weights_tn[t], peer.coef_ / factors[t], atol=2e-3)


def gap_in_float64(masks, y, w, lam, v) -> float:
  """The duality gap from residuals, over the null objective."""
  x = masks - masks.mean(0)
  y = (y - y.mean()).astype(np.float64)
  w, m = w.astype(np.float64), len(y)
  residual = y - x @ w
  slope = np.abs(x.T @ residual / m) / v
  scale = min(residual @ y / (residual @ residual), lam / slope.max())
  primal = residual @ residual / (2 * m) + lam * np.sum(v * np.abs(w))
  dual = scale * (residual @ y) / m - scale**2 * (residual @ residual) / (2 * m)
  return (primal - dual) / (y @ y / (2 * m))


@pytest.mark.parametrize("max_steps", [10, 40, 5000])
def test_the_gap_is_the_true_one_converged_or_not(max_steps) -> None:
  masks, margins = planted(60, 50)
  lam = 0.05 * lambda_max(masks, margins)
  fit = lasso.fit_lasso(masks, margins, lam, tol=1e-5, max_steps=max_steps)
  for t in range(5):
    gap = gap_in_float64(
      masks, margins[:, t], np.asarray(fit.weights_tn[t]), lam[t], np.ones(50)
    )
    np.testing.assert_allclose(fit.gap_t[t], gap, rtol=1e-2, atol=2e-6)
    assert bool(fit.converged_t[t]) == (float(fit.gap_t[t]) <= 1e-5)


def test_lambda_max_is_where_the_first_weight_appears() -> None:
  masks, margins = planted()
  factors = np.random.default_rng(0).uniform(0.5, 2, (5, 40)).astype(np.float32)
  stats = lasso.moments(masks, margins)
  top = np.asarray(lasso.lambda_max(stats.corr_tn, factors))
  for share, any_weight in ((1.001, False), (0.98, True)):
    fit = lasso.fit_lasso(
      masks, margins, share * top, penalty_factors_tn=factors, tol=1e-7
    )
    assert ((np.asarray(fit.weights_tn) != 0).any(axis=1) == any_weight).all()


def test_the_gram_of_masks_is_exact() -> None:
  masks, margins = planted(5000, 30)
  stats = lasso.moments(masks, margins)
  x = masks - masks.mean(0)
  np.testing.assert_allclose(stats.gram_nn, x.T @ x / 5000, atol=1e-6)


def test_constant_outcomes_and_columns_get_zero_weights() -> None:
  masks, margins = planted()
  masks[:, 3] = True
  margins[:, 2] = 1.5
  fit = lasso.fit_lasso(masks, margins, 0.01)
  assert not np.asarray(fit.weights_tn)[:, 3].any()
  assert not np.asarray(fit.weights_tn)[2].any()
  np.testing.assert_allclose(fit.intercepts_t[2], 1.5, atol=1e-6)
  assert np.asarray(fit.converged_t).all()


def test_bad_input_is_named() -> None:
  masks, margins = planted()
  bad = margins.copy()
  bad[3, 1] = np.nan
  for design, outcomes, lam, factors, message in [
    (masks[:-1], margins, 0.1, None, "299 rows but outcomes have 300"),
    (masks, margins[:, 0], 0.1, None, "must be matrices"),
    (masks, bad, 0.1, None, "finite"),
    (masks, margins, -0.1, None, "lam must be >= 0"),
    (masks, margins, 0.1, np.zeros((5, 40)), "positive"),
    (masks, margins, 0.1, np.ones((5, 41)), r"\(5, 40\)"),
  ]:
    with pytest.raises(ValueError, match=message):
      lasso.fit_lasso(design, outcomes, lam, penalty_factors_tn=factors)
