"""Scores of label flips: what a new label does to targets, by influence functions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm import devices, numerics, training_sets
from jaxdm.attribution import full_data, gradient
from jaxdm.training.trainer import Trainer
from jaxdm.typing import Array

_BLOCK_EXAMPLES = 1024


class ScoreSum(NamedTuple):
  """Relabel scores of some models, added up over models and moments of training.

  Attributes:
    scores: float32[u, n, k], where a model's influence functions at one moment have a
      root mean square of 1.
    terms: the number of summands: models at moments, without those that diverged.
    units: float64[r], the root mean squares at the end of training over these targets,
      in logits, one for each model that converged.
  """

  scores: np.ndarray
  terms: np.ndarray
  units: np.ndarray


@numerics.pinned()
@jax.jit
def changes(logits_bkd: Array, labels_b: Array) -> Array:
  """Gradients of z_y - z_c for each other label c, float32[b * (k - 1), d].

  The cross-entropies of two labels differ by the difference of their logits, so that a
  change from y to c has this gradient where leaving the example out has (1 - p) phi.
  What it takes from targets' log-odds, to first order and in logits, are the products
  with `gradient.newton_targets`.

  Args:
    logits_bkd: float32, gradients of some training examples' logits.
    labels_b: int32, the labels y that they have.
  """
  k, d = logits_bkd.shape[1:]
  own_bd = jnp.take_along_axis(logits_bkd, labels_b[:, None, None], axis=1)
  others_bj = _other_labels(labels_b, k)
  other_bjd = jnp.take_along_axis(logits_bkd, others_bj[..., None], axis=1)
  return jnp.reshape(own_bd - other_bjd, (-1, d))


def _other_labels(labels_b: Array, k: int) -> Array:
  """int32[b, k - 1], ascending."""
  return jnp.arange(k - 1) + (jnp.arange(k - 1) >= labels_b[:, None])


def sum_scores(
  trainer: Trainer,
  targets: np.ndarray,
  start: int,
  size: int,
  *,
  damping: float,
  moments: int,
) -> ScoreSum:
  """What every new label of every example takes from some targets.

  Args:
    trainer: trains models on all data.
    targets: int[u].
    start: number of the first model.
    size: how many are trained together.
    damping: as for `gradient.influence`.
    moments: at how many moments of training, evenly spread.
  """
  fleet, labels = trainer.fleet, trainer.labels
  n = len(labels)
  keys, places = full_data.keys(trainer, start, size), fleet.places[:size]
  sets = training_sets.from_masks(np.ones((size, n), bool), labels)
  values = np.concatenate([trainer.target_values[targets], fleet.values])
  all_labels = np.concatenate([trainer.target_labels[targets], labels])
  total = np.zeros((len(targets), n, fleet.num_classes), np.float32)
  terms, units = 0, np.zeros(0)
  stops = full_data.even_moments(min(moments, full_data.most_moments(trainer)))
  for variables in fleet.train_through(sets, keys, stops):
    outputs = fleet.gradients(variables, values, all_labels, keys)
    models = [full_data.gradients_of(outputs, row, len(targets)) for row in places]
    if fleet.num_classes == 2:  # Changes are then multiples of examples' gradients.
      models = [gradient.in_examples(model) for model in models]
    units = _add_scores(total, trainer, variables, keys, models, damping)
    terms += len(units)
    del outputs, models  # Before the next are computed.
  return ScoreSum(total, np.array(terms), units)


def mean_scores(sums: list[ScoreSum]) -> np.ndarray:
  """The mean over the models and moments of all sums, float32[u, n, k], in logits."""
  total = np.sum([one.scores for one in sums], axis=0, dtype=np.float64)
  unit = np.concatenate([one.units for one in sums]).mean()
  return (total * unit / sum(int(one.terms) for one in sums)).astype(np.float32)


def _add_scores(
  total_unk: np.ndarray,
  trainer: Trainer,
  variables: Any,
  keys: Array,
  models: Sequence[gradient.Gradients],
  damping: float,
) -> np.ndarray:
  """Adds the scores of models at one moment, each divided by its unit.

  Returns:
    float64[r], units of the models whose gradients are finite; only these are added.
  """
  fleet, u = trainer.fleet, len(total_unk)
  others_nj = np.asarray(_other_labels(trainer.labels, fleet.num_classes))

  targets = [gradient.newton_targets(model, damping) for model in models]
  units_r = np.array([float(x) for x in map(_unit, models, targets)])
  finite = np.flatnonzero(np.isfinite(units_r)).tolist()
  for block, fresh in _blocks(len(trainer.labels)):
    changes_of = _changes_of_models(trainer, variables, keys, models, block)
    some, others_bj = block[:fresh, None], others_nj[block[:fresh]]
    for i in finite:
      scores_uc = gradient.scores(changes_of(i), targets[i]) / units_r[i]
      scores_ubj = np.asarray(scores_uc).reshape(u, len(block), -1)
      total_unk[:, some, others_bj] += scores_ubj[:, :fresh]
  return units_r[finite]


def _unit(model: gradient.Gradients, newton_td: Array) -> jax.Array:
  """Root mean square of a model's influence functions on its targets."""
  return gradient.root_mean_square(gradient.tracin(model), newton_td)


def _changes_of_models(
  trainer: Trainer,
  variables: Any,
  keys: Array,
  models: Sequence[gradient.Gradients],
  block: np.ndarray,
) -> Callable[[int], Array]:
  """The `changes` of the examples of a block, as a function of the model's number.

  Args:
    trainer: whose examples they are.
    variables: of the models.
    keys: theirs.
    models: the gradients of their log-odds.
    block: int[b], examples.
  """
  fleet = trainer.fleet
  if fleet.num_classes == 2:  # The log-odds are the difference of both logits.
    return lambda i: models[i].train_nd[block]
  logits = fleet.class_gradients(variables, fleet.values[block], keys)
  return lambda i: changes(devices.row(logits, fleet.places[i]), trainer.labels[block])


def _blocks(n: int) -> list[tuple[np.ndarray, int]]:
  """Blocks of examples of one size, and how many of each are in no block before it."""
  size = min(_BLOCK_EXAMPLES, n)
  # The last block is filled up, so that nothing is compiled for its size.
  return [
    (np.minimum(np.arange(first, first + size), n - 1), min(size, n - first))
    for first in range(0, n, _BLOCK_EXAMPLES)
  ]
