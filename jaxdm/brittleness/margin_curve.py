"""What the models trained so far say of a target's mean margin at every size of change.

A Gaussian process over sizes (Rasmussen and Williams, 2006, chapter 2): a straight line
whose slope is hardly known, plus Brownian motion, observed with the noise of single
models. It only chooses sizes. No claim rests on it.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special

from jaxdm import prng
from jaxdm.brittleness.verification import SequentialTest, Skewness, estimate_skewness

_DRAWS = 256
# In units of the root of the mean square of the margins in models on all data, or half of
# the largest change of a margin that was seen.
_SLOPE_STD = 4.0
_BROWNIAN_STD = 0.5
_POWER = 0.75  # Of the share of the largest size: the first examples count most.
_BASE_FREEDOM = 8  # How many models the spread of models on all data counts for.
_LEAST_STD = 1e-5  # Of single models, for functions without noise.


class BaseMargins(NamedTuple):
  """What models on all data say of each target.

  Attributes:
    mean_t: float, mean margin.
    std_t: float, standard deviation over models; a third of the mean where one model
      does not tell it.
    skewness: of the margins.
  """

  mean_t: np.ndarray
  std_t: np.ndarray
  skewness: Skewness


def describe(base_margins_rt: np.ndarray) -> BaseMargins:
  """The statistics of models on all data that a search needs.

  Args:
    base_margins_rt: float[r, t]; values that are not finite do not count.
  """
  base_rt = np.asarray(base_margins_rt, np.float64)
  finite_rt = np.isfinite(base_rt)
  r = finite_rt.sum(axis=0)
  mean_t = np.where(finite_rt, base_rt, 0).sum(axis=0) / np.maximum(r, 1)
  squares_t = (np.where(finite_rt, base_rt - mean_t, 0) ** 2).sum(axis=0)
  std_t = np.sqrt(squares_t / np.maximum(r - 1, 1))
  std_t = np.where(r > 1, std_t, np.abs(mean_t) / 3)
  return BaseMargins(mean_t, std_t, estimate_skewness(base_rt))


class MarginCurve:
  """The posterior of one case's mean margins, given the margins of its models."""

  def __init__(self, sizes: np.ndarray, mean: float, std: float, test: SequentialTest):
    """Before any model is trained.

    Args:
      sizes: int[s], ascending.
      mean: of the target's margin in models on all data.
      std: of that margin over models.
      test: what a verification must pass.
    """
    self.sizes = sizes
    self._mean = max(mean, 0.0)
    self._unit: float = max(float(np.hypot(mean, std)), 1e-30)
    self._std = std
    self._most = test.most
    self._quantile = scipy.special.stdtrit(test.most - 1, 1 - test.level(test.most))
    self._margins: dict[int, list[float]] = {}

  def add(self, index: int, margins: np.ndarray) -> None:
    """Takes the margins of models at a size; a diverged one counts as unchanged."""
    usable = np.where(np.isfinite(margins), margins, self._mean)
    self._margins.setdefault(index, []).extend(usable.tolist())
    change = abs(float(np.mean(self._margins[index])) - self._mean)
    self._unit = max(self._unit, change / 2)

  @property
  def noise(self) -> float:
    """Standard deviation of single models: that of models on all data, updated."""
    squares, freedom = _BASE_FREEDOM * self._std**2, _BASE_FREEDOM
    for values in self._margins.values():
      squares += float(np.sum((np.array(values) - np.mean(values)) ** 2))
      freedom += len(values) - 1
    return max(float(np.sqrt(squares / freedom)), _LEAST_STD * self._unit)

  def draws(self) -> np.ndarray:
    """Curves from the posterior, float[d, s].

    They are curves from the prior, each corrected by the difference between the observed
    means and its own noisy values (Matheron's rule; Journel and Huijbregts, 1978).
    """
    around_ds = _prior_draws(tuple(self.sizes.tolist()))
    prior_ds = self._mean * (1 - self._steps) + self._unit * around_ds
    if not self._margins:
      return prior_ds
    indices, means, errors = self._observations()
    noise_dv = _normal("margin-noise", len(self.sizes))[:, indices] * errors
    differences_dv = means - prior_ds[:, indices] - noise_dv
    return prior_ds + differences_dv @ self._gain(indices, errors).T

  def std(self, index: int) -> float:
    """Posterior standard deviation of the mean margin at a size."""
    prior_ss = self._covariance
    variance = prior_ss[index, index]
    if self._margins:
      indices, _, errors = self._observations()
      variance -= self._gain(indices, errors)[index] @ prior_ss[indices, index]
    return float(np.sqrt(max(variance, 0.0)))

  def chances_to_pass(self) -> np.ndarray:
    """How likely a verification with all its models would pass, on each drawn curve."""
    error = self.noise / np.sqrt(self._most)
    return scipy.special.ndtr(-self.draws() / error - self._quantile)

  @property
  def _steps(self) -> np.ndarray:
    """Where the sizes lie on the axis of the process, in (0, 1]."""
    return _axis(tuple(self.sizes.tolist()))

  @property
  def _covariance(self) -> np.ndarray:
    """Of the mean margins, before any model."""
    u = self._steps
    line, brownian = np.multiply.outer(u, u), np.minimum.outer(u, u)
    return self._unit**2 * (_SLOPE_STD**2 * line + _BROWNIAN_STD**2 * brownian)

  def _observations(self) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Sizes with models, their mean margins, and the standard errors of these."""
    indices = sorted(self._margins)
    means = np.array([np.mean(self._margins[i]) for i in indices])
    counts = np.array([len(self._margins[i]) for i in indices])
    return indices, means, self.noise / np.sqrt(counts)

  def _gain(self, indices: list[int], errors: np.ndarray) -> np.ndarray:
    """How much each size follows the observed ones, float[s, v]."""
    prior_ss = self._covariance
    noisy_vv = prior_ss[np.ix_(indices, indices)] + np.diag(errors**2)
    return scipy.linalg.solve(noisy_vv, prior_ss[indices], assume_a="pos").T


def _axis(sizes: tuple[int, ...]) -> np.ndarray:
  """(size / largest)^.75."""
  return (np.array(sizes) / sizes[-1]) ** _POWER


@functools.lru_cache(maxsize=64)
def _normal(purpose: str, columns: int) -> np.ndarray:
  """Normal numbers, the same in every search."""
  return prng.generator_for(0, purpose).standard_normal((_DRAWS, columns))


@functools.lru_cache(maxsize=64)
def _prior_draws(sizes: tuple[int, ...]) -> np.ndarray:
  """Lines plus Brownian motion, float[d, s], for a unit of 1."""
  u = _axis(sizes)
  steps_ds = _normal("margin-steps", len(sizes)) * np.sqrt(np.diff(u, prepend=0))
  slope_d1 = _normal("margin-slope", 1)
  return _SLOPE_STD * slope_d1 * u + _BROWNIAN_STD * np.cumsum(steps_ds, axis=1)
