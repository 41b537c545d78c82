"""Label flips: which label to flip to; the search is the one for removals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdm import matrices, training_sets
from jaxdm import progress as progress_lib
from jaxdm.brittleness import search_inputs
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.retraining import Changes, Edit, Retrain, TrainChanges
from jaxdm.brittleness.search import search
from jaxdm.brittleness.targets import choose_targets
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import UserError, check_kind


def runner_up_class(base_logits_rtk: np.ndarray, target_labels: np.ndarray) -> np.ndarray:
  """The class, other than its own, that full-data models give a target most.

  Args:
    base_logits_rtk: float, logits of r models trained on all data.
    target_labels: int[t].

  Returns:
    int32[t], by mean logit.
  """
  mean_tk = base_logits_rtk.mean(axis=0)
  mean_tk[np.arange(len(target_labels)), target_labels] = -np.inf
  return mean_tk.argmax(axis=1).astype(np.int32)


def competing_class(
  weights_tn: np.ndarray, labels: np.ndarray, target_labels: np.ndarray
) -> np.ndarray:
  """The class, other than its own, whose examples lower a target's margin most.

  It stands in for `runner_up_class` where models give margins and no logits.

  Args:
    weights_tn: float, of datamodels.
    labels: int[n], of the training examples.
    target_labels: int[t].

  Returns:
    int32[t], the class with the smallest sum of weights.
  """
  num_classes = max(int(np.max(labels)), int(np.max(target_labels))) + 1
  classes_nk = np.asarray(labels)[:, None] == np.arange(num_classes)
  sums_tk = weights_tn @ classes_nk.astype(weights_tn.dtype)
  sums_tk[:, ~classes_nk.any(axis=0)] = np.inf  # No model has seen such a class.
  sums_tk[np.arange(len(target_labels)), target_labels] = np.inf
  return sums_tk.argmin(axis=1).astype(np.int32)


def one_class(label: int, target_labels: np.ndarray) -> np.ndarray:
  """One class for every target, as int32[t].

  Raises:
    UserError: if it is the class of some target.
  """
  same = np.flatnonzero(np.asarray(target_labels) == label)
  if same.size:
    raise UserError(
      "flip_to",
      f"must not be the class of a target; it is that of {same.size} "
      f"of {len(target_labels)}",
    )
  return np.full(len(target_labels), label, np.int32)


def best_class(relabel_tnk: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """For each target and example the new label that takes most from the target.

  Args:
    relabel_tnk: float, what each new label takes (`attribution.gradient`).
    labels: int[n], those that the examples have; never chosen.

  Returns:
    int32[t, n].
  """
  own_nk = np.asarray(labels)[:, None] == np.arange(relabel_tnk.shape[-1])
  return np.where(own_nk, -np.inf, relabel_tnk).argmax(axis=-1).astype(np.int32)


def relabel_first(labels: np.ndarray, new_labels: Any) -> Edit:
  """The edit that gives the first k examples of each case's ranking new labels.

  Args:
    labels: int32[n].
    new_labels: int[t], or what is indexed like int[t, n].
  """
  per_example = len(new_labels.shape) == 2

  def edit(changes: Changes) -> tuple[np.ndarray, np.ndarray]:
    examples_of = [case.ranking[:k] for case, k in changes]
    new = []
    for (case, _), examples in zip(changes, examples_of, strict=True):
      [new_label] = new_labels[np.array([case.target])]
      new.append(
        new_label[examples] if per_example else np.full(len(examples), new_label)
      )
    labels_mn = training_sets.relabel(labels, examples_of, new)
    return np.ones(labels_mn.shape, bool), labels_mn

  return edit


def find_label_flips(
  scores: Any | Mapping[str, Any],
  retrain: Retrain,
  labels: Any,
  target_labels: Any,
  new_labels: Any,
  targets: Sequence[int] | np.ndarray | None = None,
  config: SearchConfig = SearchConfig(),
  *,
  base_margins: Any = None,
  budget: int | None = None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Verdict]:
  """Finds small sets of training examples whose relabelling makes models wrong.

  The search is that of `find_removals`; examples are chosen from the target's class, and
  stay in the training set under another label. The arguments are those of
  `find_removals`, and the new labels.

  >>> import jaxdm, numpy as np
  >>> labels = np.array([0, 1] * 6)
  >>> def retrain(masks, labels, seeds):  # In place of training: a vote of four examples.
  ...   noise = np.random.default_rng(seeds).normal(size=(len(masks), 1))
  ...   return np.where(labels[:, [0, 2, 4, 6]] == 0, 1, -1).sum(1, keepdims=True) + (
  ...     0.5 + 0.1 * noise)
  >>> scores = np.zeros((1, 12))
  >>> scores[0, [0, 2, 4, 6]] = 1.0
  >>> config = jaxdm.SearchConfig(max_share=0.9)
  >>> [verdict] = jaxdm.find_label_flips(scores, retrain, labels, [0], [1], config=config)
  >>> verdict.k
  3

  Args:
    scores: see `find_removals`; the highest ones are relabelled first.
    retrain: see `find_removals`.
    labels: int[n], of the training examples.
    target_labels: int[t].
    new_labels: int[t], one new label a target, or int[t, n], one for every target and
      example: among the classes of `labels` and `target_labels`.
    targets: see `find_removals`.
    config: see `find_removals`.
    base_margins: see `find_removals`.
    budget: see `find_removals`.
    progress: see `find_removals`.

  Returns:
    One Verdict a method and target; `k` counts relabelled examples.

  Raises:
    ValueError: see `find_removals`; and on new labels that are not classes, or that an
      example has already.
  """
  check_kind("config", config, SearchConfig)
  inputs = search_inputs.make_inputs(
    retrain, labels, target_labels, base_margins, progress
  )
  target_ids = choose_targets(inputs.base_margins_rt, targets, config)
  new_labels = _as_new_labels(new_labels, inputs, target_ids)
  cases = search_inputs.cases_of(scores, inputs, target_ids, config, same_class=True)
  edit = relabel_first(inputs.labels, new_labels)
  train = TrainChanges(retrain, edit, len(inputs.target_labels))
  return search(cases, train, config, inputs.base, budget=budget, progress=progress)


def _as_new_labels(
  new_labels: Any, inputs: search_inputs.SearchInputs, targets: np.ndarray
) -> matrices.Matrix:
  """New labels of one axis or two, checked where the search of some targets needs them.

  Raises:
    ValueError: on another shape, numbers that are not classes, or the label that an
      example of a target's class has.
  """
  values = matrices.as_real("new_labels", new_labels)
  t, n = len(inputs.target_labels), len(inputs.labels)
  if tuple(values.shape) not in ((t,), (t, n)):
    raise ValueError(
      f"new_labels must be [t] = [{t}] or [t, n] = [{t}, {n}], got {list(values.shape)}"
    )
  if values.dtype.kind == "b":
    raise ValueError("new_labels must be integers, got bool; give class numbers")
  largest = max(int(inputs.labels.max()), int(inputs.target_labels.max()))
  largest = min(largest, int(np.iinfo(inputs.labels.dtype).max))
  for target in targets:
    own = inputs.target_labels[target]
    [new_label] = np.asarray(values[np.array([target])])
    of_class = np.broadcast_to(new_label, (n,))[inputs.labels == own]
    are_whole = np.trunc(of_class) == of_class
    wrong = of_class[~(are_whole & (of_class >= 0) & (of_class <= largest))]
    if wrong.size:
      raise ValueError(
        f"new_labels of target {target} must be integers in [0, {largest}], the range of "
        f"labels and target_labels, got {wrong[0]}"
      )
    if (of_class == own).any():
      raise ValueError(
        f"new_labels of target {target} must differ from its class, {own}, for examples "
        "of that class"
      )
  return values
