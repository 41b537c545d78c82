"""Labels with planted errors, models trained on them, and rankings of the labels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from jaxdm import margins, prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.data.dataset import Dataset
from jaxdm.training.fleet import Fleet
from jaxdm.typing import Array

_GRADIENT_EXAMPLES = 128
_GRADIENT_MODELS = 16


def plant_errors(
  labels: np.ndarray, rate: float, seed: int, num_classes: int, confused_k: np.ndarray
) -> np.ndarray:
  """Labels of which a share is wrong.

  Args:
    labels: int[n], right.
    rate: the share, of all examples.
    seed: which examples these are.
    num_classes: k.
    confused_k: int[k], the wrong label of each class; none (int[0]): any other class.

  Returns:
    int32[n].
  """
  rng = prng.generator_for(seed, "label_errors", 0)
  wrong = rng.permutation(len(labels))[: round(rate * len(labels))]
  noisy = labels.astype(np.int32)
  if len(confused_k):
    noisy[wrong] = confused_k[labels[wrong]]
  else:
    noisy[wrong] = (
      labels[wrong] + rng.integers(1, num_classes, len(wrong))
    ) % num_classes
  return noisy


def most_confused(
  predicted_mn: np.ndarray, masks: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """The class that models without an example most often take its class for, int[k]."""
  k = 1 + int(max(labels.max(), predicted_mn.max()))
  counts_kk = np.zeros((k, k), int)
  examples = np.broadcast_to(labels, masks.shape)
  np.add.at(counts_kk, (examples[~masks], predicted_mn[~masks]), 1)
  np.fill_diagonal(counts_kk, -1)
  return counts_kk.argmax(axis=1)


class Predictions(NamedTuple):
  """What models say.

  Attributes:
    training_mnk: float32, probabilities of the classes, of the training examples.
    margins_mn: float32, of the training examples under their labels, in logits.
    accuracy_m: float64, on the test examples.
  """

  training_mnk: np.ndarray
  margins_mn: np.ndarray
  accuracy_m: np.ndarray


def train(
  fleet: Fleet,
  data: Dataset,
  masks: np.ndarray,
  labels: np.ndarray,
  seed: int,
  family: str,
  progress: progress_lib.Progress = progress_lib.silent,
) -> Predictions:
  """Trains models on training sets with some labels.

  Args:
    fleet: trains them.
    data: whose images it has.
    masks: bool[m, n].
    labels: int[n], to train with, and of the margins.
    seed: root of the models' randomness.
    family: of their random numbers.
    progress: told models done and in all.
  """
  n, m = len(labels), len(masks)
  values = np.concatenate([fleet.values, data.test_images])
  starts = range(0, m, fleet.rows)

  def calls() -> Iterator[tuple[training_sets.TrainingSets, Array]]:
    for start in starts:
      rows = np.arange(start, start + fleet.rows) % m
      keys = prng.keys_for(seed, [prng.Stream(family, int(row)) for row in rows])
      part = masks[start : start + fleet.rows]
      yield training_sets.from_masks(part, labels), keys

  parts = []
  progress(0, m)
  for output in fleet.train_models(calls(), values):
    logits_mik = output.on_host().logits
    train_mnk = logits_mik[:, :n]
    margins_mn = margins.correct_class_margins(train_mnk, labels)
    right = logits_mik[:, n:].argmax(axis=-1) == data.test_labels
    softmax = scipy.special.softmax(train_mnk, axis=-1)
    parts.append(Predictions(softmax, margins_mn, right.mean(axis=1)))
    progress(min(len(parts) * fleet.rows, m), m)
  return Predictions(*map(np.concatenate, zip(*parts, strict=True)))


def fold_masks(num_models: int, num_train: int, folds: int, seed: int) -> np.ndarray:
  """Training sets bool[m, n] of cross-validation that is repeated with other folds."""
  masks = np.ones((num_models, num_train), bool)
  for model in range(num_models):
    repeat, fold = divmod(model, folds)
    order = prng.generator_for(seed, "folds", repeat).permutation(num_train)
    masks[model, order[fold::folds]] = False
  return masks


def out_of_sample(predictions: Predictions, masks: np.ndarray) -> np.ndarray:
  """Mean probabilities over models that were not trained on an example, float64[n, k]."""
  out_mn = ~masks
  total_nk = np.einsum("mn,mnk->nk", out_mn, predictions.training_mnk, dtype=np.float64)
  return total_nk / np.maximum(out_mn.sum(axis=0), 1)[:, None]


def self_influence(fleet: Fleet, labels: np.ndarray, seed: int) -> np.ndarray:
  """Squared norms of the gradient of each example's loss, float64[n].

  At the end of training on all data, as means over 16 models; TracIn of an
  example on itself (Pruthi et al., arXiv:2002.08484). The loss is -log p, and its
  gradient (1 - p) times that of the log-odds.
  """
  n = len(labels)
  padded = np.resize(np.arange(n), -(-n // _GRADIENT_EXAMPLES) * _GRADIENT_EXAMPLES)
  parts = padded.reshape(-1, _GRADIENT_EXAMPLES)
  totals = np.zeros(parts.shape)
  for start in range(0, _GRADIENT_MODELS, fleet.rows):
    numbers = range(start, min(start + fleet.rows, _GRADIENT_MODELS))
    keys = prng.keys_for(seed, [prng.Stream("label_errors_all", i) for i in numbers])
    sets = training_sets.from_masks(np.ones((len(numbers), n), bool), labels)
    variables, places = fleet.train(sets, keys), fleet.places[: len(numbers)]
    for part, total in zip(parts, totals, strict=True):
      odds_mb, gradients_mbd = fleet.gradients(
        variables, fleet.values[part], labels[part], keys
      )
      doubt_mb = scipy.special.expit(-np.asarray(odds_mb, np.float64)[places])
      gradients_mbd = np.asarray(gradients_mbd, np.float64)[places]
      total += (doubt_mb**2 * np.square(gradients_mbd).sum(axis=-1)).sum(axis=0)
  return totals.reshape(-1)[:n] / _GRADIENT_MODELS


def average_precision(is_wrong: np.ndarray, doubt: np.ndarray) -> float:
  """Mean precision at each wrong label, of a ranking by doubt; ties count as one step."""
  values, group = np.unique(-doubt, return_inverse=True)
  wrong = np.bincount(group, is_wrong, minlength=len(values))
  count = np.cumsum(np.bincount(group, minlength=len(values)))
  return float(np.sum(wrong * np.cumsum(wrong) / count) / is_wrong.sum())


def auroc(is_wrong: np.ndarray, doubt: np.ndarray) -> float:
  """Probability that a wrong label has more doubt than a right one; ties count half."""
  ranks, wrong = scipy.stats.rankdata(doubt), is_wrong.sum()
  right = len(is_wrong) - wrong
  return float((ranks[is_wrong].sum() - wrong * (wrong + 1) / 2) / (wrong * right))
