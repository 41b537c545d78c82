"""How well scores, by whichever method, predict the margins of models they never saw."""

from typing import Any

import numpy as np

from jaxdm import matrices
from jaxdm.attribution.scores import check_finite
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import Datamodels, predictions_by_subset
from jaxdm.datamodels.quality import Quality

# Rows of scores within these powers of two are taken as they are.
_MOST_BITS = 64
# Means that are larger, as a multiple of the spread, would hide it in float32 sums.
_FAR = 100
_ROWS = 64  # That are converted together.


def evaluate_scores(scores: Any, masks: Any, margins: Any) -> Quality:
  """Judges scores of training examples by models on subsets that they were not made from.

  A target's predicted margin is the sum of its scores over the subset, in a unit of its
  own; so `lds` and `ceiling`, which depend on ranks alone, are what compares methods.
  `r2` and `pooled_correlation` say something of scores in logits only. They are computed
  in another unit for targets whose largest score is not within 2**-64 and 2**64.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> scores, masks = rng.normal(size=(3, 20)), rng.random((400, 20)) < 0.5
  >>> margins = masks @ scores.T + 0.1 * rng.normal(size=(400, 3))
  >>> round(jaxdm.evaluate_scores(scores, masks, margins).lds.estimate, 2)
  1.0

  Args:
    scores: real[t, n], how much each example supports each target, or `Datamodels`.
    masks: bool[m, n], training sets of models that the scores were not made from.
    margins: real[m, t], their margins.

  Returns:
    Quality, with 95 % intervals.

  Raises:
    ValueError: on shapes that do not match.
    UserError: on scores that are not finite; if there are not two models on different
      subsets.
  """
  values = scores.weights_tn if isinstance(scores, Datamodels) else scores
  scores_tn = matrices.as_real("scores", values)
  margins_mt = np.asarray(matrices.as_columns("margins", margins)[:])
  masks_mn = matrices.as_matrix("masks", masks)
  if tuple(scores_tn.shape) != (margins_mt.shape[1], masks_mn.shape[1]):
    raise ValueError(
      f"scores must be [t, n] = {(margins_mt.shape[1], masks_mn.shape[1])} as in margins "
      f"and masks, got {tuple(scores_tn.shape)}"
    )
  return metrics.evaluate(_predict(masks_mn, scores_tn), margins_mt, masks_mn)


def _predict(masks_mn: matrices.Matrix, scores_tn: matrices.Matrix) -> np.ndarray:
  """Sums of scores over subsets, as float[m, t].

  They are float32, unless scores have means that float32 cannot add: then float64.
  """
  rows = _UnitRows(scores_tn)
  guess_mt = predictions_by_subset(masks_mn, rows)
  if not rows.means_t.any():
    return guess_mt
  sizes_m = np.zeros(len(guess_mt))
  for part, block in matrices.blocks(masks_mn, np.arange(len(guess_mt))):
    sizes_m[part] = block.sum(axis=1, dtype=np.float64)
  return guess_mt + np.outer(sizes_m, rows.means_t)


class _UnitRows:
  """Scores as float32[t, n], in units in which float32 holds them and their sums.

  Attributes:
    shape: (t, n).
    dtype: float32.
    means_t: float64, what was subtracted from the scores of the targets read so far; 0
      where nothing was.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, scores_tn: matrices.Matrix):
    """Reads nothing yet."""
    self.shape, self._scores_tn = scores_tn.shape, scores_tn
    self.means_t = np.zeros(scores_tn.shape[0])

  def __getitem__(self, part: slice) -> np.ndarray:
    scores_un = np.asarray(self._scores_tn[part])
    check_finite(scores_un, part.start)
    unit_un = np.empty(scores_un.shape, np.float32)
    for start in range(0, len(unit_un), _ROWS):
      rows = slice(start, start + _ROWS)
      unit_un[rows], means = _centre(scores_un[rows].astype(np.float64))
      self.means_t[part.start + start :][: len(means)] = means
    return unit_un


def _centre(scores_un: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scores in units of 2**-64 to 2**64, less their means where these are large.

  Args:
    scores_un: float64, finite.

  Returns:
    float64[u, n], and float64[u], the means that were subtracted; 0 where none was.
  """
  _, bits_u = np.frexp(np.abs(scores_un).max(axis=1))
  shift_u = np.clip(bits_u, -_MOST_BITS, _MOST_BITS) - bits_u
  if shift_u.any():
    scores_un = np.ldexp(scores_un, shift_u[:, None])
  mean_u, std_u = scores_un.mean(axis=1), scores_un.std(axis=1)
  is_far_u = np.abs(mean_u) > _FAR * std_u
  if not is_far_u.any():
    return scores_un, np.zeros(len(mean_u))
  # Equal scores stay equal, whatever the mean's rounding is.
  mean_u = np.clip(mean_u, scores_un.min(axis=1), scores_un.max(axis=1))
  mean_u = np.where(is_far_u, mean_u, 0)
  return scores_un - mean_u[:, None], mean_u
