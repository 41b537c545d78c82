"""Models on all data, and what methods are told of them.

The models are not kept; all that is wanted is taken while they are on the devices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxdm import devices, prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.training.trainer import Trainer
from jaxdm.typing import Array

# The middles of the thirds of training, where TracIn looks.
CHECKPOINTS = (1 / 6, 3 / 6, 5 / 6)


class FullDataModel(NamedTuple):
  """One model: its outputs, its gradients at the checkpoints and at the end.

  Attributes:
    logits_tk: float32, of the targets.
    features_tf: float32, penultimate, of the targets.
    train_features_nf: float32, of the training examples.
    rates: float32, learning rates at `CHECKPOINTS`.
    gradients: at `CHECKPOINTS`, and at the end of training.
  """

  logits_tk: np.ndarray
  features_tf: np.ndarray
  train_features_nf: np.ndarray
  rates: np.ndarray
  gradients: list[gradient.Gradients]


def models(trainer: Trainer, num_models: int) -> Iterator[list[FullDataModel]]:
  """Trains models on all data; yields a list for each chunk that is trained together."""
  fleet, labels, t = trainer.fleet, trainer.labels, len(trainer.target_labels)
  values = np.concatenate([trainer.target_values, fleet.values])
  all_labels = np.concatenate([trainer.target_labels, labels])
  rates = np.asarray(fleet.recipe.learning_rate(np.array(CHECKPOINTS)))
  for start in range(0, num_models, fleet.rows):
    size = min(fleet.rows, num_models - start)
    chunk_keys = keys(trainer, start, size)
    masks = np.ones((size, len(labels)), bool)
    sets = training_sets.from_masks(masks, labels)
    found = []
    for until in (*CHECKPOINTS, 1.0):
      variables = fleet.train_chunk(sets, chunk_keys, until=until)
      found.append(fleet.gradients_chunk(variables, values, all_labels, chunk_keys))
    logits, features = fleet.predict_chunk(variables, values)
    yield [
      FullDataModel(
        np.asarray(devices.row(logits, i))[:t],
        np.asarray(devices.row(features, i))[:t],
        np.asarray(devices.row(features, i))[t:],
        rates,
        [gradients_of(outputs, i, t) for outputs in found],
      )
      for i in range(size)
    ]


def keys(trainer: Trainer, start: int, size: int) -> Array:
  """Keys of so many models on all data, from one on."""
  streams = [prng.Seed("base", start + i) for i in range(size)]
  return prng.keys_for(trainer.seed, streams)


def gradients_of(
  outputs: tuple[jax.Array, jax.Array], i: int, num_targets: int
) -> gradient.Gradients:
  """Model i's part of `Fleet.gradients_chunk`, for targets and then training examples."""
  odds_b, gradients_bd = (devices.row(output, i) for output in outputs)
  t = num_targets
  return gradient.Gradients(gradients_bd[t:], gradients_bd[:t], odds_b[t:])
