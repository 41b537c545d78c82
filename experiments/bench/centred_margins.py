"""Random margins with mean 0, by the name of their distribution."""

from typing import Any

import numpy as np


def _mixture(rng: np.random.Generator, shape: Any, part: float, apart: float) -> Any:
  """Two normal distributions, of which a part lies so many deviations to the right."""
  return rng.normal(size=shape) + apart * (rng.random(shape) < part) - apart * part


def _two_peaks(
  rng: np.random.Generator, shape: Any, spread: float, skewness: float = 0.0
) -> Any:
  """Two values 2 apart, of this skewness, plus normal noise of this deviation."""
  upper = (1 - skewness / np.sqrt(4 + skewness**2)) / 2
  peaks = 2 * (rng.random(shape) < upper) - 2 * upper
  return peaks + spread * rng.normal(size=shape)


def centred_margins(name: str, shape: tuple[int, int], seed: int) -> np.ndarray:
  """Margins with mean 0 by the name of their distribution; a minus mirrors them."""
  rng = np.random.default_rng(seed)
  spread = 0.3143  # A lognormal distribution of skewness 1.
  draw_of = {
    "normal": lambda: rng.normal(size=shape),
    "uniform": lambda: rng.uniform(-1, 1, shape),
    "t5": lambda: rng.standard_t(5, shape),
    "two values": lambda: _two_peaks(rng, shape, 0.0),
    "two peaks, 0.1": lambda: _two_peaks(rng, shape, 0.1),
    "two peaks, 0.3": lambda: _two_peaks(rng, shape, 0.3),
    "two peaks, 0.5": lambda: _two_peaks(rng, shape, 0.5),
    "two peaks, 0.1, skewness 0.5": lambda: _two_peaks(rng, shape, 0.1, 0.508),
    "two peaks, 0.1, skewness 1": lambda: _two_peaks(rng, shape, 0.1, 1.0189),
    "two peaks, 0.3, skewness 0.5": lambda: _two_peaks(rng, shape, 0.3, 0.5748),
    "two peaks, 0.3, skewness 1": lambda: _two_peaks(rng, shape, 0.3, 1.188),
    "5 votes": lambda: 2.0 * rng.binomial(5, 0.5, shape) - 5,
    "gamma, skewness 0.5": lambda: rng.gamma(16, size=shape) - 16,
    "gamma, skewness 1": lambda: rng.gamma(4, size=shape) - 4,
    "lognormal, skewness 1": lambda: (
      np.exp(spread * rng.normal(size=shape)) - np.exp(spread**2 / 2)
    ),
    "mixture, skewness 0.65": lambda: _mixture(rng, shape, 0.2, 2.9),
    "mixture, skewness 1": lambda: _mixture(rng, shape, 0.1, 3.5),
  }
  sign = -1 if name.startswith("-") else 1
  return np.asarray(sign * draw_of[name.removeprefix("-")]())


_SYMMETRIC = (
  *("normal", "uniform", "t5", "two values"),
  *("two peaks, 0.1", "two peaks, 0.3", "two peaks, 0.5", "5 votes"),
)
SKEWNESS = dict.fromkeys(_SYMMETRIC, 0.0) | {
  "gamma, skewness 0.5": 0.5,
  "-gamma, skewness 0.5": -0.5,
  "gamma, skewness 1": 1.0,
  "-gamma, skewness 1": -1.0,
  "lognormal, skewness 1": 1.0,
  "-lognormal, skewness 1": -1.0,
  "two peaks, 0.1, skewness 0.5": 0.5,
  "two peaks, 0.1, skewness 1": 1.0,
  "two peaks, 0.3, skewness 0.5": 0.5,
  "two peaks, 0.3, skewness 1": 1.0,
  "mixture, skewness 0.65": 0.65,
  "-mixture, skewness 0.65": -0.65,
  "mixture, skewness 1": 1.0,
  "-mixture, skewness 1": -1.0,
}
