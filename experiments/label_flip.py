"""Finds how few labels must be changed to flip a prediction, and verifies it.

  python -m experiments.label_flip --workdir=runs/fashion

Images of the target's class stay in the training set under another label (--flip_to).
The method 'relabel' scores what a changed label does; the others reuse their scores of
removal.
"""

from typing import Any

import numpy as np

from experiments.runtime import (
  base_models,
  launcher,
  methods,
  relabel,
  score_files,
  search_targets,
  searches,
  stages,
)
from experiments.runtime.run import Run
from jaxdm.brittleness import label_flips
from jaxdm.report import tables

STAGE = "label_flip"
GROUPS = ("search", "compare", "flip")


def main(run: Run) -> dict[str, Any]:
  """Searches and verifies label flips."""
  inputs = searches.inputs(run)
  base, data = base_models.load(run), run.dataset
  search, compare = run.experiment.search, run.experiment.compare
  targets = search_targets.choose_right(base.margins_rt, search, compare)
  shape = len(data.test_labels), len(data.train_labels)
  others = score_files.load(run.workdir.places, data)

  def work() -> dict[str, Any]:
    extra = len(others) + (run.networks is not None)
    searches.announce(run, STAGE, extra, len(targets))
    relabel_unk = relabel.scores(run, targets) if run.networks else None
    new_un = _new_labels(run, base.logits_rtk, targets, relabel_unk)
    scores = methods.scores(run, compare.names) | others
    if relabel_unk is not None:
      taken_un = np.take_along_axis(relabel_unk, new_un[..., None], axis=-1)[..., 0]
      scores["relabel"] = relabel.rows_of_some(taken_un, targets, shape[0])
    verdicts = label_flips.find_label_flips(
      scores,
      run.trainer,
      data.train_labels,
      data.test_labels,
      relabel.rows_of_some(new_un, targets, shape[0]),
      targets,
      search,
      base_margins=base.margins_rt,
      budget=searches.BUDGET.value,
      progress=run.bar(STAGE),
    )
    table = run.workdir.path / f"{STAGE}.csv"
    return searches.report_search(table, verdicts, data, base.margins_rt)

  settings = run.settings(*GROUPS) | score_files.settings(others)
  files = tables.files_of(STAGE)
  return stages.run(run.workdir, STAGE, settings, work, inputs, files=files)


def _new_labels(
  run: Run,
  base_logits_rtk: np.ndarray | None,
  targets: np.ndarray,
  relabel_unk: np.ndarray | None,
) -> np.ndarray:
  """New labels int32[u, n] of all examples, for some targets."""
  flip_to, data = run.experiment.flip.flip_to, run.dataset
  if flip_to == "best":
    assert relabel_unk is not None  # `own_training.adapt` refuses it otherwise.
    return label_flips.best_class(relabel_unk, data.train_labels)
  labels = data.train_labels, data.test_labels[targets]
  if flip_to == "runner-up":
    new_u = methods.rival_classes(run, base_logits_rtk)[targets]
  else:
    new_u = label_flips.one_class(data.class_names.index(flip_to), labels[1])
  return np.broadcast_to(new_u[:, None], (len(targets), len(labels[0])))


PROGRAM = launcher.Program(
  main, hold="job", flag_modules=(searches, score_files), groups=GROUPS
)

if __name__ == "__main__":
  PROGRAM.run()
