"""A search whose models are formulas."""

import numpy as np

from jaxdm import prng
from jaxdm.brittleness.cases import Case, candidate_sizes
from jaxdm.brittleness.margin_curve import BaseMargins, describe
from jaxdm.brittleness.verification import Skewness


class Simulated:
  """Margins that fall linearly with the number of examples changed, plus noise."""

  def __init__(
    self, margins: np.ndarray, slopes: np.ndarray, noise: float, seed: int = 0
  ):
    self.margins, self.slopes, self.noise = margins, slopes, noise
    self.rng = np.random.default_rng(seed)
    self.asked: list = []

  @property
  def base(self) -> BaseMargins:
    """Of 16 models without any change."""
    noise = np.random.default_rng(1).normal(size=(16, len(self.margins)))
    return describe(self.margins + self.noise * noise)

  def __call__(self, changes, seeds, *, progress):
    self.asked += [
      (case.target, k, prng.stream_of(seed))
      for (case, k), seed in zip(changes, seeds, strict=True)
    ]
    result = np.full(len(changes), np.nan)
    for row, (case, k) in enumerate(changes):
      t = case.target
      mean = self.margins[t] - self.slopes[t] * k
      result[row] = mean + self.noise * self.rng.normal()
    progress(len(changes), len(changes))
    return result


def cases(count: int, max_k: int = 64) -> list[Case]:
  sizes = candidate_sizes(max_k, 12)
  return [Case(t, "method", np.arange(max_k), sizes) for t in range(count)]


def base(count: int, mean: float = 8.0, std: float = 1.0) -> BaseMargins:
  """The same margins, without skewness, for each target."""
  return BaseMargins(
    np.full(count, mean), np.full(count, std), Skewness(*np.zeros((2, count)))
  )
