"""Scores float[t, n]: how much each example supports each target."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdm.errors import UserError
from jaxdm.typing import Array

_TILE_TARGETS = 1024
# Sums of larger ones over examples or targets may overflow. Not a Python float, which
# comparisons would round to the type of the scores.
_LARGEST = np.float64(1e300)


class ScoreRows:
  """Scores float32[t, n], of which rows are computed when they are indexed.

  Attributes:
    shape: (t, n).
    dtype: float32.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, shape: tuple[int, int], rows_of: Callable[[np.ndarray], np.ndarray]):
    """Computes nothing yet.

    Args:
      shape: (t, n).
      rows_of: takes int[u], indices of targets; returns float32[u, n].
    """
    self.shape, self._rows_of = shape, rows_of

  def __getitem__(self, targets: slice | np.ndarray) -> np.ndarray:
    return self._rows_of(np.arange(self.shape[0])[targets])


class Term(NamedTuple):
  """One summand of scores.

  Attributes:
    score: from all training rows and some target rows to float32[t, n].
    train_rows: [n, ...], what `score` knows of the training examples.
    target_rows: [t, ...], of the targets.
    unit: what the scores must be multiplied by to have the method's unit; terms of
      different units may then be averaged.
  """

  score: Callable[[Array, Array], Array]
  train_rows: Array
  target_rows: Array
  unit: Array | float = 1.0


def check_finite(scores_un: np.ndarray, first: int = 0, method: str = "") -> None:
  """Checks that scores are finite numbers, so that they can be compared and summed.

  Args:
    scores_un: real, of some targets.
    first: the number of the first of these targets, for the error.
    method: names the scores in the error.

  Raises:
    UserError: on scores that are not finite, or above 1e300 in size.
  """
  if not scores_un.size or -_LARGEST <= scores_un.min() <= scores_un.max() <= _LARGEST:
    return
  [target, example] = np.argwhere(~(np.abs(scores_un) <= _LARGEST))[0]
  raise UserError(
    "scores",
    f"{f'of {method} ' if method else ''}must be finite, and at most {_LARGEST:g} in "
    f"size, got {scores_un[target, example]} for target {first + target} and training "
    f"example {example}; give another number there, such as the target's mean score",
  )


def add_scores(total_tn: np.ndarray, terms: Sequence[Term]) -> None:
  """Adds terms to scores in place, a tile of targets at a time.

  Each tile is read and written once for all terms, so that the scores may be a memory
  map. The device never holds more than a tile of a term.

  Args:
    total_tn: float32, changed.
    terms: added in this order, whatever the size of a tile.
  """
  for start in range(0, len(total_tn), _TILE_TARGETS):
    tile_un = total_tn[start : start + _TILE_TARGETS]
    for score, train_rows, target_rows, _ in terms:
      tile_un += np.asarray(score(train_rows, target_rows[start : start + _TILE_TARGETS]))
