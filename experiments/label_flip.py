"""Finds how few labels must be flipped before a prediction falls, and proves it.

  python -m experiments.label_flip --workdir=runs/fashion

Images of the target's class stay in the training set under another label (--flip_to).
The method 'relabel' scores what a changed label does; the others reuse their scores of
removal.
"""

from typing import Any

import numpy as np

from experiments import brittleness as removals
from experiments.runtime import base_models, external, lab, launcher, methods, relabel
from jaxdm.attribution.scores import ScoreRows
from jaxdm.brittleness import label_flips

STAGE = "label_flip"
GROUPS = ("search", "compare", "flip")


def main(opened: lab.Lab) -> dict[str, Any]:
  """Searches and verifies label flips."""
  inputs = opened.inputs("train_subsets", "fit_datamodels")
  targets, others = base_models.searched_targets(opened), external.load(opened)
  same = _same_for_all(opened, targets)

  def work() -> dict[str, Any]:
    relabel_unk = relabel.scores(opened, targets)
    new_un = label_flips.best_class(relabel_unk, opened.labels) if same is None else same
    taken_un = np.take_along_axis(relabel_unk, new_un[..., None], axis=-1)[..., 0]
    scores = methods.scores(opened, opened.experiment.compare.names) | others
    num_targets = len(opened.target_labels)
    scores["relabel"] = _of_some(taken_un, targets, num_targets)
    verdicts = label_flips.find_label_flips(
      scores,
      opened.trainer,
      opened.labels,
      opened.target_labels,
      _of_some(new_un, targets, num_targets),
      targets,
      opened.experiment.search,
      base_margins=base_models.load(opened).margins_rt,
      budget=removals.BUDGET.value,
      progress=opened.bar(STAGE),
    )
    return removals.report_search(opened, STAGE, verdicts)

  settings = opened.settings(*GROUPS) | external.settings(others)
  return opened.workdir.run(STAGE, settings, work, inputs)


def _of_some(taken_un: np.ndarray, targets: np.ndarray, num_targets: int) -> ScoreRows:
  """Values float32[t, n] of some targets; 0 for all others."""
  n = taken_un.shape[1]
  row_t = np.full(num_targets, -1)
  row_t[targets] = np.arange(len(targets))

  def rows_of(wanted: np.ndarray) -> np.ndarray:
    rows_un = np.zeros((len(wanted), n), np.float32)
    known = row_t[wanted] >= 0
    rows_un[known] = taken_un[row_t[wanted][known]]
    return rows_un

  return ScoreRows((num_targets, n), rows_of)


def _same_for_all(opened: lab.Lab, targets: np.ndarray) -> np.ndarray | None:
  """New labels int32[u, n] that are the same for all examples; None: each its best."""
  flip_to, labels = opened.experiment.flip.flip_to, opened.target_labels
  if flip_to == "best":
    return None
  if flip_to == "runner-up":
    logits = base_models.load(opened).logits_rtk
    new_u = label_flips.runner_up_class(logits, labels)[targets]
  else:
    label = opened.dataset.class_names.index(flip_to)
    new_u = label_flips.given_class(label, labels[targets])
  return np.broadcast_to(new_u[:, None], (len(targets), len(opened.labels)))


PROGRAM = launcher.Program(main, hold="job", flag_modules=(removals, external))

if __name__ == "__main__":
  PROGRAM.run()
