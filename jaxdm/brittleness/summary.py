"""What many verdicts say together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdm.brittleness import verdicts as verdicts_lib

CLASS_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)


def by_method(
  verdicts: Sequence[verdicts_lib.Verdict],
) -> dict[str, list[verdicts_lib.Verdict]]:
  """Verdicts grouped by method, in order of appearance."""
  groups: dict[str, list[verdicts_lib.Verdict]] = {}
  for verdict in verdicts:
    groups.setdefault(verdict.method, []).append(verdict)
  return groups


def summarise(
  verdicts: Sequence[verdicts_lib.Verdict], class_sizes_t: np.ndarray | None = None
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
    median = verdicts_lib.median_k(group)
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


def _by_accuracy(group: Sequence[verdicts_lib.Verdict]) -> dict[str, float]:
  """The share of targets that are flipped by the other definition, too."""
  if group[0].is_repair:
    right = [not v.censored and v.accuracy >= 0.5 for v in group]
    return {"share_mostly_right": float(np.mean(right))}
  wrong = [not v.censored and v.accuracy <= 0.5 for v in group]
  return {"share_mostly_wrong": float(np.mean(wrong))}


def _by_class(
  group: Sequence[verdicts_lib.Verdict],
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
