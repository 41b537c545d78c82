"""What changing a label does to some targets, by influence functions."""

import numpy as np

from jaxdm import devices, training_sets
from jaxdm.attribution import full_data, gradient
from jaxdm.training.trainer import Trainer

_BLOCK_EXAMPLES = 1024


def relabel_scores_of_chunk(
  trainer: Trainer, targets: np.ndarray, start: int, size: int, *, damping: float
) -> tuple[np.ndarray, int]:
  """What every new label of every example takes from some targets, summed over models.

  Args:
    trainer: trains a chunk of models on all data.
    targets: int[u].
    start: number of the chunk's first model.
    size: models in the chunk.
    damping: see `gradient.relabel`.

  Returns:
    float32[u, n, k], in logits, and the number of models that it sums: those that did
    not diverge.
  """
  fleet, labels = trainer.fleet, trainer.labels
  u, n = len(targets), len(labels)
  keys = full_data.keys(trainer, start, size)
  sets = training_sets.from_masks(np.ones((size, n), bool), labels)
  variables = fleet.train(sets, keys)
  values = np.concatenate([trainer.target_values[targets], fleet.values])
  all_labels = np.concatenate([trainer.target_labels[targets], labels])
  outputs = fleet.gradients(variables, values, all_labels, keys)
  models = [full_data.gradients_of(outputs, i, u) for i in range(size)]
  whole = [i for i, model in enumerate(models) if np.isfinite(model.odds_n).all()]
  total = np.zeros((u, n, fleet.num_classes), np.float32)
  for first in range(0, n, _BLOCK_EXAMPLES):
    # The last block is filled up, so that nothing is compiled for its size.
    block = np.minimum(np.arange(first, first + min(_BLOCK_EXAMPLES, n)), n - 1)
    logits = fleet.class_gradients(variables, fleet.values[block], keys)
    for i in whole:
      part = gradient.relabel(models[i], devices.row(logits, i), labels[block], damping)
      fresh = min(len(block), n - first)
      total[:, first : first + fresh] += np.asarray(part)[:, :fresh]
  return total, len(whole)
