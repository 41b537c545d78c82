"""Sums over models of what they say of the training examples, some models at a time."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from jaxdm import margins as margins_lib
from jaxdm.audits.estimates import Sums

_BLOCK_BYTES = 2**26
_BYTES_A_NUMBER = 40  # Of all arrays of a block that are alive at the same time.


class Side(NamedTuple):
  """Models that have an example in their training set, or those that have not.

  Attributes:
    right: of zeros and ones: whether a model chooses the example's label.
    probability: of the probability of the label against the strongest other class.
  """

  right: Sums
  probability: Sums


class Tallies(NamedTuple):
  """What all models say of each example.

  Attributes:
    inside: of models that were trained on the example.
    outside: of models that were not.
    votes_nk: int64, how many of the latter choose each class; None: that is unknown.
    num_models: those that count.
    lacking_n: bool, examples of which at most half of the models have a margin.
  """

  inside: Side
  outside: Side
  votes_nk: np.ndarray | None
  num_models: int
  lacking_n: np.ndarray


def count(
  masks: Any, margins: Any, labels_n: np.ndarray, predicted: Any, num_classes: int
) -> Tallies:
  """Sums over the models whose margins are finite.

  Args:
    masks: bool[m, n], an array or packed.
    margins: float[m, n], an array or in a store; read a block of rows at a time.
    labels_n: int, of the examples.
    predicted: int[m, n], as `margins`; None: the classes are not known, unless there are
      two.
    num_classes: k.
  """
  n, k = len(labels_n), num_classes
  models, examples = margins_lib.usable(margins)
  inside, outside = np.zeros((5, n)), np.zeros((5, n))
  classes = np.unique(labels_n)
  # Of two classes, a model that does not choose one chooses the other.
  is_known = predicted is not None or (len(classes) == 2 and classes[0] >= 0)
  votes_nk = np.zeros((n, k), np.int64) if is_known else None
  size = max(1, _BLOCK_BYTES // (_BYTES_A_NUMBER * n))
  for start in range(0, len(models), size):
    rows = models[start : start + size]
    masks_mn = np.asarray(masks[rows], bool)
    margins_mn = np.asarray(margins[rows], np.float64)
    right_mn, probability_mn = margins_mn > 0, scipy.special.expit(margins_mn)
    terms = (np.ones_like(margins_mn), right_mn, right_mn, probability_mn)
    for place, term_mn in enumerate((*terms, probability_mn**2)):
      inside[place] += np.where(masks_mn, term_mn, 0).sum(axis=0)
      outside[place] += np.where(masks_mn, 0, term_mn).sum(axis=0)
    if votes_nk is not None:
      classes_mn = (
        np.where(right_mn, labels_n, classes.sum() - labels_n)
        if predicted is None
        else np.asarray(predicted[rows])
      )
      _add_votes(votes_nk, classes_mn, ~masks_mn)
  lacking_n = np.ones(n, bool)
  lacking_n[examples] = False
  for side in (inside, outside):
    side[:, lacking_n] = 0
  if votes_nk is not None:
    votes_nk[lacking_n] = 0
  return Tallies(_side(inside), _side(outside), votes_nk, len(models), lacking_n)


def _side(sums: np.ndarray) -> Side:
  """The rows that `count` adds up, by name."""
  number, right, right_again, first, second = sums
  number = number.astype(int)
  return Side(Sums(number, right, right_again), Sums(number, first, second))


def _add_votes(votes_nk: np.ndarray, classes_mn: np.ndarray, out_mn: np.ndarray) -> None:
  """Adds the classes that models choose for examples that they were not trained on."""
  n, k = votes_nk.shape
  valid_mn = out_mn & (classes_mn >= 0) & (classes_mn < k)
  examples = np.broadcast_to(np.arange(n), classes_mn.shape)[valid_mn]
  np.add.at(votes_nk, (examples, classes_mn[valid_mn].astype(np.int64)), 1)
