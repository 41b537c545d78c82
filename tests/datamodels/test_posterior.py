"""Gaussian posteriors of weights, against least squares and planted answers."""

import numpy as np
import pytest

import jaxdm
from jaxdm import training_sets
from jaxdm.datamodels import posterior, priors
from jaxdm.storage import identity


def planted(m: int, n: int = 30, t: int = 8, noise: float = 0.5, seed: int = 0):
  """Masks, margins, weights that vary together, and their covariance."""
  rng = np.random.default_rng(seed)
  factors = rng.normal(size=(4, n))
  covariance = factors.T @ factors / 4 + 0.05 * np.eye(n)
  weights = rng.multivariate_normal(np.zeros(n), covariance, size=t)
  masks = rng.random((m, n)) < 0.5
  margins = masks @ weights.T + 2.0 + noise * rng.normal(size=(m, t))
  return masks, margins, weights, covariance


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [20, 90])
def test_means_are_least_squares_with_the_priors_rows(m, weighted) -> None:
  masks, margins, _, covariance = planted(m)
  counts = np.random.default_rng(1).integers(1, 4, m) if weighted else np.ones(m, int)
  lam, n = 0.7, masks.shape[1]
  model = posterior.Posterior(
    masks, np.arange(m), covariance, counts.astype(float) if weighted else None
  )
  [found] = model.weights(margins, [lam])
  # Each model as often as it counts, and an intercept without a prior.
  x = np.repeat(masks.astype(float), counts, axis=0)
  y = np.repeat(margins, counts, axis=0)
  root = np.linalg.cholesky(covariance)
  centred = x - x.mean(axis=0)
  unit = np.linalg.eigvalsh(root.T @ centred.T @ centred @ root / len(x)).mean()
  prior_rows = np.sqrt(lam * unit * len(x)) * np.linalg.inv(root)
  stacked = np.block([[x, np.ones((len(x), 1))], [prior_rows, np.zeros((n, 1))]])
  expected, *_ = np.linalg.lstsq(
    stacked, np.concatenate([y, np.zeros((n, y.shape[1]))]), rcond=None
  )
  np.testing.assert_allclose(found, expected[:-1].T, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(model.intercepts(margins, found), expected[-1], rtol=1e-6)


def test_what_varies_together_is_learned_from_fewer_models() -> None:
  masks, margins, weights, covariance = planted(60, noise=2.0)
  fits = {
    name: jaxdm.fit_datamodels(masks, margins, candidates={name: prior})
    for name, prior in {
      "none": jaxdm.Prior(),
      "alone": jaxdm.Prior(covariance=np.eye(30)),
      "together": jaxdm.Prior(covariance=covariance),
    }.items()
  }
  left = {name: ((fit.weights_tn - weights) ** 2).mean() for name, fit in fits.items()}
  assert left["together"] < 0.6 * min(left["alone"], left["none"]), left
  assert fits["together"].status_t.tolist() == [0] * 8


def test_a_perfect_prior_is_kept_where_models_say_nothing_more() -> None:
  masks, _, weights, covariance = planted(40)
  noise = np.random.default_rng(3).normal(size=(40, 8))
  margins = masks @ weights.T + 3 * noise
  prior = jaxdm.Prior(offset=weights / 7, covariance=covariance)
  fit = jaxdm.fit_datamodels(
    masks, margins, candidates={"": prior}, config=jaxdm.FitConfig(folds=5)
  )
  apart = np.corrcoef(fit.weights_tn.ravel(), weights.ravel())[0, 1]
  assert apart > 0.99 and 0.7 < fit.weights_tn.std() / weights.std() < 1.3


def test_validation_chooses_between_a_lasso_and_a_covariance() -> None:
  rng = np.random.default_rng(0)
  masks = rng.random((120, 30)) < 0.5
  sparse = np.zeros((8, 30))
  sparse[np.arange(8), rng.integers(0, 30, 8)] = 3.0
  dense = planted(120)
  for weights, best in ((sparse, 0), (dense[2], 1)):
    margins = masks @ weights.T + rng.normal(size=(120, 8))
    candidates = {"lasso": jaxdm.Prior(), "joint": jaxdm.Prior(covariance=dense[3])}
    fit = jaxdm.fit_datamodels(
      training_sets.PackedMasks.of([masks]), margins, candidates=candidates
    )
    assert (fit.choice_t == best).all()


def test_covariances_of_scores_are_those_of_numpy() -> None:
  scores = np.random.default_rng(0).normal(size=(600, 5)) * [1, 2, 3, 4, 5]
  found = priors.by_scores(scores, independent=0.5)
  expected = scores.T @ scores / 600
  expected += 0.5 * np.diag(expected).mean() * np.eye(5)
  np.testing.assert_allclose(found, expected / np.diag(expected).mean(), rtol=1e-5)
  with pytest.raises(ValueError, match="scores must not all be 0"):
    priors.by_scores(np.zeros((3, 2)))


@pytest.mark.parametrize(
  "covariance, why",
  [
    (np.eye(4), "n = 5, got"),
    (np.eye(5, dtype=int), "n = 5, got int64"),
    (np.diag([1.0, 1, 1, 1, np.nan]), "finite"),
    (np.eye(5) + np.eye(5, k=1), "symmetric"),
    (np.diag([1.0, 1, 1, 1, -1]), "positive definite"),
  ],
)
def test_what_is_no_covariance_is_refused(covariance, why) -> None:
  masks = np.random.default_rng(0).random((40, 5)) < 0.5
  candidates = {"bad": jaxdm.Prior(covariance=covariance)}
  with pytest.raises(ValueError, match=why):
    jaxdm.fit_datamodels(masks, masks[:, :1] * 1.0, candidates=candidates)
  both = jaxdm.Prior(factors=1.0, covariance=np.eye(5))
  with pytest.raises(ValueError, match="factors and covariance exclude"):
    jaxdm.fit_datamodels(masks, masks[:, :1] * 1.0, candidates={"both": both})


def test_a_covariance_is_part_of_a_priors_identity() -> None:
  covariance = np.eye(300)
  digests = {jaxdm.Prior().digest((2, 300))}
  digests.add(jaxdm.Prior(covariance=covariance).digest((2, 300)))
  covariance[7, 8] = covariance[8, 7] = 1e-6
  digests.add(jaxdm.Prior(covariance=covariance).digest((2, 300)))
  assert len(digests) == 3 and identity.digest(1) not in digests
