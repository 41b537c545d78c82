"""Finds how few training images must go before a prediction falls, and proves it.

  python -m experiments.brittleness --workdir=runs/fashion

Datamodels are compared with the most similar and with random images of the target's
class. A removal counts only when models trained without it, on seeds that the search
never saw, have a margin whose upper confidence bound is at most 0.
"""

from typing import Any

import numpy as np

from experiments import fit_datamodels, lab, launcher
from jaxdm import baselines, brittleness, training_sets
from jaxdm.report import tables

STAGE = "brittleness"
GROUPS = ("search",)
METHODS = ("datamodel", "similar", "random")


def search_all(
  opened: lab.Lab, stage: str, retrain: brittleness.Retrain, *, same_class: bool
) -> dict[str, Any]:
  """Searches every method's cases together, writes the stage's table, sums it up.

  Args:
    opened: the experiment.
    stage: its name, and the table's.
    retrain: trains changes.
    same_class: whether datamodels, too, choose among the target's class only.
  """
  config, base = opened.experiment.search, opened.base_models()
  targets = brittleness.sample_targets(base.margins_rt, config.num_targets, config.seed)
  if not targets.size:
    raise ValueError("num_targets: models on all data get no target right")
  scores = {
    "datamodel": fit_datamodels.fitted(opened.workdir).weights_tn,
    "similar": base.cosine_tn,
    "random": baselines.random(*base.cosine_tn.shape, seed=opened.seed),
  }
  cases = []
  for method in METHODS:
    cases += brittleness.make_cases(
      method,
      scores[method],
      targets,
      opened.labels,
      opened.target_labels,
      max_share=config.max_share,
      same_class=same_class or method != "datamodel",
    )
  bar = lab.progress_bar(stage)
  verdicts = brittleness.search(cases, retrain, config, progress=bar)
  class_sizes = np.bincount(opened.labels)[opened.target_labels]
  path = opened.workdir.path / f"{stage}.csv"
  tables.write_verdicts(path, cases, verdicts, base.margins_rt, class_sizes)
  return tables.summarise(verdicts)


def main(opened: lab.Lab) -> dict[str, Any]:
  """Searches and verifies removals."""
  opened.workdir.summary("fit_datamodels")

  def retrain(
    changes: brittleness.Changes, seeds: brittleness.Seeds, **progress: Any
  ) -> np.ndarray:
    removed = [case.ranking[:k] for case, k in changes]
    masks = training_sets.removal_masks(len(opened.labels), removed)
    return opened.retrain(masks, seeds, **progress)

  return opened.workdir.run(
    STAGE,
    opened.settings(*GROUPS),
    lambda: search_all(opened, STAGE, retrain, same_class=False),
  )


if __name__ == "__main__":
  launcher.run(main)
