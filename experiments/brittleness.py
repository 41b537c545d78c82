"""Finds how few training images must go before a prediction falls, and proves it.

  python -m experiments.brittleness --workdir=runs/fashion

Datamodels are compared with other ways of choosing images (--methods). A removal counts
only when models trained without it, on seeds that the search never saw, have a margin
whose upper confidence bound is at most 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments import fit_datamodels
from experiments.runtime import base_models, lab, launcher, methods, workdir
from jaxdm import training_sets
from jaxdm.brittleness import verdicts as verdicts_lib
from jaxdm.brittleness.cases import make_cases, right_targets
from jaxdm.brittleness.search import Changes, Retrain, Seeds, search
from jaxdm.datamodels import metrics
from jaxdm.lasso import design
from jaxdm.report import tables

BUDGET = flags.DEFINE_integer(
  "budget_models",
  None,
  "Retrained models at most; a search that needs more says so and can be continued.",
  lower_bound=1,
)
STAGE = "brittleness"
GROUPS = ("search", "compare")


def search_all(
  opened: lab.Lab,
  stage: str,
  targets: np.ndarray,
  scores: Mapping[str, design.Matrix],
  retrain: Retrain,
  *,
  of_all_classes: tuple[str, ...],
  predicted_full: Mapping[str, np.ndarray] | None = None,
  judged: Mapping[str, metrics.Quality] | None = None,
) -> dict[str, Any]:
  """Searches every method's cases together, writes the stage's table, sums it up.

  Args:
    opened: the experiment.
    stage: its name, and the table's.
    targets: int, whose brittleness is searched.
    scores: float[t, n] by method, read a tile of targets at a time.
    retrain: trains changes.
    of_all_classes: methods that choose among all examples instead of the target's class.
    predicted_full: by method, margins float[t] that it predicts for all data.
    judged: by method, its predictions of held-out models, for the table.
  """
  config, margins_rt = opened.experiment.search, base_models.load(opened).margins_rt
  cases = []
  for method, scores_tn in scores.items():
    cases += make_cases(
      method,
      scores_tn,
      targets,
      opened.labels,
      opened.target_labels,
      config=config,
      same_class=method not in of_all_classes,
      predicted_full_t=(predicted_full or {}).get(method),
    )
  bar, budget = opened.bar(stage), BUDGET.value
  skewness = verdicts_lib.estimate_skewness(margins_rt)
  verdicts = search(
    cases, retrain, config, budget=budget, skewness=skewness, progress=bar
  )
  class_sizes = np.bincount(opened.labels)[opened.target_labels]
  path = opened.workdir.path / f"{stage}.csv"
  tables.write_verdicts(path, cases, verdicts, margins_rt, opened.dataset)
  found = tables.summarise(verdicts, class_sizes)
  for method, q in (judged or {}).items():
    found[method]["lds"] = q.lds._asdict()
    found[method]["lds_ceiling"] = q.ceiling._asdict() if q.ceiling else None
  print(tables.text(found))
  unfinished = sum(method["unfinished"] for method in found.values())
  if unfinished:
    print(
      f"--budget_models={budget} is used up: {unfinished} of {len(cases)} cases are not "
      f"finished; what is claimed in {path.name} holds, and a larger budget continues"
    )
  right = right_targets(margins_rt)
  return {
    "methods": found,
    "targets_wrong_on_all_data": int((~right).sum()),
    workdir.UNFINISHED: unfinished,
  }


def removals(opened: lab.Lab) -> Retrain:
  """Trains models without the first k examples of each case's ranking."""

  def retrain(changes: Changes, seeds: Seeds, **progress: Any) -> np.ndarray:
    removed = [case.ranking[:k] for case, k in changes]
    masks = training_sets.removal_masks(len(opened.labels), removed)
    return opened.retrain(masks, seeds, **progress)

  return retrain


def main(opened: lab.Lab) -> dict[str, Any]:
  """Searches and verifies removals."""
  inputs = opened.inputs("train_subsets", "fit_datamodels")
  targets = base_models.searched_targets(opened)

  def work() -> dict[str, Any]:
    models = fit_datamodels.fitted(opened.workdir)
    scores = methods.scores(opened, opened.experiment.compare.names, models)
    full_t = models.predict(np.ones((1, len(opened.labels)), bool))[0]
    return search_all(
      opened,
      STAGE,
      targets,
      scores,
      removals(opened),
      of_all_classes=methods.OF_ALL_CLASSES,
      predicted_full={"datamodel": full_t},
      judged=methods.judged(opened, scores),
    )

  return opened.workdir.run(STAGE, opened.settings(*GROUPS), work, inputs)


PROGRAM = launcher.Program(main, hold="job")

if __name__ == "__main__":
  PROGRAM.run()
