"""What verdicts say together, against other formulas and against all resamples."""

import numpy as np
import scipy.stats
from support import pages

from jaxdm.brittleness import verdicts


def test_levels_were_checked_at_a_skewness_of_up_to_1() -> None:
  for skewness, checked in [(None, True), (-1.0, True), (1.0, True), (1.01, False)]:
    assert pages.verdict(0, "m", 3)._replace(skewness=skewness).level_checked == checked


def test_medians_and_shares_have_intervals() -> None:
  found = [pages.verdict(0, "m", k) for k in (3, 5, -1, 4, 4, 8, 5, -1, 2)]
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
  ends = verdicts.share_flipped([pages.verdict(0, "m", 2)] * 9, np.array([1, 2])).T
  for count, found in zip((0, 9), ends, strict=True):
    exact = scipy.stats.binomtest(count, 9).proportion_ci()
    np.testing.assert_allclose(found, [count / 9, exact.low, exact.high], atol=1e-9)
  assert verdicts.median_k([pages.verdict(0, "m", -1)] * 3) == (np.inf,) * 3
  assert verdicts.median_k([pages.verdict(0, "m", k) for k in (2, 2, 7, -1)])[0] == 2


def test_the_interval_of_a_median_is_that_of_all_resamples() -> None:
  """The median of 101 drawn from 1 to 101 is at most j if 51 or more of them are."""
  numbers = np.arange(1, 102)
  at_most = scipy.stats.binom(101, numbers / 101).sf(50)
  exact = [numbers[at_most >= share][0] for share in (0.025, 0.975)]
  median, *ends = verdicts.median_k([pages.verdict(0, "m", int(k)) for k in numbers])
  assert median == 51
  np.testing.assert_allclose(ends, exact, atol=1)
