"""Models on all data, and what methods are told of them.

The models are not kept; all that is wanted is taken while they are on the devices.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxdm import devices, prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.training.trainer import Trainer
from jaxdm.typing import Array


class FullDataModel(NamedTuple):
  """One model: its outputs, and its gradients at some moments of training.

  Attributes:
    logits_tk: float32, of the targets.
    features_tf: float32, penultimate, of the targets.
    train_features_nf: float32, of the training examples.
    gradients: by moment, a share of training.
    rates: by moment, its learning rate.
  """

  logits_tk: np.ndarray
  features_tf: np.ndarray
  train_features_nf: np.ndarray
  gradients: dict[float, gradient.Gradients]
  rates: dict[float, float]


def models(
  trainer: Trainer, num_models: int, moments: Iterable[float]
) -> Iterator[list[FullDataModel]]:
  """Trains models on all data.

  Args:
    trainer: trains them.
    num_models: how many.
    moments: shares of training at which their gradients are wanted.

  Yields:
    A list for each chunk of models that is trained together.
  """
  wanted = set(moments)
  fleet, labels, t = trainer.fleet, trainer.labels, len(trainer.target_labels)
  values = np.concatenate([trainer.target_values, fleet.values])
  all_labels = np.concatenate([trainer.target_labels, labels])
  rates = {
    moment: float(fleet.recipe.learning_rate(np.array(moment))) for moment in wanted
  }
  for start in range(0, num_models, fleet.rows):
    size = min(fleet.rows, num_models - start)
    chunk_keys = keys(trainer, start, size)
    masks = np.ones((size, len(labels)), bool)
    sets = training_sets.from_masks(masks, labels)
    found, stops = {}, sorted(wanted | {1.0})
    through = fleet.train_through(sets, chunk_keys, stops)
    for moment, variables in zip(stops, through, strict=True):
      if moment in wanted:
        of_chunk = fleet.gradients(variables, values, all_labels, chunk_keys)
        found[moment] = of_chunk
    logits, features = fleet.predict(variables, values)
    yield [
      FullDataModel(
        np.asarray(devices.row(logits, i))[:t],
        np.asarray(devices.row(features, i))[:t],
        np.asarray(devices.row(features, i))[t:],
        {moment: gradients_of(outputs, i, t) for moment, outputs in found.items()},
        rates,
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
  """Model i's part of `Fleet.gradients`, for targets and then training examples."""
  odds_b, gradients_bd = (devices.row(output, i) for output in outputs)
  t = num_targets
  return gradient.Gradients(gradients_bd[t:], gradients_bd[:t], odds_b[t:])
