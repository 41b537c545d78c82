"""Means of numbers in [0, 1], and their differences, with 95 % confidence intervals."""

from typing import NamedTuple

import numpy as np

from jaxdm import intervals

# With fewer, intervals of sums over targets cover far less than 95 %.
_LEAST_TARGETS = 5


class Estimate(NamedTuple):
  """An estimate for each example, with its 95 % confidence interval.

  Attributes:
    value: float64[n]; NaN where there is none.
    low: float64[n], the interval's lower end.
    high: float64[n], its upper end.
  """

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Sums(NamedTuple):
  """Sums over models of numbers in [0, 1].

  Attributes:
    number: int[n], models.
    first: float64[n], sums of the numbers.
    second: float64[n], sums of their squares.
  """

  number: np.ndarray
  first: np.ndarray
  second: np.ndarray


def mean(sums: Sums) -> Estimate:
  """Means of independent numbers in [0, 1].

  The interval is that of Clopper and Pearson (1934) for an effective number of models
  (Korn and Graubard, 'Confidence intervals for proportions with small expected number of
  positive counts', 1998): as many independent zeros and ones would have the variance of
  the numbers. One more zero and one more one are counted in that variance, since numbers
  that are far from the others may have not been seen. There are never fewer than the true
  number: of zeros and ones the interval is exact.

  Args:
    sums: of the numbers.

  Returns:
    The means; NaN, and [0, 1], where there are no numbers.
  """
  m = np.maximum(sums.number, 1)
  value = np.clip(sums.first / m, 0, 1)
  binomial = value * (1 - value)
  variance = np.maximum(sums.second / m - value**2, 0) * m / np.maximum(m - 1, 1)
  variance += ((1 - value) ** 2 + value**2) / m
  number = np.maximum(m, m * binomial / variance)
  wins = value * number
  low, high = intervals.binomial(wins, number)
  has_value = sums.number > 0
  low = np.where(has_value & (wins > 0), np.minimum(low, value), 0.0)
  high = np.where(has_value & (wins < number), np.maximum(high, value), 1.0)
  return Estimate(np.where(has_value, value, np.nan), low, high)


def difference(one: Estimate, two: Estimate) -> Estimate:
  """One less two, of independent samples.

  Its ends are those of Newcombe's square-and-add ('Interval estimation for the difference
  between independent proportions', 1998).
  """
  value = one.value - two.value

  def distance(one_end: np.ndarray, two_end: np.ndarray) -> np.ndarray:
    return np.hypot(one.value - one_end, two.value - two_end)

  low = np.maximum(value - distance(one.low, two.high), -1)
  high = np.minimum(value + distance(one.high, two.low), 1)
  has_value = np.isfinite(value)
  return Estimate(value, np.where(has_value, low, -1.0), np.where(has_value, high, 1.0))


def total(count: int, first: np.ndarray, central_pn: np.ndarray) -> Estimate:
  """Sums over targets, which are a sample of those that might have been drawn.

  The interval is that of `intervals.skewed`. It is unbounded with fewer than 5 targets,
  and where all terms are equal, such as all 0: other targets may have others.

  Args:
    count: t, targets.
    first: float64[n], sums over targets of the terms.
    central_pn: float64[3, n], sums of the powers 2 to 4 of the terms less their mean.
  """
  if count < _LEAST_TARGETS:
    return Estimate(first, np.full_like(first, -np.inf), np.full_like(first, np.inf))
  variance, third, fourth = (power / count for power in central_pn)
  varies = variance > 1e-24 * (first / count) ** 2
  variance = np.where(varies, variance, 1)
  skewness = np.where(varies, third / variance**1.5, 0)
  tails = np.where(varies, fourth / variance**2 - 1, 2)  # 2 for normal terms.
  error = np.sqrt(variance / (count - 1)) * count
  low, high = intervals.skewed(first, error, count, skewness, tails)
  low, high = np.minimum(low, first), np.maximum(high, first)
  return Estimate(first, np.where(varies, low, -np.inf), np.where(varies, high, np.inf))


def average(one: Estimate, two: Estimate) -> Estimate:
  """The mean of two means of independent samples; ends as those of `difference`."""
  value = (one.value + two.value) / 2

  def distance(one_end: np.ndarray, two_end: np.ndarray) -> np.ndarray:
    return np.hypot(one.value - one_end, two.value - two_end) / 2

  has_value = np.isfinite(value)
  low = np.where(has_value, value - distance(one.low, two.low), 0.0)
  high = np.where(has_value, value + distance(one.high, two.high), 1.0)
  return Estimate(value, np.maximum(low, 0), np.minimum(high, 1))
