"""Finds how few training images must be removed to flip a prediction, and verifies it.

  python -m experiments.brittleness --workdir=runs/fashion

Datamodels are compared with other ways of choosing images (--methods). A removal counts
only when models trained without it, on seeds that the search never saw, have a margin
whose upper confidence bound is at most 0.
"""

from typing import Any

from experiments.runtime import (
  base_models,
  datamodels,
  launcher,
  methods,
  score_files,
  search_targets,
  searches,
  stages,
  subset_models,
)
from experiments.runtime.run import Run
from jaxdm.brittleness.removals import find_removals
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.report import tables

STAGE = "brittleness"
GROUPS = ("search", "compare")


def main(run: Run) -> dict[str, Any]:
  """Searches and verifies removals."""
  inputs = searches.inputs(run)
  base_margins_rt = base_models.load(run).margins_rt
  data, search, compare = run.dataset, run.experiment.search, run.experiment.compare
  targets = search_targets.choose_right(base_margins_rt, search, compare)
  others = score_files.load(run.workdir.places, data)

  def work() -> dict[str, Any]:
    searches.announce(run, STAGE, len(others), len(targets))
    models = datamodels.load(run.workdir)
    scores = methods.scores(run, compare.names, models) | others
    verdicts = find_removals(
      {name: models if name == "datamodel" else rows for name, rows in scores.items()},
      run.trainer,
      data.train_labels,
      data.test_labels,
      targets,
      search,
      base_margins=base_margins_rt,
      budget=searches.BUDGET.value,
      progress=run.bar(STAGE),
    )
    held_out = subset_models.join(run.subsets.held_out_rows())
    qualities = {name: evaluate_scores(rows, *held_out) for name, rows in scores.items()}
    table = run.workdir.path / f"{STAGE}.csv"
    return searches.report_search(table, verdicts, data, base_margins_rt, qualities)

  settings = run.settings(*GROUPS) | score_files.settings(others)
  files = tables.files_of(STAGE)
  return stages.run(run.workdir, STAGE, settings, work, inputs, files=files)


PROGRAM = launcher.Program(
  main, hold="job", flag_modules=(searches, score_files), groups=GROUPS
)

if __name__ == "__main__":
  PROGRAM.run()
