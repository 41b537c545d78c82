"""Trains the models: some on all data, many on random subsets.

  python -m experiments.train_subsets --workdir=runs/fashion

A killed run continues where it was. Later stages: fit_datamodels, brittleness,
label_flip; `experiments.pipeline` runs them all.
"""

from typing import Any

import numpy as np

from experiments import base_models, lab, launcher
from jaxdm.report import tables

STAGE = "train_subsets"
GROUPS = ("data", "collect", "train", "gradient")


def main(opened: lab.Lab) -> dict[str, Any]:
  """Fills the bank; returns what is worth knowing of the models."""

  def work() -> dict[str, Any]:
    base = base_models.train_all(opened)
    names = [opened.dataset.class_names[label] for label in opened.target_labels]
    tables.write_targets(opened.workdir.path / "targets.csv", base.margins_rt, names)
    ids = np.concatenate([opened.subset_ids(held_out=h) for h in (False, True)])
    margins_mt = opened.subset_margins(ids, lab.progress_bar("models on subsets"))
    for repeat in range(1, opened.experiment.collect.held_out_seeds):
      bar = lab.progress_bar(f"held-out subsets, seed {repeat + 1}")
      again = opened.subset_margins(opened.subset_ids(held_out=True), bar, repeat=repeat)
      margins_mt = np.concatenate([margins_mt, again])
    finite = np.isfinite(margins_mt).all(axis=1)
    missing = opened.experiment.collect.num_base - len(base.margins_rt)
    if missing or not finite.all():
      print(
        f"diverged, and left out of every fit: {missing} models on all data, "
        f"{(~finite).sum()} on subsets"
      )
    return {
      "num_train": len(opened.labels),
      "num_targets": len(opened.target_labels),
      "base_accuracy": float((base.margins_rt > 0).mean()),
      "subset_accuracy": float((margins_mt[finite] > 0).mean()),
      "diverged_models": missing + int((~finite).sum()),
    }

  return opened.workdir.run(STAGE, opened.settings(*GROUPS), work)


if __name__ == "__main__":
  launcher.run(main)
