"""What models on random subsets say of the training set: which labels look wrong, which
examples are memorised, which support or oppose the targets.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np

from jaxdm import labels as labels_lib
from jaxdm import matrices
from jaxdm.attribution.scores import check_finite
from jaxdm.audits import estimates, tallies
from jaxdm.audits.estimates import Estimate
from jaxdm.datamodels.inputs import as_bool
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError, first_few
from jaxdm.storage.matrix_view import MatrixView
from jaxdm.training_sets import PackedMasks

# Of memorised examples, as in the article of Feldman and Zhang.
MEMORISED = 0.25
# Labels that fewer models choose are suspicious.
SUSPICIOUS = 0.2
_TARGETS = 256  # Rows of scores that are read together.


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
  """What models say of each of n training examples; see `audit`.

  >>> import jaxdm
  >>> masks = jaxdm.random_subsets(num_models=60, num_train=4, alpha=0.5, seed=0)
  >>> margins = masks + [-0.5, 1.0, 1.0, 1.0]  # Example 0 is right only by heart.
  >>> result = jaxdm.audit(masks, margins, labels=[0, 0, 1, 1])
  >>> result.memorisation.value
  array([1., 0., 0., 0.])
  >>> result.doubtful
  array([0])

  Intervals have 95 % confidence for each number by itself. Where nothing is known, values
  are NaN and intervals hold every possible value.

  Attributes:
    labels: int[n], as given.
    models_in: int[n], models that were trained on the example.
    models_out: int[n], models that were not.
    consistency: share of the models without the example that choose its label: its
      C-score at this size of subsets.
    probability: mean probability of its label by these models, against the strongest
      other class.
    memorisation: share of the models trained on it that choose its label, less
      consistency; in [-1, 1].
    label_quality: in [0, 1]; the lowest labels are the most suspicious.
    suggested_labels: int[n], the class that most models without it choose, or its label
      where that is chosen as often, or nothing is known.
    support: sum over targets of its positive scores; None where there were no scores.
    opposition: sum over targets of its negative scores, as a positive number; or None.
  """

  labels: np.ndarray
  models_in: np.ndarray
  models_out: np.ndarray
  consistency: Estimate
  probability: Estimate
  memorisation: Estimate
  label_quality: Estimate
  suggested_labels: np.ndarray
  support: Estimate | None = None
  opposition: Estimate | None = None

  @property
  def doubtful(self) -> np.ndarray:
    """Examples that have another suggested label, as int[...], the worst label first."""
    order = np.argsort(self.label_quality.value, kind="stable")
    is_doubtful = np.isfinite(self.label_quality.value) & (
      self.suggested_labels != self.labels
    )
    return order[is_doubtful[order]]

  @property
  def suspicious(self) -> np.ndarray:
    """Doubtful ones whose consistency is below 0.2 with its whole interval.

    Label quality orders labels, but no value of it divides them: where models learn all
    labels by heart, half of it is 1 for every example.
    """
    return self.doubtful[self.consistency.high[self.doubtful] < SUSPICIOUS]


def audit(
  masks: Any,
  margins: Any,
  labels: Any,
  predicted: Any = None,
  scores: Any = None,
) -> Audit:
  """Audits a training set by models that were trained on random subsets of it.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> labels = np.arange(6) % 2
  >>> masks = jaxdm.random_subsets(num_models=200, num_train=6, alpha=0.5, seed=0)
  >>> margins = rng.normal(size=(200, 6)) + 2
  >>> margins[:, 3] -= 5  # Nobody believes this label,
  >>> margins[:, 4] -= np.where(masks[:, 4], 0, 4)  # and this one by heart only.
  >>> result = jaxdm.audit(masks, margins, labels)
  >>> result.doubtful, result.suggested_labels
  (array([3, 4]), array([0, 1, 0, 0, 1, 1]))
  >>> result.memorisation.value.argmax()
  np.int64(4)

  The definitions, for an example and its label, over models i that were trained on it and
  models o that were not; all of them must be independent, as one model a subset is:

    consistency    share of o that choose the label. Jiang et al., 'Characterizing
                   structural regularities of labeled data in overparameterized models',
                   arXiv:2002.03206: the consistency profile at this size of subsets, of
                   which their C-score is the mean over sizes.
    memorisation   share of i that choose the label, less that of o. Feldman and Zhang,
                   'What neural networks memorize and why', arXiv:2008.03703.
    label_quality  mean of two means of the label's probability: over i, and over o. The
                   second alone is the self-confidence of confident learning (Northcutt,
                   Jiang and Chuang, arXiv:1911.00068). An example between two classes has
                   a low one too, but is learned once it is there; a label that is
                   against all other examples is not, if the model does not learn
                   everything. Where it does, all examples have the same first mean, and
                   the order is that of the second.
    probability    the mean over o. The probability is the logistic function of the
                   margin: of the label against the strongest other class alone.

  Intervals of means are those of Clopper and Pearson for an effective number of models,
  and those of differences and averages Newcombe's (see `audits.estimates`). Those of
  support and opposition take targets as a sample, and scores as given.

  Args:
    masks: bool[m, n], which examples each model was trained on; an array, or
      `training_sets.PackedMasks`.
    margins: float[m, n], of all training examples under each model: positive where it
      chooses their label. An array, a memory map or a part of a store. Models with one
      that is not finite are left out.
    labels: int[n], in [0, k).
    predicted: int[m, n], the classes that models choose. None: with two classes they
      follow from the margins; with more no label is suggested.
    scores: float[t, n], how much each example supports each target, or `Datamodels`.

  Returns:
    An Audit.

  Raises:
    UserError: on arrays that do not match, or without one model that can be used.

  Warns:
    UserWarning: naming examples of which something cannot be said: those that are in
      every training set or in none, without margins, with labels that are not classes,
      or alone in their class; and the number of models that are left out.
  """
  masks, margins, labels = _check_inputs(masks, margins, labels)
  predicted = _check_matrix("predicted", predicted, margins.shape)
  classes = 1 + int(labels.max(initial=0))
  if predicted is not None:
    largest = _largest(predicted)
    labels_lib.check_classes("predicted", largest, len(labels))
    classes = max(classes, 1 + largest)
  tally = tallies.count(masks, margins, labels, predicted, max(classes, 2))
  if not tally.num_models:
    raise UserError("margins", "are not finite for any model")
  _warn(tally, labels, len(margins))
  inside, outside = tally.inside, tally.outside
  consistency = estimates.mean(outside.right)
  support, opposition = _totals(scores, len(labels))
  return Audit(
    labels=labels,
    models_in=inside.right.number,
    models_out=outside.right.number,
    consistency=consistency,
    probability=estimates.mean(outside.probability),
    memorisation=estimates.difference(estimates.mean(inside.right), consistency),
    label_quality=estimates.average(
      estimates.mean(inside.probability), estimates.mean(outside.probability)
    ),
    suggested_labels=_suggest_labels(tally.votes_nk, labels),
    support=support,
    opposition=opposition,
  )


def _check_inputs(masks: Any, margins: Any, labels: Any) -> tuple[Any, Any, np.ndarray]:
  """Masks, margins and labels that match."""
  if not isinstance(masks, PackedMasks):
    try:
      masks = as_bool(matrices.as_matrix("masks", masks))
    except ValueError as error:
      raise UserError("masks", str(error).removeprefix("masks ")) from error
  if not min(masks.shape):
    raise UserError(
      "masks",
      f"must have models and training examples, [m, n], got {list(masks.shape)}",
    )
  margins = _check_matrix("margins", margins, masks.shape)
  if margins is None:
    raise UserError("margins", "must be float [m, n], of the training examples; got None")
  labels = labels_lib.as_labels("labels", labels)
  if len(labels) != masks.shape[1]:
    raise UserError(
      "labels", f"must be {masks.shape[1]} integers, one an example, got {len(labels)}"
    )
  labels_lib.check_classes("labels", int(labels.max()), len(labels))
  return masks, margins, labels.astype(np.int64)


def _check_matrix(name: str, values: Any, shape: tuple[int, int]) -> Any:
  """A matrix with a row a model and a column an example; None stays."""
  if values is None:
    return None
  matrix = values
  if not isinstance(values, MatrixView):
    try:
      matrix = matrices.as_array(name, values)
    except ValueError as error:
      raise UserError(name, str(error).removeprefix(f"{name} ")) from error
    if matrix.dtype.kind == "b":
      raise UserError(name, "must hold numbers, got bool")
  if tuple(matrix.shape) != tuple(shape):
    raise UserError(
      name,
      f"must be [models, training examples] = {list(shape)}, as the masks, got "
      f"{list(matrix.shape)}",
    )
  return matrix


def _largest(predicted: Any) -> int:
  """The largest class, some models at a time; UserError on what is no class."""
  largest = 0
  for start in range(0, len(predicted), _TARGETS):
    block_un = np.asarray(predicted[start : start + _TARGETS])
    wrong = np.flatnonzero(~_are_whole(block_un).all(axis=1))
    if wrong.size:
      row = block_un[wrong[0]]
      raise UserError(
        "predicted",
        "must be integers, the classes that models choose, got "
        f"{row[~_are_whole(row)][0]} of model {start + wrong[0]}",
      )
    largest = max(largest, int(block_un.max(initial=0)))
  return largest


def _are_whole(values: np.ndarray) -> np.ndarray:
  """Which values are whole numbers."""
  if values.dtype.kind != "f":
    return np.ones(values.shape, bool)
  return np.isfinite(values) & (values == np.floor(values))


def _suggest_labels(votes_nk: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
  """The class with most votes, or the label where that has as many."""
  if votes_nk is None:
    return labels.copy()
  rows = np.arange(len(labels))
  inside = (labels >= 0) & (labels < votes_nk.shape[1])
  own = np.where(inside, votes_nk[rows, np.where(inside, labels, 0)], 0)
  best = votes_nk.argmax(axis=1)
  return np.where(votes_nk[rows, best] > own, best, labels)


def _totals(scores: Any, n: int) -> tuple[Estimate | None, Estimate | None]:
  """Support and opposition of each example, over all targets."""
  if scores is None:
    return None, None
  values = scores.weights_tn if isinstance(scores, Datamodels) else scores
  try:
    matrix = matrices.as_real("scores", values)
  except ValueError as error:
    raise UserError(None, str(error)) from error
  if len(matrix.shape) != 2 or matrix.shape[1] != n:
    raise UserError(
      "scores", f"must be [targets, {n} training examples], got {list(matrix.shape)}"
    )
  starts, t = range(0, matrix.shape[0], _TARGETS), matrix.shape[0]

  def read(start: int) -> np.ndarray:
    return np.asarray(matrix[start : start + _TARGETS], np.float64)

  def sides(block_un: np.ndarray) -> np.ndarray:
    return np.maximum(np.stack([block_un, -block_un]), 0)

  mean_sn, largest = np.zeros((2, n)), 0.0
  for start in starts:
    block_un = read(start)
    check_finite(block_un, start)
    block_sun = sides(block_un)
    mean_sn += block_sun.sum(axis=1) / t
    largest = max(largest, float(block_sun.max(initial=0)))
  _, exponent = np.frexp(largest)
  central_psn = np.zeros((3, 2, n))
  for start in starts:  # Near 1, where powers neither overflow nor vanish.
    apart_sun = np.ldexp(sides(read(start)) - mean_sn[:, None], -exponent)
    central_psn += [(apart_sun**power).sum(axis=1) for power in (2, 3, 4)]
  first_sn = t * np.ldexp(mean_sn, -exponent)
  support, opposition = (
    estimates.total(t, first_sn[side], central_psn[:, side]) for side in (0, 1)
  )
  return _scaled(support, exponent), _scaled(opposition, exponent)


def _scaled(estimate: Estimate, exponent: int) -> Estimate:
  """An estimate times a power of two."""
  return Estimate(*(np.ldexp(values_n, exponent) for values_n in estimate))


def _warn(tally: tallies.Tallies, labels: np.ndarray, num_models: int) -> None:
  """Names the examples of which something cannot be said."""
  sizes = np.bincount(labels[labels >= 0], minlength=1)
  alone = np.isin(labels, np.flatnonzero(sizes == 1))
  has_margins = ~tally.lacking_n
  never_out = has_margins & (tally.outside.right.number == 0)
  never_in = has_margins & (tally.inside.right.number == 0)
  texts = {
    "have a label that is no class": labels < 0,
    "are alone in their class, so that models without them cannot choose it": alone,
    "have no margins": tally.lacking_n,
    "are in every training set, so that nothing is known without them": never_out,
    "are in no training set, so that nothing is known of their memorisation": never_in,
  }
  for text, is_one in texts.items():
    if is_one.any():
      numbers = np.flatnonzero(is_one)
      warnings.warn(f"{len(numbers)} examples {text}: {first_few(numbers)}", stacklevel=3)
  if left_out := num_models - tally.num_models:
    warnings.warn(
      f"{left_out} of {num_models} models are left out: margins of them are not finite",
      stacklevel=3,
    )
