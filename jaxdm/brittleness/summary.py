"""What many verdicts say together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from jaxdm import intervals
from jaxdm.brittleness.verdicts import Verdict

CLASS_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)


def by_method(
  verdicts: Sequence[Verdict],
) -> dict[str, list[Verdict]]:
  """Verdicts grouped by method, in order of appearance.

  Raises:
    ValueError: if a method has two of one target.
  """
  groups: dict[str, list[Verdict]] = {}
  for verdict in verdicts:
    groups.setdefault(verdict.method, []).append(verdict)
  for method, group in groups.items():
    targets = [verdict.target for verdict in group]
    if len(set(targets)) < len(targets):
      twice = next(t for t in targets if targets.count(t) > 1)
      raise ValueError(
        f"verdicts must be of one search, and {method} has two of target {twice}: "
        "summarise removals, label flips and repairs one by one"
      )
  return groups


def summarise(
  verdicts: Sequence[Verdict], class_sizes_t: np.ndarray | None = None
) -> dict[str, dict[str, Any]]:
  """Per method: what share of targets flips by how much, and at what cost.

  >>> import jaxdm
  >>> verdict = jaxdm.Verdict(
  ...   target=0, method="mine", k=3, censored=False, k_tried=3, mean_margin=-1.0,
  ...   margin_low=-2.0, margin_high=-0.1, accuracy=0.2, models=8, largest=5,
  ...   largest_margin=-2.0, models_used=20, finished=True)
  >>> summary = jaxdm.summarise([verdict])["mine"]
  >>> summary["share_flipped"], summary["median_k"]
  (1.0, [3.0, 1.0, None])

  Args:
    verdicts: of all methods, as `find_removals`, `find_label_flips` or `find_repairs`
      return them.
    class_sizes_t: int, training examples in each target's class; None: nothing is said
      of classes.

  Returns:
    By method: targets, class_sizes (the smallest and the largest of the targets'
    classes), share_flipped, share_flipped_within (by the change's share of the target's
    class), share_mostly_wrong (the share that is flipped and that at most half of the
    models of the verification get right; of repairs share_mostly_right: at least half get
    it right), median_k with its 95 % interval (each None where censored; None instead of
    all three if unfinished searches could change one), censored_above (the smallest of
    the largest sizes at which searches ended without a claim; censored numbers are
    above it), largest_k_tried, models_used, unfinished (searches whose budget ran out;
    they count as not flipped unless they have a claim, so that the shares are lower
    bounds), claims_at_unchecked_skewness (claims about targets for which
    `Verdict.level_checked` is False).
  """
  summary = {}
  for method, group in by_method(verdicts).items():
    k = np.array([v.changes_needed for v in group])
    largest = max(v.largest for v in group)
    median = median_k(group)
    summary[method] = {
      "targets": len(group),
      "share_flipped": float(np.mean(np.isfinite(k))),
      **_by_class(group, k, class_sizes_t),
      **_by_accuracy(group),
      "median_k": median and [k if np.isfinite(k) else None for k in median],
      "censored_above": min((v.largest for v in group if v.censored), default=largest),
      "largest_k_tried": largest,
      "models_used": sum(v.models_used for v in group),
      "unfinished": sum(not v.finished for v in group),
      "claims_at_unchecked_skewness": sum(
        not (v.censored or v.level_checked) for v in group
      ),
    }
  return summary


def _by_accuracy(group: Sequence[Verdict]) -> dict[str, float]:
  """The share of targets that are flipped by the other definition, too."""
  if group[0].is_repair:
    right = [not v.censored and v.accuracy >= 0.5 for v in group]
    return {"share_mostly_right": float(np.mean(right))}
  wrong = [not v.censored and v.accuracy <= 0.5 for v in group]
  return {"share_mostly_wrong": float(np.mean(wrong))}


def _by_class(
  group: Sequence[Verdict],
  k: np.ndarray,
  class_sizes_t: np.ndarray | None,
) -> dict[str, Any]:
  """What is said of changes as shares of the target's class."""
  if class_sizes_t is None:
    return {}
  sizes = np.asarray(class_sizes_t)[[v.target for v in group]]
  return {
    "class_sizes": [int(sizes.min()), int(sizes.max())],
    "share_flipped_within": {
      f"{part:.0%}": float(np.mean(k / sizes <= part)) for part in CLASS_SHARES
    },
  }


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
