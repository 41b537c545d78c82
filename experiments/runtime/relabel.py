"""What changing a label does to the searched targets, by influence functions."""

import numpy as np

from experiments.runtime import base_models, lab, processes
from jaxdm import devices, training_sets
from jaxdm.attribution import gradient
from jaxdm.storage import cache

_BLOCK_EXAMPLES = 1024


def scores(opened: lab.Lab, targets: np.ndarray) -> np.ndarray:
  """What every new label of every example takes from some targets, in logits.

  The models on all data are trained again for it, since they are not kept; what is found
  is kept in the workdir.

  Args:
    opened: the experiment.
    targets: int[u].

  Returns:
    float32[u, n, k], averaged over the models.
  """
  folder = opened.workdir.path / "relabel.parts"
  depends_on = opened.base_models_identity() | {"targets": targets.tolist()}
  parts = cache.Kept(folder, depends_on)
  if processes.follows():
    return parts.wait_for("mean")["scores"]
  return parts("mean", lambda: {"scores": _mean(opened, targets, parts)})["scores"]


def _mean(opened: lab.Lab, targets: np.ndarray, parts: cache.Kept) -> np.ndarray:
  """Trains the models, those of each chunk at once, and averages."""
  count = opened.experiment.collect.num_base
  total = np.zeros((len(targets), len(opened.labels), opened.dataset.num_classes))
  used = 0
  bar = opened.bar("relabel scores")
  for start in range(0, count, opened.fleet.rows):
    size = min(opened.fleet.rows, count - start)

    def make(start: int = start, size: int = size) -> dict[str, np.ndarray]:
      return _chunk(opened, targets, start, size)

    found = parts(f"models-{start}-{size}", make)
    opened.fleet.settle()
    total += found["scores"]
    used += int(found["used"])
    bar(start + size, count)
  return (total / used).astype(np.float32)


def _chunk(
  opened: lab.Lab, targets: np.ndarray, start: int, size: int
) -> dict[str, np.ndarray]:
  """The sum over a chunk of models, and how many of them have not diverged."""
  fleet, small, labels = opened.fleet, opened.small, opened.labels
  u, n = len(targets), len(labels)
  keys = base_models.keys(opened, start, size)
  sets = training_sets.from_masks(np.ones((size, n), bool), labels)
  variables = fleet.train_chunk(sets, keys)
  pixels = np.concatenate([small.test_images[targets], small.train_images])
  all_labels = np.concatenate([opened.target_labels[targets], labels])
  outputs = fleet.gradients_chunk(variables, pixels, all_labels, keys)
  models = [base_models.gradients(outputs, i, u) for i in range(size)]
  whole = [i for i, model in enumerate(models) if np.isfinite(model.odds_n).all()]
  total = np.zeros((u, n, opened.dataset.num_classes), np.float32)
  for first in range(0, n, _BLOCK_EXAMPLES):
    # The last block is filled up, so that nothing is compiled for its size.
    block = np.minimum(np.arange(first, first + min(_BLOCK_EXAMPLES, n)), n - 1)
    logits = fleet.class_gradients_chunk(variables, small.train_images[block], keys)
    for i in whole:
      damping = opened.experiment.gradient.damping
      part = gradient.relabel(models[i], devices.row(logits, i), labels[block], damping)
      fresh = min(len(block), n - first)
      total[:, first : first + fresh] += np.asarray(part)[:, :fresh]
  return {"scores": total, "used": np.array(len(whole))}
