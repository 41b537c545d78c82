"""How well scores, by whichever method, predict the margins of models they never saw."""

from typing import Any

import numpy as np

from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import predictions_by_subset
from jaxdm.datamodels.quality import Quality
from jaxdm.lasso import matrices


def evaluate_scores(scores: Any, masks: Any, margins: Any) -> Quality:
  """Judges scores of training examples by models on subsets that they were not made from.

  A target's predicted margin is the sum of its scores over the subset, in a unit of its
  own; so `lds` and `ceiling`, which depend on ranks alone, are what compares methods.
  `r2` and `pooled_correlation` say something of scores in logits only.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> scores, masks = rng.normal(size=(3, 20)), rng.random((400, 20)) < 0.5
  >>> margins = masks @ scores.T + 0.1 * rng.normal(size=(400, 3))
  >>> round(jaxdm.evaluate_scores(scores, masks, margins).lds.estimate, 2)
  1.0

  Args:
    scores: real[t, n], how much each example supports each target.
    masks: bool[m, n], training sets of models that the scores were not made from.
    margins: real[m, t], their margins.

  Returns:
    Quality, with 95 % intervals.

  Raises:
    ValueError: on shapes that do not match, or scores that are not finite.
    UserError: if there are not two models on different subsets.
  """
  scores_tn = matrices.as_real("scores", scores)
  margins_mt = np.asarray(matrices.as_columns("margins", margins)[:])
  masks_mn = matrices.as_matrix("masks", masks)
  if tuple(scores_tn.shape) != (margins_mt.shape[1], masks_mn.shape[1]):
    raise ValueError(
      f"scores must be [t, n] = {(margins_mt.shape[1], masks_mn.shape[1])} as in margins "
      f"and masks, got {tuple(scores_tn.shape)}"
    )
  return metrics.evaluate(
    predictions_by_subset(masks_mn, scores_tn), margins_mt, masks_mn
  )
