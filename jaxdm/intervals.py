"""Formulas of 95 % confidence intervals that several kinds of results share."""

import numpy as np
import scipy.special

from jaxdm.typing import Array

_TAIL = 0.025
_NORMAL_QUANTILE = 1.96


def binomial(successes: Array, number: Array | int) -> tuple[np.ndarray, np.ndarray]:
  """The interval of a probability, from some successes in a number of trials.

  It is Clopper and Pearson's (1934), which says something of shares of 0 and 1, too.
  """
  with np.errstate(invalid="ignore"):
    low = scipy.special.betaincinv(successes, number - successes + 1, _TAIL)
    high = scipy.special.betaincinv(successes + 1, number - successes, 1 - _TAIL)
  return np.where(successes == 0, 0, low), np.where(successes == number, 1, high)


def skewed(
  middle: Array | float,
  error: Array | float,
  count: int,
  skewness: Array | float,
  tails: Array | float,
) -> tuple[np.ndarray, np.ndarray]:
  """The interval of a mean, or of a sum, of independent terms that are not normal.

  Student's t with Satterthwaite's degrees of freedom, which are fewer for heavy tails,
  and shifted for skewness (Johnson, 'Modified t tests and confidence intervals for
  asymmetrical populations', 1978).

  Args:
    middle: the mean, or the sum.
    error: its standard error.
    count: terms.
    skewness: of the terms.
    tails: their kurtosis less 1, which is 2 for normal terms.
  """
  freedom = np.clip(2 * count / np.maximum(tails, 1), 2, count - 1)
  shift = error * skewness / np.sqrt(count) * (1 + 2 * _NORMAL_QUANTILE**2) / 6
  half = scipy.special.stdtrit(freedom, 1 - _TAIL) * error
  middle = middle + shift
  return middle - half, middle + half


def student(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
  """A mean and its one-sided bounds by Student's t, each of `confidence`.

  Bounds of .975 are the ends of a 95 % interval; those of one value are infinite.
  """
  count, mean = len(values), float(values.mean())
  if count < 2:
    return mean, -np.inf, np.inf
  # Squares of very small numbers would be 0.
  _, exponent = np.frexp(np.abs(values).max())
  deviation = np.ldexp(np.ldexp(values, -exponent).std(ddof=1), exponent)
  half = float(scipy.special.stdtrit(count - 1, confidence) * deviation / np.sqrt(count))
  return mean, mean - half, mean + half
