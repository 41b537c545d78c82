"""Finds how few training images must be removed to flip a prediction, and verifies it.

  python -m experiments.brittleness --workdir=runs/fashion

Datamodels are compared with other ways of choosing images (--methods). A removal counts
only when models trained without it, on seeds that the search never saw, have a margin
whose upper confidence bound is at most 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from experiments import fit_datamodels
from experiments.report_page import words
from experiments.runtime import (
  base_models,
  forecast,
  launcher,
  methods,
  score_files,
  stages,
  subset_models,
)
from experiments.runtime.run import Run
from jaxdm.brittleness.cases import right_targets
from jaxdm.brittleness.removals import find_removals
from jaxdm.brittleness.summary import summarise
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import metrics
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.report import tables

BUDGET = flags.DEFINE_integer(
  "budget_models",
  None,
  "Largest number of models to retrain. A search that needs more models prints a "
  "message, and a larger number continues it.",
  lower_bound=1,
)
STAGE = "brittleness"
GROUPS = ("search", "compare")
_MOST_LINES = 5  # Of the targets that the fewest changes flip.


def report_search(
  table: epath.Path,
  verdicts: Sequence[Verdict],
  dataset: Dataset,
  base_margins_rt: np.ndarray,
  qualities: Mapping[str, metrics.Quality] = {},
) -> dict[str, Any]:
  """Writes a search's table, prints its summary, and returns it.

  Args:
    table: the file to write.
    verdicts: of all targets and methods.
    dataset: examples and targets.
    base_margins_rt: of the models on all data.
    qualities: of the methods' predictions of held-out models, by method.
  """
  tables.write_verdicts(table, verdicts, base_margins_rt, dataset)
  base_models.print_if_poor(base_margins_rt, dataset.test_labels)
  title = f"{table.stem}: share flipped by"
  summary = summarise_search(table.name, title, verdicts, dataset, qualities)
  return {
    "methods": summary,
    "targets_wrong_on_all_data": int((~right_targets(base_margins_rt)).sum()),
    stages.UNFINISHED: sum(method["unfinished"] for method in summary.values()),
  }


def summarise_search(
  table: str,
  title: str,
  verdicts: Sequence[Verdict],
  dataset: Dataset,
  qualities: Mapping[str, metrics.Quality] = {},
) -> dict[str, Any]:
  """Prints and returns what a search has found, by method.

  Args:
    table: the name of the file that has the verdicts.
    title: of what is printed.
    verdicts: of all targets and methods.
    dataset: examples and targets.
    qualities: see `report_search`.
  """
  class_sizes = np.bincount(dataset.train_labels)[dataset.test_labels]
  summary = summarise(verdicts, class_sizes)
  for method, q in qualities.items():
    summary[method]["lds"] = q.lds._asdict()
    summary[method]["lds_ceiling"] = q.ceiling._asdict() if q.ceiling else None
  print(tables.text(summary, title))
  for verdict in words.smallest_changes(verdicts)[:_MOST_LINES]:
    print(words.change_line(dataset, verdict))
  unfinished = sum(method["unfinished"] for method in summary.values())
  if unfinished:
    print(
      f"--budget_models={BUDGET.value} is used up: {unfinished} of {len(verdicts)} cases "
      f"are not finished; what is claimed in {table} holds, and a larger budget continues"
    )
  return summary


def announce(
  run: Run, stage: str, extra_methods: int = 0, targets: int | None = None
) -> None:
  """Says, after the first steps of training, between which numbers of models a search is.

  Args:
    run: the experiment.
    stage: the name of the search.
    extra_methods: that it has beside the experiment's.
    targets: that are searched; None: it is not known yet which are right, and all that
      are asked for count.
  """
  search, compare = run.experiment.search, run.experiment.compare
  if targets is None:
    asked = len(compare.target_list) or search.num_targets
    targets = min(asked, len(run.dataset.test_labels))
  else:
    run.timer.forget()
  cases = targets * (len(compare.names) + extra_methods)

  def text(model_seconds: float, _: int) -> str:
    most, budget = search.most_models, BUDGET.value
    return forecast.search_costs(stage, cases, most, budget, model_seconds)

  run.announce(text, len(run.dataset.train_labels))


def main(run: Run) -> dict[str, Any]:
  """Searches and verifies removals."""
  inputs = run.inputs("train_subsets", "fit_datamodels")
  base_margins_rt = base_models.load(run).margins_rt
  data, search, compare = run.dataset, run.experiment.search, run.experiment.compare
  targets = base_models.choose_targets(base_margins_rt, search, compare)
  others = score_files.load(run.workdir.places, data)

  def work() -> dict[str, Any]:
    announce(run, STAGE, len(others), len(targets))
    models = fit_datamodels.load(run.workdir)
    scores = methods.scores(run, compare.names, models) | others
    verdicts = find_removals(
      {name: models if name == "datamodel" else rows for name, rows in scores.items()},
      run.trainer,
      data.train_labels,
      data.test_labels,
      targets,
      search,
      base_margins=base_margins_rt,
      budget=BUDGET.value,
      progress=run.bar(STAGE),
    )
    held_out = subset_models.join(run.subsets.held_out_rows())
    qualities = {name: evaluate_scores(rows, *held_out) for name, rows in scores.items()}
    table = run.workdir.path / f"{STAGE}.csv"
    return report_search(table, verdicts, data, base_margins_rt, qualities)

  settings = run.settings(*GROUPS) | score_files.settings(others)
  files = tables.files_of(STAGE)
  return stages.run(run.workdir, STAGE, settings, work, inputs, files=files)


PROGRAM = launcher.Program(main, hold="job", flag_modules=(score_files,))

if __name__ == "__main__":
  PROGRAM.run()
