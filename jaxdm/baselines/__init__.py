"""Other ways of choosing training examples; each returns scores[t, n].

A score says how much an example supports a target: the highest goes first.
"""

import numpy as np
from scipy.spatial import distance

from jaxdm import prng


def random(num_targets: int, num_train: int, *, seed: int) -> np.ndarray:
  """Scores without information, as float32[t, n]."""
  rng = prng.generator_for(seed, "random-scores")
  return rng.random((num_targets, num_train), np.float32)


def representation_similarity(
  train_features_nf: np.ndarray, target_features_tf: np.ndarray
) -> np.ndarray:
  """Cosine similarity of one model's penultimate features; average it over models.

  Args:
    train_features_nf: float, of the training examples.
    target_features_tf: float, of the targets.

  Returns:
    float32[t, n] in [-1, 1].
  """
  return (_unit(target_features_tf) @ _unit(train_features_nf).T).astype(np.float32)


def closeness(train_rows_nf: np.ndarray, target_rows_tf: np.ndarray) -> np.ndarray:
  """Minus the Euclidean distance of features, or of pixels, as float32[t, n]."""
  found = distance.cdist(target_rows_tf, train_rows_nf)
  return -found.astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
  """Rows scaled to length one; zero rows stay."""
  return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
