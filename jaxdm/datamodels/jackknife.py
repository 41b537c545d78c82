"""Confidence intervals from the pseudo-values of a jackknife."""

from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxdm import intervals

_LEAST = 5
_ROUNDING = 1e-12


class Interval(NamedTuple):
  """An estimate and its 95 % confidence interval."""

  estimate: float
  low: float
  high: float


def pseudo_values(estimate: float, without_s: np.ndarray) -> np.ndarray:
  """Tukey's pseudo-values of a jackknife; their mean is the estimate less its bias.

  Args:
    estimate: from all of s independent parts of a sample.
    without_s: float, estimates without one of them.

  Returns:
    float64[s].
  """
  return len(without_s) * estimate - (len(without_s) - 1) * without_s


def of_correlation(estimate: float, pseudo_s: np.ndarray) -> Interval:
  """95 % interval of a correlation, or of a mean of correlations.

  It is computed on Fisher's scale, where the variance depends less on the value, and
  extended to the estimate, whose bias may move it out if there are few parts.

  Args:
    estimate: in [-1, 1].
    pseudo_s: float, pseudo-values of independent parts of the sample; with fewer than 5
      of them the interval is [-1, 1].
  """
  if len(pseudo_s) < _LEAST:
    return Interval(estimate, -1.0, 1.0)
  inside = float(np.clip(estimate, _ROUNDING - 1, 1 - _ROUNDING))
  terms_s = (pseudo_s - estimate) / (1 - inside**2)
  low, high = np.tanh(_t_interval(np.arctanh(inside), terms_s))
  return _with_estimate(estimate, low, high)


def of_r2(estimate: float, pseudo_s: np.ndarray) -> Interval:
  """The same of an R2, on the scale of log(1 - R2); [-inf, 1] with fewer than 5 parts."""
  if len(pseudo_s) < _LEAST:
    return Interval(estimate, -np.inf, 1.0)
  unexplained = max(1 - estimate, _ROUNDING)
  terms_s = (pseudo_s - estimate) / unexplained
  low, high = -np.expm1(-np.array(_t_interval(-np.log(unexplained), terms_s)))
  return _with_estimate(estimate, low, high)


def _with_estimate(estimate: float, low: float, high: float) -> Interval:
  """An interval, extended to its estimate."""
  return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))


def _t_interval(centre: float, terms_s: np.ndarray) -> tuple[float, float]:
  """95 % interval of the centre plus the mean of the terms."""
  count, middle = len(terms_s), centre + terms_s.mean()
  error = terms_s.std(ddof=1) / np.sqrt(count)
  if not error > _ROUNDING * np.abs(terms_s).max(initial=0):
    return middle, middle
  skewness, tails = scipy.stats.skew(terms_s), scipy.stats.kurtosis(terms_s) + 2
  low, high = intervals.skewed(middle, error, count, skewness, tails)
  return float(low), float(high)
