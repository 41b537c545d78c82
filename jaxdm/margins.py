"""From logits to what datamodels predict."""

from typing import Any

import numpy as np

from jaxdm.storage.matrix_view import MatrixView
from jaxdm.typing import Array

# Of m models on t targets; those in a store are read a tile of targets at a time.
Margins = np.ndarray | MatrixView

_BLOCK_ROWS = 4096


def correct_class_margins(logits: Array, labels: Array) -> np.ndarray:
  """Correct-class logit minus the largest other one; positive = correct.

  Section 3.3 of Ilyas et al., 'Datamodels', arXiv:2202.00622.

  Args:
    logits: float[..., t, k].
    labels: int[t].

  Returns:
    float32[..., t], in logits; NaN where a logit is NaN.
  """
  logits = np.asarray(logits, np.float32)
  is_label = np.arange(logits.shape[-1]) == np.asarray(labels)[:, None]
  with np.errstate(invalid="ignore"):  # Infinite logits of models that diverged.
    correct = np.where(is_label, logits, 0).sum(axis=-1)
    return correct - np.where(is_label, -np.inf, logits).max(axis=-1)


def usable(margins_mt: Any) -> tuple[np.ndarray, np.ndarray]:
  """Models and targets all of whose margins are finite.

  First targets are left out that at most half of the models with any margin have one of;
  then models that lack one of another target.

  Args:
    margins_mt: float[m, t], read a block of rows at a time; NaN marks what is missing.

  Returns:
    Numbers of the models and of the targets, int[...], ascending.
  """
  m, t = margins_mt.shape
  starts = range(0, m, _BLOCK_ROWS)

  def finite(start: int) -> np.ndarray:
    return np.isfinite(margins_mt[start : start + _BLOCK_ROWS])

  any_m, all_m, count_t = np.zeros(m, bool), np.zeros(m, bool), np.zeros(t, int)
  for start in starts:
    is_finite = finite(start)
    rows = slice(start, start + len(is_finite))
    any_m[rows], all_m[rows] = is_finite.any(axis=1), is_finite.all(axis=1)
    count_t += is_finite.sum(axis=0)
  targets = np.flatnonzero(2 * count_t > any_m.sum())
  if len(targets) < t:
    for start in starts:
      is_finite = finite(start)
      all_m[start : start + len(is_finite)] = is_finite[:, targets].all(axis=1)
  return np.flatnonzero(any_m & all_m), targets
