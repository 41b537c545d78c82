"""What the searches for removals, label flips and repairs print and write."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from experiments.report_page import words
from experiments.runtime import base_models, forecast, stages
from experiments.runtime.run import Run
from jaxdm.brittleness import verification
from jaxdm.brittleness.summary import summarise
from jaxdm.brittleness.targets import right_targets
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels.quality import Quality
from jaxdm.report import summary_text, tables

BUDGET = flags.DEFINE_integer(
  "budget_models",
  None,
  "Largest number of models to retrain. A search that needs more models prints a "
  "message, and a larger number continues it.",
  lower_bound=1,
)
_MOST_LINES = 5  # Of the targets that the fewest changes flip.


def inputs(run: Run) -> dict[str, str]:
  """What a search depends on beside settings: models, datamodels, rules of its test."""
  rules = {"verification rules": str(verification.RULES_VERSION)}
  return run.inputs("train_subsets", "fit_datamodels") | rules


def report_search(
  table: epath.Path,
  verdicts: Sequence[Verdict],
  dataset: Dataset,
  base_margins_rt: np.ndarray,
  qualities: Mapping[str, Quality] = {},
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
  qualities: Mapping[str, Quality] = {},
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
  print(summary_text.text(summary, title))
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
    num_targets = len(compare.target_list) or search.num_targets
    targets = min(num_targets, len(run.dataset.test_labels))
  else:
    run.timer.forget()
  cases = targets * (len(compare.names) + extra_methods)

  def text(model_seconds: float, _: int) -> str:
    most, budget = search.most_models, BUDGET.value
    return forecast.search_costs(stage, cases, most, budget, model_seconds)

  run.announce(text, len(run.dataset.train_labels))
