"""Verdicts, the results of searches: one for each case."""

from typing import NamedTuple

import numpy as np

from jaxdm.brittleness.verification import MOST_SKEWNESS


class Verdict(NamedTuple):
  """What was found for one case.

  >>> import jaxdm
  >>> verdict = jaxdm.Verdict(
  ...   target=0, method="mine", k=2, censored=False, k_tried=2, mean_margin=-1.0,
  ...   margin_low=-2.0, margin_high=-0.1, accuracy=0.2, models=8, largest=3,
  ...   largest_margin=-2.0, models_used=20, finished=True, examples=(5, 9, 1))
  >>> verdict.examples[: verdict.k]  # Removing these two makes models wrong.
  (5, 9)

  Attributes:
    target: index among the targets.
    method: the method that ranked the examples.
    k: examples changed in the smallest verified change; -1 if censored.
    censored: whether no change of up to `largest` examples was verified.
    k_tried: the size that the margin below belongs to: k, or, if censored, the size that
      failed the verification, or `largest` where the first model there was hopeless.
    mean_margin: of the models trained on that change, in logits.
    margin_low: lower bound of the expected margin.
    margin_high: upper bound; a claim is margin_high <= 0, or margin_low >= 0 of a repair.
      Each bound is one-sided, by Student's t, at the level that `SequentialTest` has for
      so many models.
    accuracy: share of those models that are right about the target.
    models: how many of them there are.
    largest: the largest size that the search may try.
    largest_margin: margin of the search's first model, trained there: unlike the margin
      above it is of a size that no margin has chosen.
    models_used: models trained for this case, search and verification together.
    finished: False if the budget ran out first.
    skewness: of the target's margins, as estimated from other models (see `search`);
      None if no estimate was given.
    examples: int, training examples that the search may change, the first ones first;
      `examples[:k]` is what was found.
    is_repair: whether the target was wrong and the change is to make it right.
  """

  target: int
  method: str
  k: int
  censored: bool
  k_tried: int
  mean_margin: float
  margin_low: float
  margin_high: float
  accuracy: float
  models: int
  largest: int
  largest_margin: float
  models_used: int
  finished: bool
  skewness: float | None = None
  examples: tuple[int, ...] = ()
  is_repair: bool = False

  @property
  def changes_needed(self) -> float:
    """`k`, and infinity if no change was verified: for medians and comparisons."""
    return np.inf if self.censored else self.k

  @property
  def level_checked(self) -> bool:
    """Whether the level of the test was checked at such a skewness.

    Without an estimate the test allows for all that were checked, [-1, 1].
    """
    return self.skewness is None or abs(self.skewness) <= MOST_SKEWNESS
