"""Finds how few labels must be flipped before a prediction falls, and proves it.

  python -m experiments.label_flip --workdir=runs/fashion

The same images as in `brittleness`, of the target's class, stay in the training set
under another label: the class that models on all data find second likeliest for the
target. The method 'relabel' scores what a changed label does; the others reuse their
scores of removal.
"""

from typing import Any

import numpy as np

from experiments import base_models, lab, launcher, methods
from experiments import brittleness as removals
from jaxdm import brittleness, label_flip, training_sets

STAGE = "label_flip"
GROUPS = ("search", "compare")


def main(opened: lab.Lab) -> dict[str, Any]:
  """Searches and verifies label flips."""
  opened.workdir.summary("fit_datamodels")

  def retrain(
    changes: brittleness.Changes, seeds: brittleness.Seeds, **progress: Any
  ) -> np.ndarray:
    flipped = [case.ranking[:k] for case, k in changes]
    new = [np.full(k, runner_up[case.target]) for case, k in changes]
    labels_mn = training_sets.relabelled(opened.labels, flipped, new)
    masks = np.ones(labels_mn.shape, bool)
    return opened.retrain(masks, seeds, labels_mn=labels_mn, **progress)

  logits = base_models.load(opened).logits_rtk
  runner_up = label_flip.runner_up_class(logits, opened.target_labels)

  def work() -> dict[str, Any]:
    scores = methods.scores(opened, (*opened.experiment.compare.names, "relabel"))
    return removals.search_all(opened, STAGE, scores, retrain, of_all_classes=())

  return opened.workdir.run(STAGE, opened.settings(*GROUPS), work)


if __name__ == "__main__":
  launcher.run(main)
