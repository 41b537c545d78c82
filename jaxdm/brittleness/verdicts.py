"""Verdicts, the results of searches: one for each case, and what many say together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxdm import intervals
from jaxdm.brittleness.verification import MOST_SKEWNESS


class Verdict(NamedTuple):
  """What was found for one case.

  >>> import jaxdm
  >>> verdict = jaxdm.Verdict(
  ...   target=0, method="mine", k=2, censored=False, k_tried=2, mean_margin=-1.0,
  ...   margin_low=-2.0, margin_high=-0.1, accuracy=0.2, models=8, largest=3,
  ...   largest_margin=-2.0, models_used=20, finished=True, examples=(5, 9, 1))
  >>> verdict.examples[: verdict.k]  # Removing these two makes models wrong.
  (5, 9)

  Attributes:
    target: index among the targets.
    method: the method that ranked the examples.
    k: examples changed in the smallest verified change; -1 if censored.
    censored: whether no change of up to `largest` examples was verified.
    k_tried: the size that the margin below belongs to: k, or, if censored, the size that
      failed the verification, or `largest` where the first model there was hopeless.
    mean_margin: of the models trained on that change, in logits.
    margin_low: lower bound of the expected margin.
    margin_high: upper bound; a claim is margin_high <= 0, or margin_low >= 0 of a repair.
      Each bound is one-sided, by Student's t, at the level that `SequentialTest` has for
      so many models.
    accuracy: share of those models that are right about the target.
    models: how many of them there are.
    largest: the largest size that the search may try.
    largest_margin: margin of the search's first model, trained there: unlike the margin
      above it is of a size that no margin has chosen.
    models_used: models trained for this case, search and verification together.
    finished: False if the budget ran out first.
    skewness: of the target's margins, as estimated from other models (see `search`);
      None if no estimate was given.
    examples: int, training examples that the search may change, the first ones first;
      `examples[:k]` is what was found.
    is_repair: whether the target was wrong and the change is to make it right.
  """

  target: int
  method: str
  k: int
  censored: bool
  k_tried: int
  mean_margin: float
  margin_low: float
  margin_high: float
  accuracy: float
  models: int
  largest: int
  largest_margin: float
  models_used: int
  finished: bool
  skewness: float | None = None
  examples: tuple[int, ...] = ()
  is_repair: bool = False

  @property
  def changes_needed(self) -> float:
    """`k`, and infinity if no change was verified: for medians and comparisons."""
    return np.inf if self.censored else self.k

  @property
  def level_checked(self) -> bool:
    """Whether the level of the test was checked at such a skewness.

    Without an estimate the test allows for all that were checked, [-1, 1].
    """
    return self.skewness is None or abs(self.skewness) <= MOST_SKEWNESS


def share_flipped(verdicts: Sequence[Verdict], sizes: np.ndarray) -> np.ndarray:
  """Share of targets flipped by changing at most each size, and its 95 % interval.

  Censored targets stay in the denominator. The interval is Clopper and Pearson's (1934),
  which says something of shares of 0 and 1, too.

  Args:
    verdicts: of one method.
    sizes: int[s].

  Returns:
    float[3, s]: the share, its lower and its upper end.
  """
  count = len(verdicts)
  k = np.array([v.changes_needed for v in verdicts])
  count_s = (k[:, None] <= np.asarray(sizes)).sum(axis=0)
  return np.stack([count_s / count, *intervals.binomial(count_s, count)])


def median_k(verdicts: Sequence[Verdict]) -> tuple[float, float, float] | None:
  """Median k, and its 95 % interval over targets.

  The ends are order statistics: the interval covers the median of the population that
  the targets are drawn from with at least 95 %, whatever its distribution.

  Args:
    verdicts: of one method.

  Returns:
    The median (the lower of two middle values), the lower end (1 if there are fewer than
    6 targets) and the upper end. Infinite: more than the search could change. None: the
    budget ran out, and further models could change one of them.
  """
  largest_k = np.sort([v.changes_needed for v in verdicts])
  smallest_k = np.sort([v.changes_needed if v.finished else 1 for v in verdicts])
  values = _median_and_interval(largest_k)
  return values if values == _median_and_interval(smallest_k) else None


def _median_and_interval(sorted_k: np.ndarray) -> tuple[float, float, float]:
  """The median of numbers, and the order statistics that are its interval's ends."""
  count = len(sorted_k)
  # At least so many of the numbers are below the population's median.
  rank = int(scipy.stats.binom.ppf(0.025, count, 0.5))
  low, high = (sorted_k[rank - 1], sorted_k[count - rank]) if rank else (1.0, np.inf)
  return float(sorted_k[(count - 1) // 2]), float(low), float(high)
