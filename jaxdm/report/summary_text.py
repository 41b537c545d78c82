"""What `summarise` found, as lines and cells of text."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdm.brittleness import summary as summary_lib
from jaxdm.brittleness import verdicts as verdicts_lib
from jaxdm.rounding import share_of


def text(summary: dict[str, Any], title: str = "share of targets flipped by") -> str:
  """What `summarise` found, a line a method."""
  header = [*parts(summary), "in all", "by acc.", "median k", "models trained"]
  header += ["LDS"] if any("lds" in s for s in summary.values()) else []
  lines = [f"{title:<36}" + "".join(f"{h:>16}" for h in header)]
  for method, s in summary.items():
    cells = [f"{share:.2f}" for share in (*shares(summary, method), s["share_flipped"])]
    cells += [f"{by_accuracy(s):.2f}", median_texts(s)[0], f"{s['models_used']:,}"]
    cells += [f"{s['lds']['estimate']:.3f}"] if "lds" in s else []
    lines.append(f"{method:<36}" + "".join(f"{cell:>16}" for cell in cells))
  if ceiling := ceiling_of(summary):
    lines.append(f"noise ceiling, an upper bound of the LDS: {interval(ceiling)}")
  lines += [note] if (note := unchecked(summary)) else []
  return "\n".join(lines)


def interval(of: Mapping[str, float]) -> str:
  """An estimate with its interval, such as '0.617 [0.602, 0.636]'."""
  return "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**of)


def median_texts(of_method: Mapping[str, Any]) -> tuple[str, str, str]:
  """The median k and its interval's ends; '?' if unfinished searches may change it."""
  if of_method["median_k"] is None:
    return "?", "?", "?"
  above = of_method["censored_above"]
  k, low, high = (f"> {above}" if v is None else f"{v:g}" for v in of_method["median_k"])
  return k, low, high


def median_cell(of_method: Mapping[str, Any]) -> str:
  """The median k and its interval, as 'k [low, high]'; shorter if all are the same."""
  k, low, high = median_texts(of_method)
  return k if k == low == high else f"{k} [{low}, {high}]"


def by_accuracy(of_method: dict[str, Any]) -> float:
  """The share of targets that are flipped, or repaired, by the other definition, too."""
  repaired = of_method.get("share_mostly_right")
  return of_method["share_mostly_wrong"] if repaired is None else repaired


def unchecked(summary: dict[str, Any]) -> str:
  """A sentence on claims whose confidence was not checked; empty if there are none."""
  count = sum(s.get("claims_at_unchecked_skewness", 0) for s in summary.values())
  if not count:
    return ""
  most = verdicts_lib.MOST_SKEWNESS
  return (
    f"{count} claims are about targets whose margins have a skewness outside "
    f"[{-most:g}, {most:g}], where the test's level was not checked (column skewness)"
  )


def parts(summary: dict[str, Any]) -> list[str]:
  """The columns of `shares`: parts of a class, and how many examples these are."""
  names = []
  for name, counts, _ in _parts(summary, next(iter(summary))):
    names.append(f"<= {name} ({'-'.join(map(str, dict.fromkeys(counts)))})")
  return names


def shares(summary: dict[str, Any], method: str) -> list[float]:
  """What share of targets a method flips within each of the `parts`."""
  return [share for _, _, share in _parts(summary, method)]


def _parts(
  summary: dict[str, Any], method: str
) -> Iterator[tuple[str, list[int], float]]:
  """Name, examples in the smallest and the largest class, and share of targets flipped.

  Parts in which not even the largest class has an example are left out, and those that
  are larger than all changes that were tried.
  """
  largest = max(s["largest_k_tried"] for s in summary.values())
  of_method = summary[method]
  within = of_method["share_flipped_within"]
  for part, name in zip(summary_lib.CLASS_SHARES, within, strict=True):
    counts = [math.floor(share_of(part, size)) for size in of_method["class_sizes"]]
    if 0 < max(counts) <= largest:
      yield name, counts, within[name]


def ceiling_of(summary: dict[str, Any]) -> dict[str, float] | None:
  """The noise ceiling of the LDS, if held-out subsets were trained on repeatedly."""
  return next(iter(summary.values())).get("lds_ceiling")
