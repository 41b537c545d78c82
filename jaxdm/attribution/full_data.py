"""Models on all data, and what attribution methods need of them during training.

The models are not stored; all that is needed is computed while they are on the devices.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm import devices, prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.training.trainer import Trainer
from jaxdm.typing import Array


class ModelOutputs(NamedTuple):
  """What one trained model predicts.

  Attributes:
    logits_tk: float32, of the targets.
    features_tf: float32, penultimate, of the targets.
    train_features_nf: float32, of the training examples.
    target_labels: int32[t].
    train_labels: int32[n].
  """

  logits_tk: np.ndarray
  features_tf: np.ndarray
  train_features_nf: np.ndarray
  target_labels: np.ndarray
  train_labels: np.ndarray


class Snapshot(NamedTuple):
  """One model at one moment of its training.

  Attributes:
    moment: the share of training that is done, in (0, 1].
    learning_rate: at this moment.
    gradients: of the examples' log-odds, in the fewest numbers; None where they were not
      requested.
    outputs: of the trained model; None before the end of training.
  """

  moment: float
  learning_rate: float
  gradients: gradient.Gradients | None
  outputs: ModelOutputs | None

  def converged(self) -> bool:
    """Whether all numbers of the model are finite so far."""
    arrays = jax.tree.leaves((self.gradients, self.outputs))
    return all(bool(jnp.isfinite(array).all()) for array in arrays)


def even_moments(count: int) -> tuple[float, ...]:
  """1 / count, 2 / count, ..., 1 of training."""
  return tuple(i / count for i in range(1, count + 1))


def most_moments(trainer: Trainer) -> int:
  """Steps of training on all data; at more moments, some states would count twice."""
  return int(trainer.fleet.recipe.num_steps(np.array(len(trainer.labels))))


def snapshots(
  trainer: Trainer, num_models: int, moments: Collection[float]
) -> Iterator[list[Snapshot]]:
  """Trains models on all data, and stops on the way.

  Args:
    trainer: trains them.
    num_models: how many.
    moments: shares of training at which gradients are needed.

  Yields:
    For the models of each call of the fleet, and every moment in ascending order, the
    end of training included, a list with a snapshot of each model. Delete it before the
    next one is requested: a device then holds the gradients of one call at one moment.
  """
  fleet, labels, t = trainer.fleet, trainer.labels, len(trainer.target_labels)
  values = np.concatenate([trainer.target_values, fleet.values])
  all_labels = np.concatenate([trainer.target_labels, labels])
  stops = sorted({*moments, 1.0})
  for start in range(0, num_models, fleet.rows):
    size = min(fleet.rows, num_models - start)
    call_keys = keys(trainer, start, size)
    sets = training_sets.from_masks(np.ones((size, len(labels)), bool), labels)
    through = fleet.train_through(sets, call_keys, stops)
    for moment, variables in zip(stops, through, strict=True):
      gradients: list[gradient.Gradients | None] = [None] * size
      if moment in moments:
        of_call = fleet.gradients(variables, values, all_labels, call_keys)
        of_models = (gradients_of(of_call, row, t) for row in fleet.places[:size])
        gradients = [gradient.in_examples(model) for model in of_models]
        del of_call
      outputs: list[ModelOutputs | None] = [None] * size
      if moment == 1:
        predictions = fleet.predict(variables, values)
        outputs = [
          ModelOutputs(*_outputs_of(predictions, row, t), trainer.target_labels, labels)
          for row in fleet.places[:size]
        ]
      rate = float(fleet.recipe.learning_rate(np.array(moment)))
      yield [Snapshot(moment, rate, *of) for of in zip(gradients, outputs, strict=True)]
      del gradients, outputs  # Before the next are computed.


def _outputs_of(
  predictions: tuple[jax.Array, jax.Array], row: int, num_targets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A model's part of `Fleet.predict`: logits and features of targets, and features."""
  logits_bk, features_bf = (np.asarray(devices.row(part, row)) for part in predictions)
  t = num_targets
  return logits_bk[:t], features_bf[:t], features_bf[t:]


def keys(trainer: Trainer, start: int, size: int) -> Array:
  """Keys of so many models on all data, from one on."""
  streams = [prng.Stream("base", start + i) for i in range(size)]
  return prng.keys_for(trainer.seed, streams)


def gradients_of(
  outputs: tuple[jax.Array, jax.Array], row: int, num_targets: int
) -> gradient.Gradients:
  """A model's part of `Fleet.gradients`, for targets and then training examples."""
  odds_b, gradients_bd = (devices.row(output, row) for output in outputs)
  t = num_targets
  return gradient.Gradients(gradients_bd[t:], gradients_bd[:t], odds_b[t:])
