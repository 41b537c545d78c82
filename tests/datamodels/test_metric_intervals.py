"""Intervals of metrics from few subsets."""

import numpy as np
import scipy.stats

from jaxdm import intervals
from jaxdm.datamodels import metrics


def test_heavy_tails_leave_two_degrees_of_freedom() -> None:
  """And none leave m - 1; quantiles of Student's t from tables."""
  heavy = intervals.skewed(1.0, 2.0, 40, 0.0, 1e9)
  np.testing.assert_allclose(heavy, [1 - 2 * 4.3027, 1 + 2 * 4.3027], rtol=1e-4)
  light = intervals.skewed(0.0, 1.0, 40, 0.0, 1.0)
  np.testing.assert_allclose(light, [-2.0227, 2.0227], rtol=1e-4)


def held_out(subsets: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Predictions and margins of as many models, correlated by .7."""
  rng = np.random.default_rng(seed)
  guess = rng.normal(size=(subsets, 3))
  return guess, guess + rng.normal(size=guess.shape)


def test_five_subsets_say_something() -> None:
  found = metrics.evaluate(*held_out(5), np.eye(5, dtype=bool))
  for interval in (found.lds, found.pooled_correlation, found.r2):
    assert np.isfinite(interval).all() and interval.low > -1


def test_few_subsets_have_the_width_of_a_jackknife() -> None:
  """In Fisher's scale, by Student's t with the degrees of freedom of their tails."""
  s, ratios = 12, []
  for seed in range(40):
    guess, truth = held_out(s, seed)

    def lds(rows: np.ndarray, guess=guess, truth=truth) -> float:
      pairs = zip(guess[rows].T, truth[rows].T, strict=True)
      return np.mean([scipy.stats.spearmanr(a, b)[0] for a, b in pairs])

    whole = lds(np.arange(s))
    left = np.array([lds(np.delete(np.arange(s), i)) for i in range(s)])
    pseudo = s * whole - (s - 1) * left
    freedom = np.clip(2 * s / max(scipy.stats.kurtosis(pseudo) + 2, 1), 2, s - 1)
    half = scipy.stats.t.ppf(0.975, freedom) * scipy.stats.sem(pseudo)
    found = metrics.evaluate(guess, truth, np.eye(s, dtype=bool)).lds
    width = np.arctanh(found.high) - np.arctanh(found.low)
    ratios.append(width / (2 * half / (1 - whole**2)))
  assert 0.96 < np.median(ratios) < 1.04
