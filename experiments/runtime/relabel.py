"""The effect of a changed label on the searched targets, by influence functions."""

import numpy as np

from experiments.runtime import base_models, processes
from experiments.runtime.run import Run
from jaxdm.attribution.label_flip_scores import ScoreSum, mean_scores, sum_scores
from jaxdm.attribution.scores import ScoreRows
from jaxdm.storage import cache


def scores(run: Run, targets: np.ndarray) -> np.ndarray:
  """What every new label of every example takes from some targets, in logits.

  The models on all data are trained again for it, since they are not stored; the scores
  are stored in the workdir, those of other targets in a folder of their own.

  Args:
    run: the experiment.
    targets: int[u].

  Returns:
    float32[u, n, k], averaged over the models.
  """
  depends_on = base_models.identity_of(run) | {"targets": targets.tolist()}
  folder = run.workdir.path / "relabel.parts" / cache.name_of(depends_on)
  parts = cache.Cache(folder, depends_on)
  if processes.is_follower():
    return parts.wait_for("mean")["scores"]
  return parts("mean", lambda: {"scores": _mean(run, targets, parts)})["scores"]


def rows_of_some(values_un: np.ndarray, targets: np.ndarray, count: int) -> ScoreRows:
  """Values float32[t, n] of some of `count` targets; 0 for all others."""
  n = values_un.shape[1]
  row_t = np.full(count, -1)
  row_t[targets] = np.arange(len(targets))

  def rows_of(indices: np.ndarray) -> np.ndarray:
    rows_un = np.zeros((len(indices), n), np.float32)
    is_known = row_t[indices] >= 0
    rows_un[is_known] = values_un[row_t[indices][is_known]]
    return rows_un

  return ScoreRows((count, n), rows_of)


def _mean(run: Run, targets: np.ndarray, parts: cache.Cache) -> np.ndarray:
  """Trains the models, those of each chunk at once, and averages."""
  count, gradient = run.experiment.collect.num_base, run.experiment.gradient
  sums, bar, trainer = [], run.bar("relabel scores"), run.networks
  assert trainer is not None  # Callers leave functions of the user out.
  bar(0, count)
  for start in range(0, count, trainer.fleet.rows):
    size = min(trainer.fleet.rows, count - start)

    def make(start: int = start, size: int = size) -> dict[str, np.ndarray]:
      part = sum_scores(
        trainer,
        targets,
        start,
        size,
        damping=gradient.damping,
        moments=gradient.moments,
      )
      return part._asdict()

    sums.append(ScoreSum(**parts(f"models-{start}-{size}", make)))
    trainer.fleet.settle()
    bar(start + size, count)
  return mean_scores(sums)
