"""Scores of label flips: what a new label does to targets, by influence functions."""

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
    units: float64[r], the root mean squares at the end of training, in logits, one for
      each model that converged.
  """

  scores: np.ndarray
  terms: np.ndarray
  units: np.ndarray


@numerics.pinned()
@jax.jit
def scores_of_model(
  model: gradient.Gradients,
  logits_bkd: Array,
  labels_b: Array,
  damping: Array | float,
) -> Array:
  """What changing an example's label takes from a target's log-odds, to first order.

  The cross-entropies of two labels differ by the difference of their logits, so that a
  change from y to c has the gradient of z_y - z_c where leaving the example out has
  (1 - p) phi: see `gradient.influence`, whose Hessian this shares.

  Args:
    model: the model.
    logits_bkd: float32, gradients of some training examples' logits.
    labels_b: int32, the labels that they have.
    damping: as for `gradient.influence`.

  Returns:
    float32[t, b, k], in logits; 0 for the label that an example has.
  """
  own_bd = jnp.take_along_axis(logits_bkd, labels_b[:, None, None], axis=1)
  change = own_bd - logits_bkd
  rows_nd, change_cd = gradient.newton_rows(model), change.reshape(-1, change.shape[-1])
  solution = gradient.solve(rows_nd, change_cd, damping)
  scores_tb = jnp.dot(model.target_td, solution, precision="highest")
  return scores_tb.reshape(-1, *change.shape[:2])


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
    damping: see `scores_of_model`.
    moments: at how many moments of training, evenly spread.
  """
  fleet, labels = trainer.fleet, trainer.labels
  n = len(labels)
  keys = full_data.keys(trainer, start, size)
  sets = training_sets.from_masks(np.ones((size, n), bool), labels)
  values = np.concatenate([trainer.target_values[targets], fleet.values])
  all_labels = np.concatenate([trainer.target_labels[targets], labels])
  total = np.zeros((len(targets), n, fleet.num_classes), np.float32)
  terms, units = 0, []
  stops = full_data.even_moments(moments)
  through = fleet.train_through(sets, keys, stops)
  for moment, variables in zip(stops, through, strict=True):
    outputs = fleet.gradients(variables, values, all_labels, keys)
    rows = fleet.places[:size]
    gradients = [full_data.gradients_of(outputs, row, len(targets)) for row in rows]
    unit = {i: float(_unit(at, damping)) for i, at in enumerate(gradients)}
    unit = {i: value for i, value in unit.items() if np.isfinite(value)}
    for block, fresh in _blocks(n):
      logits = fleet.class_gradients(variables, fleet.values[block], keys)
      for i in unit:
        of_model = devices.row(logits, rows[i])
        part = scores_of_model(gradients[i], of_model, labels[block], damping) / unit[i]
        total[:, block[:fresh]] += np.asarray(part)[:, :fresh]
    terms += len(unit)
    if moment == 1:
      units = list(unit.values())
    del outputs, gradients  # Before the next are computed.
  return ScoreSum(total, np.array(terms), np.array(units))


def mean_scores(sums: list[ScoreSum]) -> np.ndarray:
  """The mean over the models and moments of all sums, float32[u, n, k], in logits."""
  total = np.sum([one.scores for one in sums], axis=0, dtype=np.float64)
  unit = np.concatenate([one.units for one in sums]).mean()
  return (total * unit / sum(int(one.terms) for one in sums)).astype(np.float32)


def _unit(at: gradient.Gradients, damping: float) -> jax.Array:
  """Root mean square of a model's influence functions."""
  return gradient.root_mean_square(gradient.influence(at, damping), at.target_td)


def _blocks(n: int) -> list[tuple[Any, int]]:
  """Blocks of examples of one size, and how many of each are in no block before it."""
  size = min(_BLOCK_EXAMPLES, n)
  # The last block is filled up, so that nothing is compiled for its size.
  return [
    (np.minimum(np.arange(first, first + size), n - 1), min(size, n - first))
    for first in range(0, n, _BLOCK_EXAMPLES)
  ]
