"""Margins that are linear in the masks, with known weights, and noise."""

import numpy as np

_RNG = np.random.default_rng(0)
WEIGHTS = _RNG.normal(size=(4, 30)) * (_RNG.random((4, 30)) < 0.25)


def models(m: int, noise: float = 0.3, seed: int = 0):
  rng = np.random.default_rng(seed)
  masks = rng.random((m, 30)) < 0.5
  return masks, (masks @ WEIGHTS.T + 0.7 + noise * rng.normal(size=(m, 4))).astype(
    np.float32
  )
