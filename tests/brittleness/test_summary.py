"""What verdicts say together, against other formulas and simulations."""

import numpy as np
import pytest
import scipy.stats
from support import pages

from jaxdm.brittleness import repairs, summary, verdicts


def test_levels_were_checked_at_a_skewness_of_up_to_1() -> None:
  for skewness, checked in [(None, True), (-1.0, True), (1.0, True), (1.01, False)]:
    assert pages.verdict(0, "m", 3)._replace(skewness=skewness).level_checked == checked


def test_medians_and_shares_have_intervals() -> None:
  found = [pages.verdict(0, "m", k) for k in (3, 5, -1, 4, 4, 8, 5, -1, 2)]
  median, low, high = values(found)
  assert median == 5 and 2 <= low < 5 < high
  share, low, high = summary.share_flipped(found, np.array([2, 5, 100]))
  np.testing.assert_allclose(share, [1 / 9, 6 / 9, 7 / 9])
  assert (low < share).all() and (share < high).all()
  sizes = np.array([1, 2, 5, 100])
  for count, ends in zip(
    (0, 1, 6, 7), summary.share_flipped(found, sizes).T, strict=True
  ):
    exact = scipy.stats.binomtest(count, 9).proportion_ci()
    np.testing.assert_allclose(ends, [count / 9, exact.low, exact.high], atol=1e-9)
  ends = summary.share_flipped([pages.verdict(0, "m", 2)] * 9, np.array([1, 2])).T
  for count, found in zip((0, 9), ends, strict=True):
    exact = scipy.stats.binomtest(count, 9).proportion_ci()
    np.testing.assert_allclose(found, [count / 9, exact.low, exact.high], atol=1e-9)
  assert values([pages.verdict(0, "m", -1)] * 3) == (np.inf, 1, np.inf)
  assert values([pages.verdict(0, "m", k) for k in (2, 2, 7, -1)])[0] == 2


@pytest.mark.parametrize("count", [1, 3, 5, 6, 8, 24, 64, 120])
def test_the_interval_of_a_median_covers_it(count) -> None:
  rng, runs = np.random.default_rng(0), 400
  covered = 0
  for _ in range(runs):
    # The median of the population is 10: half of it is at most 10, and half at least.
    numbers = np.where(
      rng.random(count) < 0.5, rng.integers(1, 11, count), rng.integers(10, 30, count)
    )
    group = [pages.verdict(t, "m", int(k)) for t, k in enumerate(numbers)]
    median, low, high = values(group)
    assert low <= median <= high
    covered += low <= 10 <= high
  assert covered > 0.95 * runs - 3 * np.sqrt(0.05 * runs)
  assert (low, high) == (1, np.inf) or count > 5


def test_ends_of_an_interval_are_those_of_tables() -> None:
  """Of the nonparametric interval of a median: ranks 7 and 18 of 24, 24 and 41 of 64."""
  for count, ends in {6: (1, 6), 24: (7, 18), 64: (24, 41)}.items():
    group = [pages.verdict(t, "m", t + 1) for t in range(count)]
    assert values(group)[1:] == ends


def test_a_median_that_unfinished_searches_may_change_is_unknown() -> None:
  group = [pages.verdict(t, "m", 9) for t in range(30)]
  open_search = pages.verdict(30, "m", -1)._replace(finished=False)
  claimed = pages.verdict(31, "m", 20)._replace(finished=False)
  assert values([*group, open_search, claimed])[0] == 9
  assert summary.median_k([open_search] * 6) is None
  assert summary.median_k([claimed] * 6) is None


def values(group: list[verdicts.Verdict]) -> tuple[float, float, float]:
  """A median that is known."""
  known = summary.median_k(group)
  assert known is not None
  return known


def test_summaries_count_what_is_censored_unchecked_and_half_right() -> None:
  found = summary.summarise(
    [
      pages.verdict(0, "m", -1, largest=9),
      pages.verdict(1, "m", -1, largest=4),
      pages.verdict(2, "m", 2, largest=20, accuracy=0.5, skewness=1.5),
      pages.verdict(3, "m", -1, largest=30, skewness=1.5),
    ]
  )["m"]
  expected = {
    "censored_above": 4,
    "largest_k_tried": 30,
    "claims_at_unchecked_skewness": 1,
    "share_mostly_wrong": 0.25,
  }
  assert {name: found[name] for name in expected} == expected
  mended = [pages.repair(t, 2, accuracy=a) for t, a in enumerate((0.5, 0.49))]
  assert summary.summarise(mended)["datamodel"]["share_mostly_right"] == 0.5


def test_a_repair_has_the_skewness_of_the_margins() -> None:
  """Searches for repairs look at negated ones."""
  assert repairs.as_repair(pages.verdict(0, "m", 2, skewness=0.7)).skewness == -0.7
