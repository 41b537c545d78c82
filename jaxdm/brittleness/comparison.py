"""Which methods need fewer examples than others: paired tests over targets."""

import collections
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import scipy.stats

from jaxdm.brittleness.summary import by_method
from jaxdm.brittleness.verdicts import Verdict


class Comparison(NamedTuple):
  """Two methods on the same targets.

  Attributes:
    first: the method that needs fewer examples on more of the targets.
    second: the other one.
    wins: targets, or groups of them, on which the first needs fewer.
    losses: those on which the second needs fewer.
    p: of the sign test, both sides, with Holm's correction for all pairs compared.
  """

  first: str
  second: str
  wins: int
  losses: int
  p: float


def compare_methods(
  verdicts: Sequence[Verdict],
  pairs: Sequence[tuple[str, str]] | None = None,
  group_of: Callable[[int], Hashable] = lambda target: target,
) -> list[Comparison]:
  """Compares pairs of methods by sign tests over the targets of both.

  A method wins a target if its verified k is smaller, or if it has one and the other is
  censored. Targets with the same k, or censored for both, say nothing, and searches
  that are not finished do not count. The test is exact, and assumes only that targets
  are drawn independently of each other. Targets that are not, such as one image in
  searches with several seeds, form a group, which counts once: for the method that wins
  more of its targets.

  Args:
    verdicts: of all methods.
    pairs: the methods to compare, chosen before the results were seen; None: each with
      each.
    group_of: the group of a target; by default each is a group of its own.

  Returns:
    One comparison a pair, the smallest p first.
  """
  k_of = {
    method: {v.target: v.changes_needed for v in group if v.finished}
    for method, group in by_method(verdicts).items()
  }
  comparisons = []
  for pair in itertools.combinations(k_of, 2) if pairs is None else pairs:
    one, other = (k_of[method] for method in pair)
    both = one.keys() & other.keys()
    leads: dict[Hashable, int] = collections.defaultdict(int)
    for target in both:
      fewer, more = one[target] < other[target], one[target] > other[target]
      leads[group_of(target)] += int(fewer) - int(more)
    wins = sum(lead > 0 for lead in leads.values())
    losses = sum(lead < 0 for lead in leads.values())
    p = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    if losses > wins:
      pair, wins, losses = pair[::-1], losses, wins
    comparisons.append(Comparison(*pair, wins, losses, float(p)))
  comparisons.sort(key=lambda comparison: comparison.p)
  p_values = holm([comparison.p for comparison in comparisons])
  return [c._replace(p=p) for c, p in zip(comparisons, p_values, strict=True)]


def holm(ascending: Sequence[float]) -> list[float]:
  """P values that are corrected for their number (Holm, 1979).

  Args:
    ascending: p values, the smallest first.
  """
  count = len(ascending)
  products = [(count - place) * p for place, p in enumerate(ascending)]
  return [min(1.0, p) for p in itertools.accumulate(products, max)]
