"""Trains the models: some on all data, many on random subsets.

  python -m experiments.train_subsets --workdir=runs/fashion

A killed run continues where it was. Later stages: fit_datamodels, brittleness,
label_flip; `experiments.pipeline` runs them all.
"""

from typing import Any

import numpy as np

from experiments import base_models, lab, launcher

STAGE = "train_subsets"
GROUPS = ("data", "collect", "train", "gradient")


def main(opened: lab.Lab) -> dict[str, Any]:
  """Fills the bank; returns what is worth knowing of the models."""

  def work() -> dict[str, Any]:
    base = base_models.train_all(opened)
    ids = np.concatenate([opened.subset_ids(held_out=h) for h in (False, True)])
    margins_mt = opened.subset_margins(ids, lab.progress_bar("models on subsets"))
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
