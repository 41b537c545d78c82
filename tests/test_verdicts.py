"""The sequential test on simulated margins, where the truth is known."""

import numpy as np
import pytest
import scipy.stats
from test_brittleness import Simulated, cases

from jaxdm import brittleness, verdicts

TEST = verdicts.SequentialTest(most=16, confidence=0.95)


def run(test: verdicts.SequentialTest, margins: np.ndarray) -> tuple[bool, int]:
  """Whether it passed, and on how many models."""
  for look in test.looks:
    passed = test.passed(margins[:look])
    if passed is not None:
      return passed, look
  raise AssertionError("the last look must decide")


def many(test, mean: float, runs: int, seed: int = 0, scale: float = 3.0):
  rows = scale * (mean + np.random.default_rng(seed).normal(size=(runs, test.most)))
  passed, used = zip(*(run(test, row) for row in rows), strict=True)
  return np.mean(passed), np.mean(used)


@pytest.mark.slow
@pytest.mark.parametrize("most,confidence", [(16, 0.95), (8, 0.9), (2, 0.95), (40, 0.99)])
def test_false_claims_over_ten_thousand_runs_stay_at_the_level(most, confidence) -> None:
  test = verdicts.SequentialTest(most=most, confidence=confidence)
  false, _ = many(test, 0.0, 10_000)
  level = 1 - confidence
  assert false <= level + 3 * np.sqrt(level * confidence / 10_000)
  # It is not merely cautious: stopping for hopeless means costs little.
  assert false >= 0.8 * level - 3 * np.sqrt(level * confidence / 10_000)


class FixedDesign(verdicts.SequentialTest):
  """One look, at Student's quantile."""

  @property
  def looks(self) -> tuple[int, ...]:
    return (self.most,)


class FixedConfig(brittleness.SearchConfig):
  """Searches with it."""

  @property
  def test(self) -> verdicts.SequentialTest:
    return FixedDesign(most=self.verify_seeds, confidence=self.confidence)


@pytest.mark.slow
def test_searches_take_half_the_verification_models_of_a_fixed_design() -> None:
  # Twelve models at once have the power of up to sixteen that arrive one by one.
  configs = {
    "sequential": brittleness.SearchConfig(verify_seeds=16),
    "fixed": FixedConfig(verify_seeds=12),
  }
  claimed, models = {}, {}
  for name, config in configs.items():
    simulated = Simulated(np.full(2000, 8.0), np.ones(2000), 3.0)
    found = brittleness.search(cases(2000), simulated, config)
    claimed[name] = np.array([v.k if not v.censored else 99 for v in found])
    models[name] = sum(seed.family == "verify" for _, _, seed in simulated.asked)
    # The margin is 0 at 8: claims below are false.
    assert np.mean(claimed[name] < 8) < 0.05
  assert abs(claimed["sequential"].mean() - claimed["fixed"].mean()) < 0.5
  assert models["sequential"] <= models["fixed"] / 2


def test_looks_end_at_the_most() -> None:
  assert TEST.looks == (3, 4, 5, 6, 8, 10, 12, 15, 16)
  assert verdicts.SequentialTest(most=2, confidence=0.9).looks == (2,)
  fixed = verdicts.SequentialTest(most=3, confidence=0.9)
  np.testing.assert_allclose(fixed.level(3), 0.1, atol=0.003)
  with pytest.raises(ValueError, match="must be one of"):
    TEST.passed(np.zeros(7))


def test_clear_cases_end_at_once_and_nan_never_passes() -> None:
  assert run(TEST, np.linspace(-9, -8.9, 16)) == (True, 3)
  assert run(TEST, np.linspace(1, 2, 16)) == (False, 3)
  assert TEST.passed(np.array([-9, np.nan, -9.0])) is False


def test_bounds_are_student_t_and_decide() -> None:
  values = np.random.default_rng(0).normal(size=9)
  mean, low, high = verdicts.mean_bounds(values, 0.975)
  interval = scipy.stats.t.interval(0.95, 8, values.mean(), scipy.stats.sem(values))
  np.testing.assert_allclose([mean, low, high], [values.mean(), *interval])
  for shift in (-3.0, -0.6):
    margins = np.random.default_rng(1).normal(size=8) + shift
    assert TEST.passed(margins) == (True if TEST.bounds(margins)[2] <= 0 else None)


def _verdict(k: int) -> verdicts.Verdict:
  return verdicts.Verdict(
    target=0,
    method="m",
    k=k,
    censored=k < 0,
    k_tried=9,
    mean_margin=0.0,
    margin_low=0.0,
    margin_high=0.0,
    accuracy=0.0,
    models=8,
    largest=9,
    largest_margin=-1.0,
    models_used=1,
    finished=True,
  )


def test_medians_and_shares_have_intervals() -> None:
  found = [_verdict(k) for k in (3, 5, -1, 4, 4, 8, 5, -1, 2)]
  median, low, high = verdicts.median_k(found)
  assert median == 5 and 2 <= low < 5 < high
  share, low, high = verdicts.share_flipped(found, np.array([2, 5, 100]))
  np.testing.assert_allclose(share, [1 / 9, 6 / 9, 7 / 9])
  assert (low < share).all() and (share < high).all()
  sizes = np.array([1, 2, 5, 100])
  for count, ends in zip(
    (0, 1, 6, 7), verdicts.share_flipped(found, sizes).T, strict=True
  ):
    exact = scipy.stats.binomtest(count, 9).proportion_ci()
    np.testing.assert_allclose(ends, [count / 9, exact.low, exact.high], atol=1e-9)
  assert verdicts.median_k([_verdict(-1)] * 3) == (np.inf,) * 3
