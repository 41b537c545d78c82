"""Scores without information, to compare with."""

import numpy as np

from jaxdm import prng
from jaxdm.attribution.scores import ScoreRows

# Philox makes four numbers of 64 bits a step, so eight of float32.
_FLOATS_A_STEP = 8


def random_rows(num_targets: int, num_train: int, *, seed: int) -> ScoreRows:
  """Uniform random numbers in [0, 1), of which any row is computed by itself.

  Args:
    num_targets: t.
    num_train: n, examples.
    seed: in [0, 2**32).
  """

  def rows_of(targets: np.ndarray) -> np.ndarray:
    scores_un = np.empty((len(targets), num_train), np.float32)
    for row, target in zip(scores_un, targets, strict=True):
      rng = prng.generator_for(seed, "random-scores")
      steps, rest = divmod(int(target) * num_train, _FLOATS_A_STEP)
      rng.bit_generator.advance(steps)  # type: ignore[attr-defined]
      rng.random(rest, np.float32)
      rng.random(dtype=np.float32, out=row)
    return scores_un

  return ScoreRows((num_targets, num_train), rows_of)
