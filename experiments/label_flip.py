"""Finds how few labels must be flipped before a prediction falls, and proves it.

  python -m experiments.label_flip --workdir=runs/fashion

Images of the target's class stay in the training set under another label (--flip_to).
The method 'relabel' scores what a changed label does; the others reuse their scores of
removal.
"""

from typing import Any

import numpy as np

from experiments import brittleness as removals
from experiments import fit_datamodels
from experiments.runtime import (
  base_models,
  external,
  launcher,
  methods,
  relabel,
  stages,
)
from experiments.runtime.own_training import OwnTrainer
from experiments.runtime.run import Run
from jaxdm.attribution.scores import ScoreRows
from jaxdm.brittleness import label_flips

STAGE = "label_flip"
GROUPS = ("search", "compare", "flip")


def main(run: Run) -> dict[str, Any]:
  """Searches and verifies label flips."""
  inputs = run.inputs("train_subsets", "fit_datamodels")
  base, data = base_models.load(run), run.dataset
  search, compare = run.experiment.search, run.experiment.compare
  targets = base_models.choose_targets(base.margins_rt, search, compare)
  shape = len(data.test_labels), len(data.train_labels)
  others = external.load(run.workdir.places, shape)

  def work() -> dict[str, Any]:
    is_own = isinstance(run.trainer, OwnTrainer)
    relabel_unk = None if is_own else relabel.scores(run, targets)
    new_un = _new_labels(run, base.logits_rtk, targets, relabel_unk)
    scores = methods.scores(run, compare.names) | others
    if relabel_unk is not None:  # They are of networks.
      taken_un = np.take_along_axis(relabel_unk, new_un[..., None], axis=-1)[..., 0]
      scores["relabel"] = _of_some(taken_un, targets, shape[0])
    verdicts = label_flips.find_label_flips(
      scores,
      run.trainer,
      data.train_labels,
      data.test_labels,
      _of_some(new_un, targets, shape[0]),
      targets,
      search,
      base_margins=base.margins_rt,
      budget=removals.BUDGET.value,
      progress=run.bar(STAGE),
    )
    table = run.workdir.path / f"{STAGE}.csv"
    return removals.report_search(table, verdicts, data, base.margins_rt)

  settings = run.settings(*GROUPS) | external.settings(others)
  return stages.run(run.workdir, STAGE, settings, work, inputs)


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


def _new_labels(
  run: Run,
  base_logits_rtk: np.ndarray | None,
  targets: np.ndarray,
  relabel_unk: np.ndarray | None,
) -> np.ndarray:
  """New labels int32[u, n] of all examples, for some targets."""
  flip_to, data = run.experiment.flip.flip_to, run.dataset
  if flip_to == "best":
    assert relabel_unk is not None  # `own_training.adapted` refuses it otherwise.
    return label_flips.best_class(relabel_unk, data.train_labels)
  labels = data.train_labels, data.test_labels[targets]
  if flip_to != "runner-up":
    new_u = label_flips.given_class(data.class_names.index(flip_to), labels[1])
  elif base_logits_rtk is not None:
    new_u = label_flips.runner_up_class(base_logits_rtk, data.test_labels)[targets]
  else:
    weights_un = fit_datamodels.load(run.workdir).weights_tn[targets]
    new_u = label_flips.competing_class(weights_un, *labels)
  return np.broadcast_to(new_u[:, None], (len(targets), len(labels[0])))


PROGRAM = launcher.Program(main, hold="job", flag_modules=(removals, external))

if __name__ == "__main__":
  PROGRAM.run()
