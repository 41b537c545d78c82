"""Spearman's rank correlation, its standard error and its bias."""

from typing import NamedTuple

import numpy as np


class Correlation(NamedTuple):
  """Spearman's correlation of m pairs.

  Attributes:
    score: the correlation, with mean ranks for ties; 0 if either side is constant.
    influence_m: float64, the derivative of the score when one pair's weight grows. Its
      mean is 0, and its variance over m is the asymptotic variance of the score (Croux
      and Dehon, 'Influence functions of the Spearman and Kendall correlation measures',
      2010).
  """

  score: float
  influence_m: np.ndarray


def spearman(a_m: np.ndarray, b_m: np.ndarray) -> Correlation:
  """Correlates two vectors of m finite numbers."""
  m, a, b = len(a_m), _rank(a_m), _rank(b_m)
  influence_m = a.unit_m * b.unit_m
  score = float(influence_m.mean())  # A matrix product would wake threads of its own.
  influence_m -= (score / 2) * (a.unit_m * a.unit_m + b.unit_m * b.unit_m)
  for own, other in ((a, b), (b, a)):
    if own.sd > 0:
      # A pair with more weight raises the ranks of all that are larger.
      rest_m = other.unit_m - score * own.unit_m
      influence_m += _sum_of_larger(own, rest_m) / (m * own.sd)
  return Correlation(score, influence_m)


def sampling_bias(score: np.ndarray, count: int) -> np.ndarray:
  """Expected score of `count` independent pairs less that of infinitely many.

  It is 3 (tau - rho) / (count + 1), where rho is Spearman's and tau is Kendall's
  correlation (Hoeffding, 'A class of statistics with asymptotically normal
  distribution', 1948). Here tau follows from rho as in a normal distribution:
  2 / pi asin(2 sin(pi rho / 6)).
  """
  tau = 2 / np.pi * np.arcsin(np.clip(2 * np.sin(np.pi * score / 6), -1, 1))
  return 3 * (tau - score) / (count + 1)


class _Ranks(NamedTuple):
  """Standardised mean ranks.

  Attributes:
    order_m: positions of the values in ascending order.
    bounds: where runs of equal values begin in that order, and m; None without ties.
    unit_m: ranks with mean 0 and variance 1, by position; 0 if all values are equal.
    sd: standard deviation of rank / m.
  """

  order_m: np.ndarray
  bounds: np.ndarray | None
  unit_m: np.ndarray
  sd: float


def _rank(values_m: np.ndarray) -> _Ranks:
  """Ranks a vector."""
  m = len(values_m)
  order_m = np.argsort(values_m)
  sorted_m = values_m[order_m]
  rank_m = np.arange(m) - (m - 1) / 2
  bounds = np.flatnonzero(sorted_m[1:] != sorted_m[:-1]) + 1
  if len(bounds) == m - 1:
    bounds = None
  else:
    bounds = np.concatenate([[0], bounds, [m]])
    rank_m = np.repeat((bounds[:-1] + bounds[1:] - m) / 2, np.diff(bounds))
  sd = float(np.sqrt(np.mean(rank_m * rank_m)))
  unit_m = np.empty(m)
  unit_m[order_m] = rank_m / sd if sd > 0 else 0
  return _Ranks(order_m, bounds, unit_m, sd / m)


def _sum_of_larger(ranks: _Ranks, terms_m: np.ndarray) -> np.ndarray:
  """For each pair, the sum of the others' terms where the value is larger.

  Equal values count half. The terms sum to 0.
  """
  sums = np.concatenate([[0.0], np.cumsum(terms_m[ranks.order_m])])
  if ranks.bounds is not None:
    sums = sums[ranks.bounds]
  larger = -(sums[:-1] + sums[1:]) / 2
  if ranks.bounds is not None:
    larger = np.repeat(larger, np.diff(ranks.bounds))
  found_m = np.empty(len(terms_m))
  found_m[ranks.order_m] = larger
  return found_m
