"""How well datamodels predict models that they have not seen, as numbers."""

from typing import NamedTuple

import numpy as np

from jaxdm.datamodels.jackknife import Interval


class Quality(NamedTuple):
  """How well datamodels predict models that they have not seen.

  Each interval covers a population value: what the score tends to as held-out models are
  trained on ever more random subsets, for these targets and these predictions. It says
  nothing of other targets, nor of datamodels fitted to other models.

  >>> import jaxdm, numpy as np
  >>> masks = jaxdm.random_subsets(num_models=40, num_train=30, alpha=0.5, seed=0)
  >>> scores = np.arange(30.0)[None]
  >>> quality = jaxdm.evaluate_scores(scores, masks, masks @ scores.T)
  >>> round(quality.lds.estimate, 3), quality.num_models, quality.ceiling
  (1.0, 40, None)

  Attributes:
    lds: linear datamodeling score: Spearman correlation over held-out models of
      predicted and true margin, per target, then averaged over targets. A target with
      constant predictions counts as 0: such predictions rank no model above another.
    pooled_correlation: Pearson correlation over all (model, target) pairs at once.
      Much of it is targets having different mean margins; never compare it to lds.
    r2: share of each target's variance over models that is predicted, averaged over
      targets.
    ceiling: an upper bound of the lds of any predictions, or None without two subsets
      that were trained on twice; a subset's first two models count. Two models on one
      subset have margins that correlate by r, so that each correlates by sqrt(r) with the
      expected margin (Spearman, 'The proof and measurement of association', 1904). It is
      the square root of the mean of r over targets. The mean of the targets' square roots
      is smaller if r differs between targets, but its estimate is biased if single r are
      near 0.
    lds_t: float[t], each target's own score; NaN where the target is left out.
    num_models: held-out models that the scores are computed from.
    num_subsets: distinct training sets of these models.
    num_left_out: models that are left out because their margins are not finite.
    num_targets_left_out: targets that are left out because their margins are not finite
      in most models, or are the same in all.
  """

  lds: Interval
  pooled_correlation: Interval
  r2: Interval
  ceiling: Interval | None
  lds_t: np.ndarray
  num_models: int
  num_subsets: int
  num_left_out: int
  num_targets_left_out: int

  @property
  def left_out(self) -> str:
    """A sentence on the models and targets that are left out; empty if there are none."""
    parts = []
    if self.num_left_out:
      parts.append(f"{self.num_left_out} held-out models, whose margins are not finite")
    if self.num_targets_left_out:
      parts.append(
        f"{self.num_targets_left_out} of {len(self.lds_t)} targets, whose margins are "
        "not finite in most models or the same in all"
      )
    return f"left out of the scores: {' and '.join(parts)}" if parts else ""
