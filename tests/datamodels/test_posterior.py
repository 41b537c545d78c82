"""Gaussian posteriors of weights, against least squares and planted answers."""

import threading

import numpy as np
import pytest

import jaxdm
from jaxdm import memory, training_sets
from jaxdm.datamodels import fit as fit_lib
from jaxdm.datamodels import posterior
from jaxdm.lasso.result import Status


def planted(m: int, n: int = 30, t: int = 8, noise: float = 0.5, seed: int = 0):
  """Masks, margins, weights that vary together, and the scores as which they do."""
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(4, n))
  weights = rng.normal(size=(t, 4)) @ scores / 2 + 0.2 * rng.normal(size=(t, n))
  masks = rng.random((m, n)) < 0.5
  margins = masks @ weights.T + 2.0 + noise * rng.normal(size=(m, t))
  return masks, margins, weights, scores


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [20, 90])
def test_means_are_least_squares_with_the_priors_rows(m, weighted) -> None:
  masks, margins, _, scores = planted(m)
  counts = np.random.default_rng(1).integers(1, 4, m) if weighted else np.ones(m, int)
  covariance, n, multiple = posterior.covariance(scores), masks.shape[1], 0.7
  weights_m = counts.astype(float) if weighted else None
  model = posterior.Posterior(masks, np.arange(m), covariance, weights_m)
  found = model.weights(margins, multiple)
  # Each model as often as it counts, and an intercept without a prior.
  x = np.repeat(masks.astype(float), counts, axis=0)
  y = np.repeat(margins, counts, axis=0)
  root = np.linalg.cholesky(covariance)
  centred = x - x.mean(axis=0)
  unit = np.linalg.eigvalsh(root.T @ centred.T @ centred @ root / len(x)).mean()
  prior_rows = np.sqrt(multiple * unit * len(x)) * np.linalg.inv(root)
  stacked = np.block([[x, np.ones((len(x), 1))], [prior_rows, np.zeros((n, 1))]])
  expected, *_ = np.linalg.lstsq(
    stacked, np.concatenate([y, np.zeros((n, y.shape[1]))]), rcond=None
  )
  np.testing.assert_allclose(found, expected[:-1].T, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(model.intercepts(margins, found), expected[-1], rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_predictions(weighted) -> None:
  masks, margins, _, scores = planted(80)
  fit, check = np.arange(0, 60), np.arange(60, 80)
  weights_c = np.linspace(1, 3, 20) if weighted else None
  covariance = posterior.covariance(scores)
  model = posterior.Posterior(masks, fit, covariance)
  multiples = posterior.penalties(4)
  assert multiples[0] == np.inf and (np.diff(multiples) < 0).all()
  found = model.errors(
    margins[fit], model.project(check), margins[check], multiples, weights_c
  )
  for row, multiple in zip(found, multiples, strict=True):
    weights = model.weights(margins[fit], multiple)
    guess = masks[check] @ weights.T + model.intercepts(margins[fit], weights)
    expected = np.average((margins[check] - guess) ** 2, axis=0, weights=weights_c)
    np.testing.assert_allclose(row, expected, rtol=1e-9)
  np.testing.assert_allclose(
    found[0], np.average((margins[check] - margins[fit].mean(0)) ** 2, 0, weights_c)
  )


def test_what_varies_together_is_learned_from_fewer_models() -> None:
  masks, margins, weights, scores = planted(60, noise=2.0)
  fits = {
    name: jaxdm.fit_datamodels(masks, margins, candidates={name: prior})
    for name, prior in {
      "none": jaxdm.Prior(),
      "alone": jaxdm.Prior(covariance_scores=np.eye(30)),
      "together": jaxdm.Prior(covariance_scores=scores),
    }.items()
  }
  left = {name: ((fit.weights_tn - weights) ** 2).mean() for name, fit in fits.items()}
  assert left["together"] < 0.7 * min(left["alone"], left["none"]), left
  assert fits["together"].status_t.tolist() == [Status.CONVERGED] * 8


def test_a_perfect_prior_is_kept_where_models_say_nothing_more() -> None:
  masks, _, weights, scores = planted(40)
  margins = masks @ weights.T + 3 * np.random.default_rng(3).normal(size=(40, 8))
  prior = jaxdm.Prior(offset=weights / 7, covariance_scores=scores)
  config = jaxdm.FitConfig(folds=5)
  fit = jaxdm.fit_datamodels(masks, margins, candidates={"": prior}, config=config)
  alike = np.corrcoef(fit.weights_tn.ravel(), weights.ravel())[0, 1]
  assert alike > 0.99 and 0.7 < fit.weights_tn.std() / weights.std() < 1.3


@pytest.mark.parametrize("folds", [1, 5])
def test_validation_chooses_between_a_lasso_and_a_covariance(folds) -> None:
  rng = np.random.default_rng(0)
  masks = rng.random((120, 30)) < 0.5
  sparse = np.zeros((8, 30))
  sparse[np.arange(8), rng.integers(0, 30, 8)] = 3.0
  _, _, dense, scores = planted(120)
  for weights, best in ((sparse, 0), (dense, 1)):
    margins = masks @ weights.T + rng.normal(size=(120, 8))
    candidates = {
      "lasso": jaxdm.Prior(),
      "joint": jaxdm.Prior(covariance_scores=scores),
    }
    fit = jaxdm.fit_datamodels(
      training_sets.PackedMasks.of([masks]),
      margins,
      candidates=candidates,
      config=jaxdm.FitConfig(folds=folds),
    )
    assert (fit.choice_t == best).all()


def test_penalties_are_not_judged_on_the_models_that_chose_them() -> None:
  """Of pure noise, the more penalties there are, the better the best one looks."""
  noise = np.random.default_rng(0).normal(size=(5, 20, 300)) ** 2

  def choose(errors_lt: np.ndarray) -> np.ndarray:
    return errors_lt.argmin(axis=0)

  honest = fit_lib.cross_validation_error(choose, noise) / noise[:, 0].sum()
  assert abs(honest - 1) < 0.1
  assert noise.sum(axis=0).min(axis=0).sum() / noise[:, 0].sum() < 0.6
  # By a loop; a path that has ended is judged where it ended.
  noise[2, 12:] = np.inf
  total = 0.0
  for i in range(5):
    for t in range(300):
      others = sum(noise[j, :, t] for j in range(5) if j != i)
      place = int(np.argmin(others))
      total += noise[i, min(place, 11) if i == 2 else place, t]
  assert fit_lib.cross_validation_error(choose, noise) == pytest.approx(total)


def test_examples_and_targets_of_which_models_say_nothing() -> None:
  masks, margins, _, scores = planted(90)
  masks[:, 3], masks[:, 4] = True, False
  scores[:, [3, 4]] = 0  # They vary with no other.
  margins[:70, 2] = np.nan
  margins[:, 5] = 1.5
  prior = jaxdm.Prior(covariance_scores=scores)
  lines: list[str] = []
  fit = jaxdm.fit_datamodels(
    masks, margins, candidates={"joint": prior}, report=lines.append
  )
  assert fit.status_t[2] == Status.NONFINITE and (fit.weights_tn[2] == 0).all()
  np.testing.assert_allclose(fit.weights_tn[5], 0, atol=1e-6)
  np.testing.assert_allclose(fit.weights_tn[:, [3, 4]], 0, atol=1e-12)
  assert not any("no weight of their own" in line for line in lines)
  constant = np.ones((90, 30), bool)
  model = posterior.Posterior(constant, np.arange(90), posterior.covariance(scores))
  np.testing.assert_array_equal(model.weights(margins[:, :2], 0.03), 0)


def test_two_processes_fit_the_same_as_one(tmp_path) -> None:
  masks, margins, weights, scores = planted(90)
  candidates = {
    "none": jaxdm.Prior(),
    "joint": jaxdm.Prior(offset=weights, covariance_scores=scores),
  }
  alone = jaxdm.fit_datamodels(masks, margins, candidates=candidates, tile=3)
  found = {}

  def fit(index: int) -> None:
    found[index] = jaxdm.fit_datamodels(
      masks,
      margins,
      candidates=candidates,
      tile=3,
      folder=tmp_path,
      share=(index, 2),
    )

  threads = [threading.Thread(target=fit, args=(i,)) for i in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(timeout=60)
  again = jaxdm.fit_datamodels(
    masks, margins, candidates=candidates, tile=3, folder=tmp_path
  )
  assert (alone.choice_t == 1).all()
  for other in (found[0], found[1], again):
    np.testing.assert_array_equal(other.weights_tn, alone.weights_tn)
    np.testing.assert_array_equal(other.intercepts_t, alone.intercepts_t)


def test_covariances_of_scores_are_those_of_numpy() -> None:
  scores = np.random.default_rng(0).normal(size=(600, 5)) * [1, 2, 3, 4, 5]
  expected = scores.T @ scores / 600
  expected += posterior.INDEPENDENT * np.diag(expected).mean() * np.eye(5)
  found = posterior.covariance(scores)
  np.testing.assert_allclose(found, expected / np.diag(expected).mean(), rtol=1e-9)
  with pytest.raises(ValueError, match="not all 0"):
    posterior.covariance(np.zeros((3, 2)))


def test_what_cannot_be_used_is_refused(monkeypatch) -> None:
  masks = np.random.default_rng(0).random((40, 5)) < 0.5

  def fit(prior: jaxdm.Prior) -> None:
    jaxdm.fit_datamodels(masks, masks[:, :1] * 1.0, candidates={"bad": prior})

  with pytest.raises(ValueError, match=r"covariance_scores must be \[s, 5\] in 'bad'"):
    fit(jaxdm.Prior(covariance_scores=np.ones((3, 4))))
  with pytest.raises(ValueError, match="factors and covariance_scores exclude"):
    fit(jaxdm.Prior(factors=1.0, covariance_scores=np.ones((3, 5))))
  monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
  with pytest.raises(jaxdm.UserError, match="^priors with a covariance of 5 examples"):
    fit(jaxdm.Prior(covariance_scores=np.ones((3, 5))))


def test_covariance_scores_are_part_of_a_priors_identity() -> None:
  scores = np.zeros((9, 300))
  digests = {jaxdm.Prior().digest((2, 300))}
  digests.add(jaxdm.Prior(covariance_scores=scores).digest((2, 300)))
  scores[7, 8] = 1e-6
  digests.add(jaxdm.Prior(covariance_scores=scores).digest((2, 300)))
  assert len(digests) == 3


def test_all_targets_of_a_posterior_share_the_penalty() -> None:
  """Though one is all noise, and another has none."""
  rng = np.random.default_rng(0)
  masks = rng.random((80, 12)) < 0.5
  weights = rng.normal(size=(12, 6)) * np.geomspace(0.01, 10, 6)
  margins = masks @ weights + rng.normal(size=(80, 6))
  prior = jaxdm.Prior(covariance_scores=np.eye(12))
  fit = jaxdm.fit_datamodels(masks, margins, candidates={"": prior})
  assert len(np.unique(fit.lambdas_t)) == 1
