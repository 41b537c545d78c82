"""What changing a label does to the searched targets, by influence functions."""

import numpy as np

from experiments.runtime import lab, processes
from jaxdm.attribution.relabel import RelabelSum, relabel_mean, relabel_sum
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
  count, gradient = opened.experiment.collect.num_base, opened.experiment.gradient
  found, bar = [], opened.bar("relabel scores")
  for start in range(0, count, opened.fleet.rows):
    size = min(opened.fleet.rows, count - start)

    def make(start: int = start, size: int = size) -> dict[str, np.ndarray]:
      made = relabel_sum(
        opened.trainer,
        targets,
        start,
        size,
        damping=gradient.damping,
        moments=gradient.moments,
      )
      return made._asdict()

    found.append(RelabelSum(**parts(f"models-{start}-{size}", make)))
    opened.fleet.settle()
    bar(start + size, count)
  return relabel_mean(found)
