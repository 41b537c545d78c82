"""What changing a label does to the searched targets, by influence functions."""

import numpy as np

from experiments.runtime import lab, processes
from jaxdm.attribution.relabel import relabel_scores_of_chunk
from jaxdm.storage import cache


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
  parts = cache.Cache(folder, depends_on)
  if processes.follows():
    return parts.wait_for("mean")["scores"]
  return parts("mean", lambda: {"scores": _mean(opened, targets, parts)})["scores"]


def _mean(opened: lab.Lab, targets: np.ndarray, parts: cache.Cache) -> np.ndarray:
  """Trains the models, those of each chunk at once, and averages."""
  count = opened.experiment.collect.num_base
  total = np.zeros((len(targets), len(opened.labels), opened.dataset.num_classes))
  used = 0
  bar = opened.bar("relabel scores")
  for start in range(0, count, opened.fleet.rows):
    size = min(opened.fleet.rows, count - start)

    def make(start: int = start, size: int = size) -> dict[str, np.ndarray]:
      damping = opened.experiment.gradient.damping
      found, used = relabel_scores_of_chunk(
        opened.trainer, targets, start, size, damping=damping
      )
      return {"scores": found, "used": np.array(used)}

    found = parts(f"models-{start}-{size}", make)
    opened.fleet.settle()
    total += found["scores"]
    used += int(found["used"])
    bar(start + size, count)
  return (total / used).astype(np.float32)
