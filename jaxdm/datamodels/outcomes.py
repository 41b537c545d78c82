"""What is fitted under one prior: margins less what the prior's offset explains."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from jaxdm import matrices
from jaxdm.datamodels.model import predictions
from jaxdm.datamodels.priors import Prior
from jaxdm.margins import Margins

# Of sums of squares in float64 that should be 0.
_ROUNDING = 1e-20


class Outcomes:
  """What is fitted under one prior: the margins less what its offset explains.

  The offset's mean over the examples is scaled by itself: it changes predictions only
  where subsets differ in size, and subsets of one size do not tell how large it is.
  """

  def __init__(
    self,
    masks_mn: matrices.Matrix,
    margins_mt: Margins,
    weights_m: np.ndarray | None,
    lacks_margins_t: np.ndarray,
    prior: Prior,
    parts: Sequence[slice],
  ):
    self._masks, self._margins, self._prior = masks_mn, margins_mt, prior
    self._lacks_margins_t = lacks_margins_t
    self._shape = margins_mt.shape[1], masks_mn.shape[1]
    self._scales = np.zeros(2)
    if prior.offset is None:
      return
    one_1n = np.ones((1, self._shape[1]), np.float32)
    self._sizes_m = predictions(masks_mn, one_1n)[:, 0].astype(np.float64)
    # Two numbers for all targets, by least squares: they cost no degree of freedom.
    aligned, gram, size = np.zeros(2), np.zeros((2, 2)), 0.0
    root_m = None if weights_m is None else np.sqrt(weights_m)
    for part in parts:
      margins = matrices.scale_rows(self._known(margins_mt[:, part], part), root_m)
      guesses = self._guesses(part)
      size += sum(float(np.sum(guess_mt**2)) for guess_mt in guesses)
      centred = [
        matrices.scale_rows(
          guess_mt - np.average(guess_mt, axis=0, weights=weights_m), root_m
        )
        for guess_mt in guesses
      ]
      aligned += [np.sum(guess_mt * margins) for guess_mt in centred]
      gram += [[np.sum(one * other) for other in centred] for one in centred]
    self._scales = _least_squares(gram, aligned, np.diag(gram) > _ROUNDING * size)

  def _offsets(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """The offset less its mean, and its mean, before they are scaled."""
    offset_tn = self._prior.offset_of(part, self._shape).astype(np.float64)
    mean_t1 = offset_tn.mean(axis=1, keepdims=True)
    return offset_tn - mean_t1, np.broadcast_to(mean_t1, offset_tn.shape)

  def _guesses(self, part: slice) -> list[np.ndarray]:
    """What both predict, as float64[m, t]; the mean exactly equal for equal sizes."""
    apart_tn, mean_tn = self._offsets(part)
    guess_mt = predictions(self._masks, apart_tn).astype(np.float64)
    return [guess_mt, np.outer(self._sizes_m, mean_tn[:, 0].astype(np.float64))]

  def factors(self, part: slice) -> np.ndarray | None:
    """Penalty factors; None: 1."""
    return self._prior.factors_of(part, self._shape)

  def offset(self, part: slice) -> np.ndarray:
    """What weights are shrunk to, as float32[t, n]; 0 where there is no offset."""
    if not self._scales.any():
      return np.zeros(1, np.float32)
    apart, mean = self._offsets(part)
    return (self._scales[0] * apart + self._scales[1] * mean).astype(np.float32)

  def of_tile(self, part: slice) -> np.ndarray:
    """Outcomes of a tile of targets, float64[m, t]; 0 for targets without margins."""
    outcomes_mt = self._margins[:, part].astype(np.float64)
    if self._scales.any():
      apart, mean = self._guesses(part)
      outcomes_mt = outcomes_mt - self._scales[0] * apart - self._scales[1] * mean
    return self._known(outcomes_mt, part)

  def _known(self, values_mt: np.ndarray, part: slice) -> np.ndarray:
    """Values of targets as float64[m, t], 0 for those without margins."""
    return np.where(self._lacks_margins_t[part], 0.0, values_mt.astype(np.float64))


def _least_squares(
  gram: np.ndarray, aligned: np.ndarray, is_used: np.ndarray
) -> np.ndarray:
  """The scales s >= 0 with the smallest s'Gs - 2 s'a, as float64; 0 for unused ones."""
  scales = np.zeros(len(aligned))
  used = np.flatnonzero(is_used)
  if not used.size:  # Of which SciPy's nnls makes the process abort.
    return scales
  unit = np.sqrt(np.diag(gram)[used])
  values, vectors = np.linalg.eigh(gram[np.ix_(used, used)] / np.outer(unit, unit))
  root = np.sqrt(np.maximum(values, np.finfo(np.float64).eps))
  outcome = vectors.T @ (aligned[used] / unit) / root
  scales[used] = scipy.optimize.nnls(root[:, None] * vectors.T, outcome)[0] / unit
  return scales
