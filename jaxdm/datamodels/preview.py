"""A rough estimate of the LDS while models are still being trained."""

import numpy as np

from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.errors import UserError

# Of the models that there are; the first ones are fitted to, the last ones are predicted.
_TEST_SHARE = 0.2
_LEAST_MODELS = 20


def preview_lds(masks_mn: np.ndarray, margins_mt: np.ndarray) -> float | None:
  """LDS of a rough fit to the first four fifths of some models, on the others.

  A weight is the covariance of the example's presence and the margin. For random subsets
  of one size this is the least squares fit if there were many more models than examples;
  so it is quick, and a datamodel fitted to as many models is better.

  Args:
    masks_mn: bool, the models' training sets.
    margins_mt: float, their margins; models with one that is not finite do not count.

  Returns:
    The mean Spearman correlation over targets; None if there are fewer than 20 models, or
    no target's margins differ.
  """
  finite_m = np.isfinite(margins_mt).all(axis=1)
  masks_mn, margins_mt = masks_mn[finite_m], margins_mt[finite_m]
  m = len(masks_mn)
  if m < _LEAST_MODELS:
    return None
  first = m - round(_TEST_SHARE * m)
  x_mn, y_mt = masks_mn[:first].astype(np.float32), margins_mt[:first]
  weights_nt = (x_mn - x_mn.mean(axis=0)).T @ (y_mt - y_mt.mean(axis=0))
  try:
    quality = evaluate_scores(weights_nt.T, masks_mn[first:], margins_mt[first:])
  except UserError:  # No target's margins differ.
    return None
  return quality.lds.estimate
