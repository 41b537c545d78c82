"""Fits one sparse linear datamodel per target to the models of train_subsets.

python -m experiments.fit_datamodels --workdir=runs/fashion
"""

from typing import Any

import numpy as np

from experiments import lab, launcher
from jaxdm import datamodels, priors

STAGE = "fit_datamodels"
GROUPS = ("prior", "fit")


def fitted(opened: lab.Lab) -> datamodels.Datamodels:
  """The datamodels that this stage wrote."""
  opened.workdir.summary(STAGE)
  return datamodels.Datamodels.load(opened.workdir.path / "datamodels")


def finite_rows(opened: lab.Lab, *, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
  """Masks and margins of the models that did not diverge."""
  ids = opened.subset_ids(held_out=held_out)
  margins_mt = opened.subset_margins(ids)
  finite = np.isfinite(margins_mt).all(axis=1)
  return opened.subset_masks(ids[finite]), margins_mt[finite]


def main(opened: lab.Lab) -> dict[str, Any]:
  """Fits, judges on held-out models, and saves."""
  opened.workdir.summary("train_subsets")

  def work() -> dict[str, Any]:
    base = opened.base_models()
    t, n = base.cosine_tn.shape
    makers = {
      "ones": lambda: priors.ones(t, n),
      "class": lambda: priors.by_class(opened.labels, opened.target_labels),
      "similarity": lambda: priors.by_similarity(base.cosine_tn),
    }
    names = opened.experiment.prior.penalty_factors.split(",")
    masks, margins_mt = finite_rows(opened, held_out=False)
    models = datamodels.fit_datamodels(
      masks,
      margins_mt,
      config=opened.experiment.fit,
      penalty_factors={name: makers[name]() for name in names},
      report=print,
    )
    models.save(opened.workdir.path / "datamodels", overwrite=True)
    held_masks, held_margins = finite_rows(opened, held_out=True)
    quality = models.evaluate(held_masks, held_margins, seed=opened.seed)
    full = models.predict(np.ones((1, n), bool))[0]
    return {
      "models_fitted_to": len(masks),
      "held_out_models": quality.num_models,
      "lds": quality.lds._asdict(),
      "pooled_correlation": quality.pooled_correlation._asdict(),
      "penalty_factors": names[int(models.choice_t[0])],
      "mean_nonzero_weights": float((models.weights_tn != 0).sum(axis=1).mean()),
      "largest_relative_gap": float(models.gap_t.max()),
      "bias_on_full_data": float((full - base.margins_rt.mean(axis=0)).mean()),
    }

  return opened.workdir.run(STAGE, opened.settings(*GROUPS), work)


if __name__ == "__main__":
  launcher.run(main)
