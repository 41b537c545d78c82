import functools

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics
from test_datamodels import RNG, models

from jaxdm import datamodels, quality


@functools.cache
def fitted() -> datamodels.Datamodels:
  return datamodels.fit_datamodels(*models(300, noise=2.0))


def test_lds_and_pooled_correlation_equal_scipys() -> None:
  fit = fitted()
  masks, margins = models(150, noise=2.0, seed=1)
  found = fit.evaluate(masks, margins)
  predicted = fit.predict(masks)
  spearman = [scipy.stats.spearmanr(predicted[:, t], margins[:, t])[0] for t in range(4)]
  np.testing.assert_allclose(found.lds_t, spearman, atol=1e-6)
  np.testing.assert_allclose(found.lds.estimate, np.mean(spearman), atol=1e-6)
  pearson = scipy.stats.pearsonr(predicted.ravel(), margins.ravel())[0]
  np.testing.assert_allclose(found.pooled_correlation.estimate, pearson, atol=1e-5)
  assert found.lds.low < found.lds.estimate < found.lds.high
  assert found.num_models == 150
  r2 = metrics.r2_score(margins, predicted)
  np.testing.assert_allclose(found.r2.estimate, r2, atol=1e-5)
  assert found.ceiling is None


@pytest.mark.slow
def test_the_lds_interval_covers_fresh_estimates() -> None:
  fit = fitted()
  low, high = fit.evaluate(*models(200, noise=2.0, seed=1))[0][1:]
  fresh = [fit.evaluate(*models(2000, noise=2.0, seed=s)).lds.estimate for s in (2, 3)]
  assert low < np.mean(fresh) < high


def test_a_constant_prediction_scores_zero_and_not_nan() -> None:
  a = np.column_stack([np.zeros(5), np.arange(5)])
  np.testing.assert_array_equal(
    quality.columnwise_spearman(a, np.column_stack([np.arange(5)] * 2)), [0, 1]
  )


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_ceiling_is_the_lds_of_the_expected_margin(noise) -> None:
  masks, margins = models(1500, noise=noise)
  again = models(1500, noise=0.0)[1] + noise * RNG.normal(size=margins.shape)
  twice = np.concatenate([margins, again]), np.concatenate([masks, masks])
  expected = np.concatenate([models(1500, noise=0.0)[1]] * 2)
  found = quality.evaluate(expected, *twice)
  assert found.ceiling is not None
  np.testing.assert_allclose(found.ceiling.estimate, found.lds.estimate, atol=0.05)
  assert found.ceiling.low < found.ceiling.estimate < found.ceiling.high


def test_models_on_one_subset_are_resampled_together() -> None:
  masks, margins = models(60, noise=2.0)
  predicted = fitted().predict(masks)
  once = quality.evaluate(predicted, margins, masks).lds
  many = [np.concatenate([a] * 9) for a in (predicted, margins, masks)]
  repeated = quality.evaluate(*many).lds
  np.testing.assert_allclose(repeated.high - repeated.low, once.high - once.low, rtol=0.1)


def test_a_resample_is_scored_as_its_rows_would_be() -> None:
  rng = np.random.default_rng(0)
  subset = np.repeat(np.arange(30), 2)
  guess, truth = rng.normal(size=(2, 60, 3))
  guess[:, 1] = rng.integers(0, 3, 60)  # Many ties.
  drawn = rng.multinomial(30, np.full(30, 1 / 30), 5)
  found = quality._statistics(guess, truth, subset, drawn)
  for i, counts in enumerate(drawn):
    rows = np.repeat(np.arange(60), counts[subset])
    a, b = guess[rows], truth[rows]
    first, second = (truth[np.repeat(np.arange(30), counts) * 2 + j] for j in (0, 1))
    again = quality.columnwise_spearman(first, second)
    expected = [
      np.mean([scipy.stats.spearmanr(a[:, t], b[:, t])[0] for t in range(3)]),
      scipy.stats.pearsonr(a.ravel(), b.ravel())[0],
      metrics.r2_score(b, a),
      np.sqrt(np.maximum(again, 0)).mean(),
    ]
    np.testing.assert_allclose(found[:, i], expected, atol=1e-9)
