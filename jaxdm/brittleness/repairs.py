"""The fewest training examples whose change makes a wrong prediction right.

The search, the verification and its level are those of removals, on negated margins and
negated scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxdm import progress as progress_lib
from jaxdm.attribution import registry
from jaxdm.brittleness import margin_curve, search_inputs
from jaxdm.brittleness.cases import (
  Case,
  check_scores,
  largest_change,
  make_case,
  rows_of,
)
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.label_flips import relabel_first
from jaxdm.brittleness.removals import without_first
from jaxdm.brittleness.retraining import Changes, Retrain, TrainChanges
from jaxdm.brittleness.search import MarginsOfChanges, search
from jaxdm.brittleness.targets import WRONG, choose_targets
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import UserError, check_choice, check_kind

Change = Literal["removal", "relabel"]
CHANGES: tuple[Change, ...] = get_args(Change)
# Stands for a margin of 0, which is not right: negated margins of 0 must not help.
_TIE = 1e-100


def negate_margins(train: MarginsOfChanges) -> MarginsOfChanges:
  """Training whose margins are positive where the prediction is wrong."""

  def train_negated(
    changes: Changes, seeds: np.ndarray, *, progress: progress_lib.Progress
  ) -> np.ndarray:
    margins_m = np.asarray(train(changes, seeds, progress=progress), np.float64)
    return np.where(margins_m == 0, _TIE, -margins_m)

  return train_negated


def as_repair(verdict: Verdict) -> Verdict:
  """A verdict on negated margins as one on margins."""
  unknown = np.isnan(verdict.mean_margin)  # No models yet, or some that diverged.
  return verdict._replace(
    mean_margin=-verdict.mean_margin,
    margin_low=-verdict.margin_high,
    margin_high=-verdict.margin_low,
    accuracy=np.nan if unknown else 1 - verdict.accuracy,
    largest_margin=-verdict.largest_margin,
    skewness=None if verdict.skewness is None else -verdict.skewness,
    is_repair=True,
  )


def repair_cases(
  scores: Any,
  inputs: search_inputs.SearchInputs,
  targets: np.ndarray,
  config: SearchConfig,
  *,
  change: Change,
) -> list[Case]:
  """One case a target and method; the examples that oppose the target most come first.

  Those are the ones with the lowest scores. Methods that rank one class only, such as
  similarities, say nothing of opposition; they choose the highest scores among the
  examples of other classes than the target's.

  Args:
    scores: see `find_removals`.
    inputs: the examples and targets.
    targets: int[u].
    config: which sizes to try.
    change: see `find_repairs`.
  """
  cases, labels = [], inputs.labels
  for name, scores_tn, full_t in search_inputs.named_scores(scores, len(labels)):
    search_inputs.check_has_models(name, full_t, targets)
    check_scores(name, scores_tn, targets, labels, inputs.target_labels)
    opposes = registry.all_classes(name)
    for target, scores_n in zip(targets, rows_of(scores_tn, targets), strict=True):
      own = inputs.target_labels[target]
      is_candidate = np.full(len(labels), True) if opposes else labels != own
      if change == "relabel":
        is_candidate = labels != own
      candidates = np.flatnonzero(is_candidate)
      case = make_case(
        name,
        target,
        -scores_n if opposes else scores_n,
        candidates,
        labels,
        largest_change(labels, own, config.max_share),
        config,
        None if full_t is None else -float(full_t[target]),
        new_label=int(own) if change == "relabel" else None,
      )
      cases.append(case)
  return cases


def find_repairs(
  scores: Any | Mapping[str, Any],
  retrain: Retrain,
  labels: Any,
  target_labels: Any,
  targets: Sequence[int] | np.ndarray | None = None,
  config: SearchConfig = SearchConfig(),
  *,
  change: Change = "removal",
  base_margins: Any = None,
  budget: int | None = None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Verdict]:
  """Finds small sets of training examples whose change makes models right.

  It is `find_removals` for targets that models on all data get wrong. The examples that
  oppose the target most, with the lowest scores, are removed, or relabelled to the
  target's class, more or fewer, until a smallest number is found; then new models are
  trained on the changed set. A repair counts only if the lower confidence bound of their
  mean margin is at least 0. The arguments are those of `find_removals`, and the change.

  >>> import jaxdm, numpy as np
  >>> labels = np.array([0, 1] * 6)
  >>> def retrain(masks, labels, seeds):  # In place of training: four examples oppose.
  ...   noise = np.random.default_rng(seeds).normal(size=(len(masks), 1))
  ...   opposition = np.where(labels == 1, masks, 0)[:, [1, 3, 5, 7]]
  ...   return 1.5 - opposition.sum(axis=1, keepdims=True) + 0.1 * noise
  >>> scores = np.zeros((1, 12))
  >>> scores[0, [1, 3, 5, 7]] = -1.0
  >>> config = jaxdm.SearchConfig(max_share=0.9)
  >>> [verdict] = jaxdm.find_repairs(scores, retrain, labels, [0], config=config)
  >>> verdict.k, verdict.examples[: verdict.k], verdict.margin_low > 0
  (3, (1, 3, 5), True)
  >>> [verdict] = jaxdm.find_repairs(
  ...   scores, retrain, labels, [0], config=config, change="relabel")
  >>> verdict.k
  3

  Args:
    scores: see `find_removals`; the lowest ones are changed first. Methods whose names
      are in `attribution.registry` and that rank one class only, as similarities do,
      choose the highest ones among the examples of other classes than the target's.
    retrain: see `find_removals`.
    labels: int[n], of the training examples, of two classes or more.
    target_labels: int[t], the classes that are right.
    targets: indices of the targets to repair, or bool[t], which selects them; None:
      `config.num_targets` of them, drawn from those that models on all data get wrong.
    config: see `find_removals`; `max_share` is a share of the target's class.
    change: 'removal': the examples are left out. 'relabel': they stay, with the label of
      the target's class; they are chosen from the other classes.
    base_margins: see `find_removals`.
    budget: see `find_removals`.
    progress: see `find_removals`.

  Returns:
    One Verdict a method and target, with `is_repair`.

  Raises:
    UserError: if models on all data get no target wrong, or the asked ones right.
    ValueError: see `find_removals`; and on a change of another name.
  """
  check_kind("config", config, SearchConfig)
  check_choice("change", change, CHANGES)
  inputs = search_inputs.make_inputs(
    retrain, labels, target_labels, base_margins, progress
  )
  if np.ptp(inputs.labels) == 0:
    raise UserError("labels", "must be of two classes or more, got one")
  target_ids = choose_targets(-inputs.base_margins_rt, targets, config, WRONG)
  cases = repair_cases(scores, inputs, target_ids, config, change=change)
  edit = (
    without_first(inputs.labels)
    if change == "removal"
    else relabel_first(inputs.labels, inputs.target_labels)
  )
  return search(
    cases,
    negate_margins(TrainChanges(retrain, edit, len(inputs.target_labels))),
    config,
    margin_curve.describe(-inputs.base_margins_rt),
    budget=budget,
    progress=progress,
    restate=as_repair,
  )
