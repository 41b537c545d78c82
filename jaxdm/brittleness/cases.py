"""Which training examples are tried for a target, in which order."""

import math
from typing import NamedTuple

import numpy as np

from jaxdm import matrices
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.score_signs import check_sign
from jaxdm.errors import UserError
from jaxdm.rounding import share_of


class Case(NamedTuple):
  """One target and one way of choosing training examples for it.

  Attributes:
    target: index among the targets.
    method: the method that ranked the examples.
    ranking: training examples, the one to change first in front.
    sizes: numbers of them to try, ascending.
  """

  target: int
  method: str
  ranking: np.ndarray
  sizes: np.ndarray


def largest_change(labels: np.ndarray, target_label: int, max_share: float) -> int:
  """The most examples tried for a target: a share of its class, at least 1.

  Raises:
    UserError: if no training example has the target's label.
  """
  class_size = np.sum(np.asarray(labels) == target_label)
  if not class_size:
    raise UserError(
      "target_labels", f"hold {target_label}, which no training example has"
    )
  return max(1, math.floor(share_of(max_share, class_size)))


def leaving_two_classes(
  ranking: np.ndarray, labels: np.ndarray, new_label: int | None = None
) -> np.ndarray:
  """The first examples of a ranking that can be changed while two classes remain.

  Args:
    ranking: int[r], examples.
    labels: int[n], of the training examples.
    new_label: the label that the examples get; None: they are removed.

  Returns:
    int[s], at least the first one.
  """
  labels = np.asarray(labels, np.int64)  # In int8, 127 + 1 would be -128.
  most = labels.max() if new_label is None else max(labels.max(), new_label)
  counts = np.bincount(labels, minlength=most + 1)
  if np.count_nonzero(counts) < 2:
    return ranking
  for place, label in enumerate(labels[ranking]):
    counts[label] -= 1
    if new_label is not None:
      counts[new_label] += 1
    if np.count_nonzero(counts) < 2:
      return ranking[: max(place, 1)]
  return ranking


def candidate_sizes(max_k: int, num_sizes: int) -> np.ndarray:
  """Distinct sizes from 1 to max_k, ascending, geometrically spaced; or max_k alone."""
  if num_sizes == 1:
    return np.array([max_k])
  return np.unique(np.round(np.geomspace(1, max_k, num_sizes)).astype(int))


def surrogate_sizes(predicted_margins: np.ndarray, num_sizes: int) -> np.ndarray:
  """The fewest removals at which a datamodel predicts a margin <= C, for several C.

  The coarse search of the datamodels paper's authors: C falls from 0 in equal steps to
  the lowest prediction.

  Args:
    predicted_margins: float, after the first 1, 2, ... removals of a ranking, in logits.
    num_sizes: values of C.

  Returns:
    int, ascending; the whole ranking alone if no prediction is below 0.
  """
  lowest = np.minimum.accumulate(predicted_margins)
  levels = np.linspace(0, min(lowest[-1], 0), num_sizes)
  counts = np.searchsorted(-lowest, -levels, side="left") + 1
  return np.unique(np.minimum(counts, len(lowest)))


def make_cases(
  method: str,
  scores_tn: matrices.Matrix,
  targets: np.ndarray,
  labels: np.ndarray,
  target_labels: np.ndarray,
  *,
  config: SearchConfig,
  same_class: bool,
  predicted_full_t: np.ndarray | None = None,
) -> list[Case]:
  """Turns scores into one case a target.

  Args:
    method: names the scores.
    scores_tn: float, how much each example supports each target. It is read twice: all of
      it to check it, a tile of targets at a time, and the rows of `targets`.
    targets: int, indices of the targets wanted.
    labels: int[n], of the training examples.
    target_labels: int[t].
    config: which sizes to try.
    same_class: choose among the target's class only.
    predicted_full_t: float, margins that datamodels predict for the full training set,
      intercept included; then the scores are their weights in logits. Needed for
      size_law='surrogate', which other scores replace by the grid.

  Returns:
    Cases whose rankings have at most `largest_change` examples.

  Raises:
    UserError: on scores that are not finite or of the wrong sign; a target with no
      example to choose from.
    ValueError: on scores of another shape; a target out of range.
  """
  check_scores(method, scores_tn, targets, labels, target_labels)
  cases = []
  for target, scores_n in zip(targets, rows_of(scores_tn, targets), strict=True):
    candidates = np.arange(len(labels))
    if same_class:
      candidates = candidates[np.asarray(labels) == target_labels[target]]
    most = largest_change(labels, target_labels[target], config.max_share)
    margin = None if predicted_full_t is None else predicted_full_t[target]
    case = make_case(
      method, target, scores_n, candidates, np.asarray(labels), most, config, margin
    )
    cases.append(case)
  return cases


def make_case(
  method: str,
  target: int,
  scores_n: np.ndarray,
  candidates: np.ndarray,
  labels: np.ndarray,
  most: int,
  config: SearchConfig,
  predicted_margin: float | None,
  *,
  new_label: int | None = None,
) -> Case:
  """The case of one target, whose candidates with the highest scores come first.

  Args:
    method: names the scores.
    target: index among the targets.
    scores_n: float, of all examples.
    candidates: int, the examples to choose from.
    labels: int[n].
    most: examples that are ranked, if two classes remain.
    config: which sizes to try.
    predicted_margin: see `_sizes`.
    new_label: the label that the examples get; None: they are removed.
  """
  ranking = candidates[np.argsort(-scores_n[candidates], kind="stable")[:most]]
  ranking = leaving_two_classes(ranking, labels, new_label)
  sizes = _sizes(scores_n[ranking], config, predicted_margin)
  return Case(int(target), method, ranking, sizes)


def rows_of(scores_tn: matrices.Matrix, targets: np.ndarray) -> np.ndarray:
  """The scores of some targets as float[u, n]: unsigned integers cannot be negated."""
  rows_un = np.asarray(scores_tn[np.asarray(targets, int)])
  return rows_un.astype(np.result_type(rows_un.dtype, np.float32))


def _sizes(
  scores: np.ndarray, config: SearchConfig, predicted_margin: float | None
) -> np.ndarray:
  """The sizes to try of a ranking, by the config's law.

  Args:
    scores: float, of the examples of the ranking, in its order.
    config: names the law.
    predicted_margin: what a datamodel with these scores as weights predicts for the full
      training set; None: there is no datamodel, and sizes are those of the grid.
  """
  if config.size_law == "surrogate" and predicted_margin is not None:
    return surrogate_sizes(predicted_margin - scores.cumsum(), config.num_sizes)
  return candidate_sizes(len(scores), config.num_sizes)


def check_scores(
  method: str,
  scores_tn: matrices.Matrix,
  targets: np.ndarray,
  labels: np.ndarray,
  target_labels: np.ndarray,
) -> None:
  """Checks that scores can rank examples for some targets.

  Args:
    method: names the scores.
    scores_tn: float, how much each example supports each target.
    targets: int, indices of the targets wanted.
    labels: int[n], of the training examples.
    target_labels: int[t].

  Raises:
    UserError: on scores that are not finite or of the wrong sign.
    ValueError: on scores of another shape; a target out of range.
  """
  expected = (len(target_labels), len(labels))
  if tuple(scores_tn.shape) != expected:
    shape = tuple(scores_tn.shape)
    raise ValueError(f"scores of {method} must be [t, n] = {expected}, got {shape}")
  check_sign(method, scores_tn, np.asarray(labels), np.asarray(target_labels))
  wrong = [int(t) for t in targets if not 0 <= t < len(target_labels)]
  if wrong:
    raise ValueError(f"targets must be in [0, {len(target_labels)}), got {wrong}")
