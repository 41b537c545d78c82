"""How a change is verified: a sequential test of new models' margins, and its level."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxdm import intervals, prng
from jaxdm.errors import UserError

# Of the rules by which margins pass. It changes with them, so that stored results of
# earlier rules are recognised.
RULES_VERSION = 3

_SIMULATIONS = 200_000
_BLOCK_NUMBERS = 2**21  # That are simulated at a time.
# The first look is after 3 models, and each one has a quarter more than the one before.
_LEAST_MODELS = 3
_GROWTH = 1.25
_LEAST_TO_PASS = 5
# The spread of equal margins says nothing; 8 are all below 0 in one of 256 cases.
_LEAST_IF_EQUAL = 8
# Only twenty of the simulations fall below this level.
_LEAST_LEVEL = 1e-4
MOST_SKEWNESS = 1.0
# Levels are simulated for skewness in steps of a quarter.
_SKEWNESS_STEPS = 4
# With fewer models the skewness of margins is unknown.
_LEAST_FOR_SKEWNESS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialTest:
  """Tests `mean margin <= 0` while models arrive, and ends once that is clear.

  At each look Student's t is compared with its quantile at a level that grows in
  proportion to the number of models. If the true mean is 0, the probability of passing at
  any look is 1 - confidence in total. The scale of the levels is simulated, which is
  possible because t does not depend on the scale of the margins. A mean above 0 ends the
  test too: it seldom passes later. The simulation counts on that (a binding futility
  bound), so models must not be added to a test that has ended.

  Student's t knows nothing of distributions with two peaks, such as those of trainings
  that succeed or fail: few models may all lie in the lower peak. Nothing passes with so
  few that this is likely (`least_to_pass`), and equal margins not with fewer than 8. If
  `most` is smaller, a test may pass with `most` models, and such margins pass more often.

  Margins with a long right tail pass too often at levels for normal margins: few models
  seldom show the tail, and the rest have a mean below 0 and a small variance. Up to 16
  models do not tell the skewness of their own margins well enough to correct for it, so
  it must be known from elsewhere. Levels are simulated with gamma distributed margins of
  that skewness. A long left tail makes a false claim less likely, so that negative
  skewness needs no levels of its own. `experiments.bench.coverage` prints the levels for
  other distributions, and what they cost in models.

  Attributes:
    most: models at most.
    confidence: that margins whose mean is positive do not pass.
    skewness: the largest skewness of margins for which the confidence holds, in [0, 1].
      Each unit costs power: 0 is for margins that are known to be symmetric.
  """

  most: int
  confidence: float
  skewness: float = MOST_SKEWNESS

  def __post_init__(self) -> None:
    if not 0 <= self.skewness <= MOST_SKEWNESS:
      raise UserError("skewness", f"must be in [0, {MOST_SKEWNESS}], got {self.skewness}")
    if not 0.5 < self.confidence <= 1 - _LEAST_LEVEL:
      raise UserError(
        "confidence", f"must be in (0.5, {1 - _LEAST_LEVEL}], got {self.confidence}"
      )

  @property
  def least_to_pass(self) -> int:
    """The smallest number of models with which margins that differ may pass.

    Margins with mean 0 that have two narrow peaks and this skewness s lie in the lower
    one with the probability q = (1 + s / sqrt(4 + s^2)) / 2. For all models, that is at
    most 1 - confidence.
    """
    return min(_least_to_pass(self.confidence, self._simulated_skewness), self.most)

  @property
  def looks(self) -> tuple[int, ...]:
    """Numbers of models after which the test may end."""
    counts = [min(_LEAST_MODELS, self.most)]
    while counts[-1] < self.most:
      counts.append(min(round(_GROWTH * counts[-1]), self.most))
    return tuple(counts)

  def level(self, models: int) -> float:
    """The test's one-sided level at a look."""
    scale = _level_scale(self.looks, self.confidence, self._simulated_skewness)
    return scale * models / self.most

  @property
  def _simulated_skewness(self) -> float:
    """The skewness, rounded up to a step."""
    return math.ceil(self.skewness * _SKEWNESS_STEPS) / _SKEWNESS_STEPS

  def bounds(self, margins: np.ndarray) -> tuple[float, float, float]:
    """Mean and one-sided bounds at the level for so many models."""
    return intervals.student(margins, 1 - self.level(len(margins)))

  def passed(self, margins: np.ndarray) -> bool | None:
    """Whether the mean is at most 0; None: more models are needed."""
    count = len(margins)
    if count not in self.looks:
      raise ValueError(f"models must be one of {self.looks}, got {count}")
    if not np.isfinite(margins).all():
      return False
    mean, _, high = self.bounds(margins)
    least = self.least_to_pass
    if np.ptp(margins) == 0:
      least = min(max(least, _LEAST_IF_EQUAL), self.most)
    if high <= 0 and count >= least:
      return True
    return False if count == self.most or mean > 0 else None


def _least_to_pass(confidence: float, skewness: float) -> int:
  """See `SequentialTest.least_to_pass`."""
  lower_peak = (1 + skewness / math.sqrt(4 + skewness**2)) / 2
  count = math.ceil(math.log(1 - confidence) / math.log(lower_peak))
  return max(count, _LEAST_TO_PASS)


@functools.cache
def _level_scale(looks: tuple[int, ...], confidence: float, skewness: float) -> float:
  """The level at the last look, so that all looks together have 1 - confidence."""
  least_to_pass = min(_least_to_pass(confidence, skewness), looks[-1])
  rng = prng.generator_for(0, "sequential-test")
  size = max(1, _BLOCK_NUMBERS // looks[-1])
  parts = []
  for start in range(0, _SIMULATIONS, size):
    # A generator draws the same numbers in parts as at once.
    shape = min(size, _SIMULATIONS - start), looks[-1]
    if skewness:
      gamma = 4 / skewness**2
      values_sm = rng.standard_gamma(gamma, shape) - gamma
    else:
      values_sm = rng.standard_normal(shape)
    parts.append(_least_levels(values_sm, looks, least_to_pass))
  error = np.sqrt(confidence * (1 - confidence) / _SIMULATIONS)
  return float(np.quantile(np.concatenate(parts), 1 - confidence - 2 * error))


def _least_levels(
  values_sm: np.ndarray, looks: tuple[int, ...], least_to_pass: int
) -> np.ndarray:
  """The levels at the last look at which simulated margins would just pass, float[s]."""
  totals, squares = values_sm.cumsum(axis=1), (values_sm**2).cumsum(axis=1)
  least, open_tests = np.ones(len(values_sm)), np.ones(len(values_sm), bool)
  for count in looks:
    mean = totals[:, count - 1] / count
    variance = (squares[:, count - 1] - count * mean**2) / (count - 1)
    level = scipy.special.stdtr(count - 1, mean / np.sqrt(variance / count))
    if count >= least_to_pass:
      np.minimum(least, level * looks[-1] / count, out=least, where=open_tests)
    open_tests &= mean <= 0
  return least


class Skewness(NamedTuple):
  """What other models say of the skewness of each target's margins.

  Attributes:
    estimate_t: float; NaN where it is unknown.
    error_t: float, standard deviation of the skewness around the estimate, that of the
      mean over targets included.
  """

  estimate_t: np.ndarray
  error_t: np.ndarray

  def bound(self, target: int) -> float:
    """What a test of this target allows for: one error above the estimate, in [0, 1].

    A bound that is too small costs confidence, one that is too large only models. With
    the estimate itself, targets of skewness 1 among others of 0 pass too often.
    """
    bound = self.estimate_t[target] + self.error_t[target]
    return MOST_SKEWNESS if np.isnan(bound) else float(np.clip(bound, 0, MOST_SKEWNESS))


def estimate_skewness(margins_rt: np.ndarray) -> Skewness:
  """Skewness of each target's margins, drawn towards the mean over all targets.

  A sample's own skewness (Fisher and Pearson's, without bias for normal margins) is
  noisy. The more of its variance over targets is noise, by the formula for normal
  margins, the closer each estimate is to the mean (empirical Bayes).

  Args:
    margins_rt: float, of r models on one training set; those that are not finite do not
      count.

  Returns:
    Skewness, unknown where there are fewer than 8 models.
  """
  margins_rt = np.asarray(margins_rt, np.float64)
  finite_rt = np.isfinite(margins_rt)
  r = finite_rt.sum(axis=0)
  enough = r >= _LEAST_FOR_SKEWNESS
  skewness = Skewness(*np.full((2, margins_rt.shape[1]), np.nan))
  if not enough.any():
    return skewness
  margins_rt, finite_rt, r = margins_rt[:, enough], finite_rt[:, enough], r[enough]
  mean_t = np.where(finite_rt, margins_rt, 0).sum(axis=0) / r
  centred_rt = np.where(finite_rt, margins_rt - mean_t, 0)
  largest_t = np.abs(centred_rt).max(axis=0)
  # Equal margins differ from their mean by its rounding.
  varies_t = largest_t > r * np.finfo(np.float64).eps * np.abs(mean_t)
  centred_rt = np.where(varies_t, centred_rt, 0) / np.where(varies_t, largest_t, 1)
  scale_t = np.sqrt((centred_rt**2).sum(axis=0) / r)
  centred_rt /= np.where(varies_t, scale_t, 1)
  sample_t = (centred_rt**3).sum(axis=0) / r * np.sqrt(r * (r - 1)) / (r - 2)
  noise_t = 6 * r * (r - 1) / ((r - 2) * (r + 1) * (r + 3))
  variance = max(float(sample_t.var() - noise_t.mean()), 0.0)
  weight_t = variance / (variance + noise_t)
  mean = sample_t.mean()
  skewness.estimate_t[enough] = mean + weight_t * (sample_t - mean)
  error_of_mean = np.sqrt((variance + noise_t.mean()) / len(r))
  skewness.error_t[enough] = np.hypot(
    np.sqrt(weight_t * noise_t), (1 - weight_t) * error_of_mean
  )
  return skewness
