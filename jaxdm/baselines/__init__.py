"""Other ways of choosing training examples; each returns scores[t, n].

A score says how much an example supports a target: the highest goes first.
"""

import numpy as np

from jaxdm import prng


def random(num_targets: int, num_train: int, *, seed: int) -> np.ndarray:
  """Scores without information, as float32[t, n]."""
  rng = prng.generator_for(seed, "random-scores")
  return rng.random((num_targets, num_train), np.float32)


def representation_similarity(
  train_features_rnf: np.ndarray, target_features_rtf: np.ndarray
) -> np.ndarray:
  """Cosine similarity of penultimate features, averaged over models.

  Args:
    train_features_rnf: float, of the training examples under r models.
    target_features_rtf: float, of the targets.

  Returns:
    float32[t, n] in [-1, 1].
  """
  total = np.zeros((target_features_rtf.shape[1], train_features_rnf.shape[1]))
  for train_nf, target_tf in zip(train_features_rnf, target_features_rtf, strict=True):
    total += _unit(target_tf) @ _unit(train_nf).T
  return (total / len(train_features_rnf)).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
  """Rows scaled to length one; zero rows stay."""
  return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
