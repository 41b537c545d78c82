"""The fewest training examples whose removal flips a prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdm import progress as progress_lib
from jaxdm import training_sets
from jaxdm.brittleness import search_inputs
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.retraining import Changes, Edit, Retrain, TrainChanges
from jaxdm.brittleness.search import search
from jaxdm.brittleness.targets import choose_targets
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import check_kind


def without_first(labels: np.ndarray) -> Edit:
  """The edit that leaves the first k examples of each case's ranking out."""

  def edit(changes: Changes) -> tuple[np.ndarray, np.ndarray]:
    examples = [case.ranking[:k] for case, k in changes]
    masks = training_sets.removal_masks(len(labels), examples)
    return masks, np.broadcast_to(labels, masks.shape)

  return edit


def find_removals(
  scores: Any | Mapping[str, Any],
  retrain: Retrain,
  labels: Any,
  target_labels: Any,
  targets: Sequence[int] | np.ndarray | None = None,
  config: SearchConfig = SearchConfig(),
  *,
  base_margins: Any = None,
  budget: int | None = None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Verdict]:
  """Finds small sets of training examples without which models get targets wrong.

  For each target, single models are trained without more or fewer of the examples with
  the highest scores, to find a small number that flips it. Then new models are trained
  without these examples. A removal counts only if the upper confidence bound of their
  mean margin is at most 0. Smaller removals may exist, since the scores only propose
  examples.

  >>> import jaxdm, numpy as np
  >>> n, labels = 12, np.array([0, 1] * 6)
  >>> def retrain(masks, labels, seeds):  # In place of training: a vote of four examples.
  ...   noise = np.random.default_rng(seeds).normal(size=(len(masks), 1))
  ...   return masks[:, [0, 2, 4, 6]].sum(axis=1, keepdims=True) - 1.5 + 0.1 * noise
  >>> scores = np.zeros((1, n))
  >>> scores[0, [0, 2, 4, 6]] = 1.0
  >>> config = jaxdm.SearchConfig(max_share=0.9)
  >>> [verdict] = jaxdm.find_removals(scores, retrain, labels, [0], config=config)
  >>> verdict.k, verdict.examples[: verdict.k]
  (3, (0, 2, 4))

  Args:
    scores: real[t, n], how much each training example supports each target, or a
      `Datamodels`; or a mapping from names of methods to these. Methods whose names are
      in `attribution.registry` choose among the examples that they can rank, which for
      similarities are those of the target's class; all others among all examples.
    retrain: trains models (see `retraining.Retrain`).
    labels: int[n], of the training examples.
    target_labels: int[t].
    targets: indices of the targets to search, or bool[t], which selects them; None:
      `config.num_targets` of them, drawn from those that models on all data get right.
    config: settings of the search and of the verification.
    base_margins: real[r, t], margins of models trained on all data, 8 or more where the
      skewness of margins is to be known; None: 16 are trained.
    budget: models to train at most, those on all data not counted; a search that needs
      more ends with verdicts that are not `finished`. None: as many as it takes.
    progress: called with (models done, models expected).

  Returns:
    One Verdict a method and target.

  Raises:
    UserError: if models on all data get the asked targets wrong; on scores that are not
      finite or of the wrong sign.
    ValueError: on scores of another shape, or margins that are not as `retrain` promises.
  """
  check_kind("config", config, SearchConfig)
  inputs = search_inputs.make_inputs(
    retrain, labels, target_labels, base_margins, progress
  )
  target_ids = choose_targets(inputs.base_margins_rt, targets, config)
  cases = search_inputs.cases_of(scores, inputs, target_ids, config)
  train = TrainChanges(retrain, without_first(inputs.labels), len(inputs.target_labels))
  return search(cases, train, config, inputs.base, budget=budget, progress=progress)
