"""Finds how few training images must go before a prediction falls, and proves it.

  python -m experiments.brittleness --workdir=runs/fashion

Datamodels are compared with other ways of choosing images (--methods). A removal counts
only when models trained without it, on seeds that the search never saw, have a margin
whose upper confidence bound is at most 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import fit_datamodels
from experiments.runtime import base_models, external, lab, launcher, methods, workdir
from jaxdm.brittleness.cases import right_targets
from jaxdm.brittleness.removals import find_removals
from jaxdm.brittleness.summary import summarise
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.datamodels import metrics
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


def report_search(
  opened: lab.Lab,
  stage: str,
  verdicts: Sequence[Verdict],
  judged: Mapping[str, metrics.Quality] | None = None,
) -> dict[str, Any]:
  """Writes a search's table, prints its summary, and returns it.

  Args:
    opened: the experiment.
    stage: its name, and the table's.
    verdicts: of all targets and methods.
    judged: by method, its predictions of held-out models, for the table.
  """
  margins_rt = base_models.load(opened).margins_rt
  class_sizes = np.bincount(opened.labels)[opened.target_labels]
  path = opened.workdir.path / f"{stage}.csv"
  tables.write_verdicts(path, verdicts, margins_rt, opened.dataset)
  found = summarise(verdicts, class_sizes)
  for method, q in (judged or {}).items():
    found[method]["lds"] = q.lds._asdict()
    found[method]["lds_ceiling"] = q.ceiling._asdict() if q.ceiling else None
  print(tables.text(found))
  unfinished = sum(method["unfinished"] for method in found.values())
  if unfinished:
    print(
      f"--budget_models={BUDGET.value} is used up: {unfinished} of {len(verdicts)} cases "
      f"are not finished; what is claimed in {path.name} holds, and a larger budget "
      "continues"
    )
  right = right_targets(margins_rt)
  return {
    "methods": found,
    "targets_wrong_on_all_data": int((~right).sum()),
    workdir.UNFINISHED: unfinished,
  }


def main(opened: lab.Lab) -> dict[str, Any]:
  """Searches and verifies removals."""
  inputs = opened.inputs("train_subsets", "fit_datamodels")
  targets, others = base_models.searched_targets(opened), external.load(opened)

  def work() -> dict[str, Any]:
    models = fit_datamodels.fitted(opened.workdir)
    scores = methods.scores(opened, opened.experiment.compare.names, models) | others
    verdicts = find_removals(
      {name: models if name == "datamodel" else rows for name, rows in scores.items()},
      opened.trainer,
      opened.labels,
      opened.target_labels,
      targets,
      opened.experiment.search,
      base_margins=base_models.load(opened).margins_rt,
      budget=BUDGET.value,
      progress=opened.bar(STAGE),
    )
    return report_search(opened, STAGE, verdicts, methods.judged(opened, scores))

  settings = opened.settings(*GROUPS) | external.settings(others)
  return opened.workdir.run(STAGE, settings, work, inputs)


PROGRAM = launcher.Program(main, hold="job", flag_modules=(external,))

if __name__ == "__main__":
  PROGRAM.run()
