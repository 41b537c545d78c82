"""The sequential test on simulated margins, where the truth is known."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats
from support.simulated import Simulated, base, cases

from jaxdm import intervals, prng
from jaxdm.brittleness import verification
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.margin_curve import describe
from jaxdm.brittleness.search import search

TEST = verification.SequentialTest(most=16, confidence=0.95, skewness=0)


def run(test: verification.SequentialTest, margins: np.ndarray) -> tuple[bool, int]:
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
  test = verification.SequentialTest(most=most, confidence=confidence, skewness=0)
  false, _ = many(test, 0.0, 10_000)
  level = 1 - confidence
  assert false <= level + 3 * np.sqrt(level * confidence / 10_000)
  # It is not merely cautious: stopping for hopeless means costs little.
  assert false >= 0.8 * level - 3 * np.sqrt(level * confidence / 10_000)


class FixedDesign(verification.SequentialTest):
  """One look, at Student's quantile."""

  @property
  def looks(self) -> tuple[int, ...]:
    return (self.most,)


class FixedConfig(SearchConfig):
  """Searches with it."""

  def test(self, skewness: float = 0) -> verification.SequentialTest:
    return FixedDesign(
      most=self.verify_seeds, confidence=self.confidence, skewness=skewness
    )


@pytest.mark.slow
def test_searches_take_far_fewer_verification_models_than_a_fixed_design() -> None:
  # Twelve models at once have the power of up to sixteen that arrive one by one.
  configs = {
    "sequential": SearchConfig(verify_seeds=16),
    "fixed": FixedConfig(verify_seeds=12),
  }
  claimed, models = {}, {}
  for name, config in configs.items():
    simulated = Simulated(np.full(2000, 8.0), np.ones(2000), 3.0)
    found = search(cases(2000), simulated, config, base(2000, std=3.0))
    claimed[name] = np.array([v.k if not v.censored else 99 for v in found])
    models[name] = sum(seed.family == "verify" for _, _, seed in simulated.asked)
    # The margin is 0 at 8: claims below are false.
    assert np.mean(claimed[name] < 8) < 0.05
  ratios = np.log(claimed["sequential"]) - np.log(claimed["fixed"])
  assert abs(ratios.mean()) < 0.03
  assert models["sequential"] <= 0.55 * models["fixed"]


@pytest.mark.parametrize(
  "skewness,runs",
  [
    (1.0, 1500),
    pytest.param(0.5, 5000, marks=pytest.mark.slow),
  ],
)
def test_skewed_margins_pass_no_more_often_than_the_level(skewness, runs) -> None:
  gamma = scipy.stats.gamma(4 / skewness**2)
  rows = gamma.rvs((runs, 16), random_state=1) - gamma.mean()
  test = verification.SequentialTest(most=16, confidence=0.95, skewness=skewness)
  error = np.sqrt(0.05 * 0.95 / runs)
  false, mirrored, naive = (
    np.mean([run(one, row)[0] for row in sign * rows])
    for one, sign in ((test, 1), (test, -1), (TEST, 1))
  )
  assert 0.04 - 3 * error <= false <= 0.05 + 3 * error
  assert mirrored <= 0.05
  assert naive > false + 3 * error * (skewness == 1)  # Levels for normal margins.


def test_without_an_estimate_a_test_allows_for_all_skewness_that_was_checked() -> None:
  default = verification.SequentialTest(most=16, confidence=0.95)
  levels = [
    verification.SequentialTest(most=16, confidence=0.95, skewness=skewness).level(16)
    for skewness in (0, 0.25, 0.5, 1)
  ]
  assert levels == sorted(levels, reverse=True) and len(set(levels)) == 4
  assert default.level(16) == levels[-1]
  for skewness in (-0.1, 1.1, np.nan):
    with pytest.raises(ValueError, match="skewness must be in"):
      verification.SequentialTest(most=16, confidence=0.95, skewness=skewness)


def test_a_level_that_cannot_be_simulated_is_refused() -> None:
  for confidence in (0.5, 0.99995, 1.0, np.nan):
    with pytest.raises(ValueError, match=r"confidence must be in \(0.5, 0.9999\], got"):
      verification.SequentialTest(most=16, confidence=confidence)
  assert verification.SequentialTest(most=16, confidence=0.9999).looks


def test_skewness_of_one_kind_of_margins_is_pooled() -> None:
  rng = np.random.default_rng(0)
  margins = 3 * (rng.gamma(4, size=(32, 200)) - 4) + np.arange(200)
  found, error = verification.estimate_skewness(margins)
  samples = scipy.stats.skew(margins, bias=False)
  assert 0 < error.mean() < np.std(samples)
  # All targets have skewness 1: what single samples say beside that is noise.
  assert abs(found.mean() - samples.mean()) < 1e-9
  assert np.std(found - 1) < np.std(samples - 1) / 1.5
  margins[3, 5], margins[:, 6] = np.nan, np.inf
  again = verification.estimate_skewness(margins).estimate_t
  assert np.isnan(again).tolist() == [t == 6 for t in range(200)]
  np.testing.assert_allclose(again[:5], found[:5], atol=0.02)
  assert np.isnan(verification.estimate_skewness(margins[:7])).all()


def test_skewness_of_targets_that_differ_is_told_apart() -> None:
  rng = np.random.default_rng(0)
  margins = np.sign(np.arange(100) - 49.5) * (rng.gamma(1, size=(400, 100)) - 1)
  found = verification.estimate_skewness(margins).estimate_t
  samples = scipy.stats.skew(margins, bias=False)
  np.testing.assert_allclose(found, samples, rtol=0.1)


def test_estimates_keep_the_share_of_their_variance_that_is_no_noise() -> None:
  rng = np.random.default_rng(0)
  margins = rng.gamma(0.2, size=(20, 60)) * np.sign(np.arange(60) % 2 - 0.5)
  margins[8:, 40:] = np.nan
  samples = scipy.stats.skew(margins, bias=False, nan_policy="omit")
  # The noise of normal margins, by simulation.
  by_count = {
    r: scipy.stats.skew(rng.normal(size=(r, 50_000)), bias=False).var() for r in (20, 8)
  }
  noise = np.repeat([by_count[20], by_count[8]], [40, 20])
  spread = samples.var() - noise.mean()
  weights = spread / (spread + noise)
  found, error = verification.estimate_skewness(margins)
  expected = samples.mean() + weights * (samples - samples.mean())
  np.testing.assert_allclose(found, expected, atol=0.02)
  of_mean = (spread + noise.mean()) / 60
  expected = np.sqrt(weights * noise + (1 - weights) ** 2 * of_mean)
  np.testing.assert_allclose(error, expected, rtol=0.03)
  np.testing.assert_array_equal(
    verification.estimate_skewness(0 * margins[:, :3]).estimate_t, 0
  )


@pytest.mark.parametrize("targets", [1, 4, 30])
def test_an_error_of_the_skewness_is_as_large_as_the_estimates_are_wrong(targets) -> None:
  """Normal margins of 16 models, whose skewness is 0."""
  rng = np.random.default_rng(0)
  found = [
    verification.estimate_skewness(rng.normal(size=(16, targets))) for _ in range(600)
  ]
  wrong = np.sqrt(np.mean([one.estimate_t**2 for one in found]))
  stated = np.sqrt(np.mean([one.error_t**2 for one in found]))
  assert 0.85 < stated / wrong < 1.35


def test_a_search_allows_for_the_skewness_that_it_is_told() -> None:
  estimates = np.array([-1.5, 0.0, 0.4, 1.7, np.nan])
  skewness = verification.Skewness(estimates, np.array([0.1, 0.0, 0.2, 0.1, np.nan]))
  proofs: dict[tuple[int, int], list[float]] = {}

  def retrain(changes, seeds, *, progress):
    rows = []
    for (case, k), seed in zip(changes, seeds, strict=True):
      margin = 8.0 - k + 0.01 * np.sin(seed)
      rows.append(margin)
      if prng.stream_of(seed).family == "verify":
        proofs.setdefault((case.target, k), []).append(margin)
    return np.array(rows)

  config = SearchConfig()
  known = base(5, std=0.01)._replace(skewness=skewness)
  found = search(cases(5), retrain, config, known)
  assert [v.skewness for v in found] == [-1.5, 0.0, 0.4, 1.7, None]
  assert [v.level_checked for v in found] == [False, True, True, False, True]
  for verdict, bound in zip(found, [0.0, 0.0, 0.6, 1.0, 1.0], strict=True):
    # The bounds of a claim are at the level of its own test.
    test = verification.SequentialTest(most=16, confidence=0.95, skewness=bound)
    margins = proofs[verdict.target, verdict.k]
    quantile = scipy.stats.t.ppf(1 - test.level(len(margins)), len(margins) - 1)
    high = np.mean(margins) + quantile * scipy.stats.sem(margins)
    np.testing.assert_allclose(verdict.margin_high, high, rtol=1e-9)
    assert verdict.margin_high <= 0
  few = describe(np.full((4, 1), 8.0))
  [unknown] = search(cases(1), retrain, config, few)
  assert unknown.skewness is None and unknown.level_checked


def test_looks_end_at_the_most() -> None:
  assert TEST.looks == (3, 4, 5, 6, 8, 10, 12, 15, 16)
  assert verification.SequentialTest(most=2, confidence=0.9, skewness=0).looks == (2,)
  fixed = verification.SequentialTest(most=3, confidence=0.9, skewness=0)
  np.testing.assert_allclose(fixed.level(3), 0.1, atol=0.003)
  with pytest.raises(ValueError, match="must be one of"):
    TEST.passed(np.zeros(7))


@pytest.mark.parametrize(
  "confidence,skewness", [(0.9, 0), (0.95, 0), (0.99, 0), (0.95, 0.25), (0.95, 0.5)]
)
def test_a_simulated_level_is_on_the_safe_side(confidence, skewness) -> None:
  """With one look it is the probability of t below its own quantile."""
  one_look = verification.SequentialTest(most=3, confidence=confidence, skewness=skewness)
  exact, share = 1 - confidence, 1 - confidence
  if skewness:
    gamma = scipy.stats.gamma(4 / skewness**2)
    rows = gamma.rvs((400_000, 3), random_state=1) - gamma.mean()
    t = rows.mean(axis=1) / scipy.stats.sem(rows, axis=1)
    exact = np.quantile(scipy.stats.t.cdf(t, 2), share)
  error = np.sqrt(share * confidence / 200_000)
  assert exact - 5 * error < one_look.level(3) < exact


def test_a_mean_above_zero_ends_the_test_and_the_level_counts_on_it() -> None:
  rows = np.random.default_rng(0).normal(size=(20_000, 16))
  results = [run(TEST, row) for row in rows]
  for row, (passed, used) in zip(rows, results, strict=True):
    end = min((n for n in TEST.looks if row[:n].mean() > 0), default=16)
    assert used <= end if passed else used == end
  # Tests at these levels that went on would pass more often than they may.
  endless = [any(TEST.bounds(row[:n])[2] <= 0 for n in TEST.looks) for row in rows]
  assert 0.045 < np.mean([passed for passed, _ in results]) < 0.053 < np.mean(endless)


def level_at_once(test: verification.SequentialTest) -> float:
  """The level at the last look, of all simulated margins in memory at the same time."""
  rng, most = prng.generator_for(0, "sequential-test"), test.most
  if test.skewness:
    gamma = 4 / test.skewness**2
    values = rng.standard_gamma(gamma, (200_000, most)) - gamma
  else:
    values = rng.standard_normal((200_000, most))
  totals, squares = values.cumsum(axis=1), (values**2).cumsum(axis=1)
  least, open_tests = np.ones(200_000), np.ones(200_000, bool)
  for count in test.looks:
    mean = totals[:, count - 1] / count
    variance = (squares[:, count - 1] - count * mean**2) / (count - 1)
    level = scipy.stats.t.cdf(mean / np.sqrt(variance / count), count - 1)
    if count >= test.least_to_pass:
      least = np.where(open_tests, np.minimum(least, level * most / count), least)
    open_tests &= mean <= 0
  error = np.sqrt(test.confidence * (1 - test.confidence) / 200_000)
  return float(np.quantile(least, 1 - test.confidence - 2 * error))


@pytest.mark.parametrize("most,skewness", [(2, 0), (16, 0), (16, 1), (37, 0.5), (64, 0)])
def test_a_level_does_not_depend_on_how_many_are_simulated_at_a_time(
  most, skewness, monkeypatch
) -> None:
  test = verification.SequentialTest(most=most, confidence=0.95, skewness=skewness)
  monkeypatch.setattr(verification, "_BLOCK_NUMBERS", 2**21)
  verification._level_scale.cache_clear()
  found = test.level(most)
  monkeypatch.setattr(verification, "_BLOCK_NUMBERS", 9_999 * most)
  verification._level_scale.cache_clear()
  assert test.level(most) == found == level_at_once(test)


@pytest.mark.slow
def test_levels_for_a_thousand_models_take_little_memory() -> None:
  verification._level_scale.cache_clear()
  tracemalloc.start()
  test = verification.SequentialTest(most=1000, confidence=0.95, skewness=0)
  level = test.level(1000)
  _, peak_bytes = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert 0.05 < level < 0.5 and peak_bytes < 2**28


def test_clear_cases_end_at_once_and_nan_never_passes() -> None:
  assert run(TEST, np.linspace(-9, -8.9, 16)) == (True, 5)
  assert run(TEST, np.linspace(1, 2, 16)) == (False, 3)
  assert TEST.passed(np.array([-9, np.nan, -9.0])) is False


def test_equal_margins_pass_late_and_so_does_a_mean_of_zero() -> None:
  """Of a deterministic training, or of votes whose spread is not seen yet."""
  for value in (-1.0, 0.0):
    assert run(TEST, np.full(16, value)) == (True, 8)
    few = verification.SequentialTest(most=2, confidence=0.95)
    assert run(few, np.full(2, value)) == (True, 2)
  assert run(TEST, np.full(16, 0.1)) == (False, 3)


@pytest.mark.parametrize(
  "confidence, most_levels", [(0.9, 1.5), (0.95, 1.5), (0.99, 2.3)]
)
@pytest.mark.parametrize("skewness", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_margins_with_two_peaks_pass_hardly_more_often_than_the_level(
  spread, skewness, confidence, most_levels
) -> None:
  """Such as of trainings that succeed or fail, in any proportion; the mean is 0."""
  test = verification.SequentialTest(most=16, confidence=confidence, skewness=skewness)
  chances = np.linspace(0.01, 0.5, 981)
  known = scipy.stats.bernoulli.stats(chances, moments="s")
  upper = chances[np.abs(known - skewness).argmin()]
  rng, runs = np.random.default_rng(1), 4000
  peaks = np.where(rng.random((runs, 16)) < upper, 1 - upper, -upper)
  rows = peaks + spread * rng.normal(size=(runs, 16))
  false = np.mean([run(test, row)[0] for row in rows])
  level = 1 - confidence
  assert false < most_levels * level + 3 * np.sqrt(most_levels * level / runs)
  # One model fewer would pass by chance alone too often, unless 5 models are enough.
  least = test.least_to_pass
  assert least == 5 or (1 - upper) ** (least - 1) > level >= (1 - upper) ** least


@pytest.mark.parametrize("skewness", [0.0, 0.5, 1.0])
def test_few_models_may_pass_a_test_of_few(skewness) -> None:
  """The documentation says what that costs."""
  for most in (2, 4, 8):
    test = verification.SequentialTest(most=most, confidence=0.95, skewness=skewness)
    assert test.least_to_pass <= most
    assert run(test, np.linspace(-9, -8.9, most))[0]


@pytest.mark.parametrize("value", [0.1, 0.3, -7.7, 1e-300])
@pytest.mark.parametrize("count", [8, 10, 12, 31])
def test_equal_margins_have_no_skewness_whatever_their_mean_is_rounded_to(
  value, count
) -> None:
  found = verification.estimate_skewness(np.full((count, 1), value))
  assert found.estimate_t == [0]


@pytest.mark.parametrize("unit", [1, 1e-170, 1e-300, 1e150])
def test_the_unit_of_margins_decides_nothing(unit) -> None:
  margins = np.array([-3, 2, 1, -4, -2.0])
  mean, low, high = intervals.student(margins * unit, 0.975)
  expected = scipy.stats.t.interval(0.95, 4, margins.mean(), scipy.stats.sem(margins))
  np.testing.assert_allclose(np.array([mean, low, high]) / unit, [-1.2, *expected])
  skewness = verification.estimate_skewness(np.tile(margins, 2)[:, None] * unit)
  one = verification.estimate_skewness(np.tile(margins, 2)[:, None])
  np.testing.assert_allclose(skewness.estimate_t, one.estimate_t)


def test_a_skewness_between_two_steps_has_the_level_of_the_larger() -> None:
  def level(skewness: float) -> float:
    test = verification.SequentialTest(most=4, confidence=0.95, skewness=skewness)
    return test.level(4)

  assert level(0.3) == level(0.5) < level(0.25)
