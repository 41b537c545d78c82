"""Spearman's rank correlation, its influence function and its bias."""

from typing import NamedTuple

import numpy as np


class Ranks(NamedTuple):
  """Mean ranks of m numbers.

  Attributes:
    order_m: positions of the numbers in ascending order.
    bounds: where runs of equal numbers begin in that order, and m; None without ties.
    rank_m: float64, by position, less the mean rank.
    square: the sum of their squares.
  """

  order_m: np.ndarray
  bounds: np.ndarray | None
  rank_m: np.ndarray
  square: float


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


def rank(values_m: np.ndarray) -> Ranks:
  """Ranks finite numbers."""
  m = len(values_m)
  order_m = np.argsort(values_m)
  sorted_m = values_m[order_m]
  starts = np.flatnonzero(sorted_m[1:] != sorted_m[:-1]) + 1
  rank_m = np.empty(m)
  if len(starts) == m - 1:
    bounds = None
    rank_m[order_m] = np.arange(m) - (m - 1) / 2
  else:
    bounds = np.concatenate([[0], starts, [m]])
    mean_ranks = (bounds[:-1] + bounds[1:] - m) / 2
    rank_m[order_m] = np.repeat(mean_ranks, np.diff(bounds))
  return Ranks(order_m, bounds, rank_m, float((rank_m * rank_m).sum()))


def swap_neighbours(ranks: Ranks) -> Ranks:
  """Ranks after numbers 2 i and 2 i + 1 have changed places; m is even."""
  swapped_m = ranks.rank_m.reshape(-1, 2)[:, ::-1].ravel()
  return ranks._replace(order_m=ranks.order_m ^ 1, rank_m=swapped_m)


def correlate(a: Ranks, b: Ranks) -> Correlation:
  """Correlates the ranks of two sides of m pairs."""
  m = len(a.rank_m)
  if not a.square or not b.square:
    return Correlation(0.0, np.zeros(m))
  products_m = a.rank_m * b.rank_m
  scale = np.sqrt(a.square * b.square)  # Exact if the ranks are equal.
  score = float(products_m.sum() / scale)
  unit_a, unit_b = (x.rank_m / np.sqrt(x.square / m) for x in (a, b))
  influence_m = products_m * (m / scale)
  influence_m -= (score / 2) * (unit_a * unit_a + unit_b * unit_b)
  for own, rest_m in ((a, unit_b - score * unit_a), (b, unit_a - score * unit_b)):
    # A pair with more weight raises the ranks of all that are larger.
    influence_m += _sum_of_larger(own, rest_m) / np.sqrt(own.square / m)
  return Correlation(score, influence_m)


def _sum_of_larger(ranks: Ranks, terms_m: np.ndarray) -> np.ndarray:
  """For each pair, the sum of the others' terms where the number is larger.

  Equal numbers count half. The terms sum to 0.
  """
  sums = np.concatenate([[0.0], np.cumsum(terms_m[ranks.order_m])])
  if ranks.bounds is not None:
    sums = sums[ranks.bounds]
  larger = -(sums[:-1] + sums[1:]) / 2
  if ranks.bounds is not None:
    larger = np.repeat(larger, np.diff(ranks.bounds))
  sums_m = np.empty(len(terms_m))
  sums_m[ranks.order_m] = larger
  return sums_m


def sampling_bias(score: np.ndarray, count: int) -> np.ndarray:
  """Expected score of `count` independent pairs less that of infinitely many.

  It is 3 (tau - rho) / (count + 1), where rho is Spearman's and tau is Kendall's
  correlation (Hoeffding, 'A class of statistics with asymptotically normal
  distribution', 1948). Tau is taken from rho as in a normal distribution:
  2 / pi asin(r) with Pearson's correlation r = 2 sin(pi rho / 6).
  """
  tau = 2 / np.pi * np.arcsin(_pearson(score))
  return 3 * (tau - score) / (count + 1)


def neighbours_bias(score: np.ndarray, count: int) -> np.ndarray:
  """The same for `count` pairs of exchangeable numbers, all ranked together.

  The score is that of ranks and `swap_neighbours` of them. Of the triples of numbers that
  its sum runs over, those that hold two numbers of one pair have other expectations than
  the rest; to first order in 1 / count this makes the bias, here that of a normal
  distribution.
  """
  pearson = _pearson(score)
  both_larger = 1 / 4 + np.arcsin((1 + pearson) / 2) / (2 * np.pi)
  concordant = 1 / 4 + np.arcsin(pearson) / (2 * np.pi)
  return 6 * (2 * both_larger + concordant - 1 - score / 2) / count


def _pearson(score: np.ndarray) -> np.ndarray:
  """Pearson's correlation of a normal distribution, from Spearman's."""
  return np.clip(2 * np.sin(np.pi * score / 6), -1, 1)
