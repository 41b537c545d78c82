"""Penalty factors v[t, n]: where to expect large weights, before seeing any model.

A weight with a small factor is penalised less. All ones is the published method;
factors scale with what is believed beforehand to be unimportant.
"""

import numpy as np

_LEAST = 0.05


def ones(num_targets: int, num_train: int) -> np.ndarray:
  """No prior belief, as float32[t, n]."""
  return np.ones((num_targets, num_train), np.float32)


def by_class(
  labels: np.ndarray, target_labels: np.ndarray, *, other: float = 10**0.5
) -> np.ndarray:
  """1 within the target's class and `other` outside it, as float32[t, n]."""
  same = np.asarray(target_labels)[:, None] == np.asarray(labels)[None, :]
  return np.where(same, 1.0, other).astype(np.float32)


def by_similarity(cosine_tn: np.ndarray, *, power: float = 0.5) -> np.ndarray:
  """Distance to the target, relative to its median, to a power.

  Args:
    cosine_tn: float in [-1, 1], such as `baselines.representation_similarity`.
    power: how strongly distance counts; 0 gives all ones.

  Returns:
    float32[t, n] > 0.
  """
  distance = 1 - np.asarray(cosine_tn, np.float32)
  median = np.maximum(np.median(distance, axis=1, keepdims=True), 1e-12)
  return np.maximum(distance / median, _LEAST) ** power
