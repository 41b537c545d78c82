"""Fits one linear datamodel per target to the models of train_subsets.

  python -m experiments.fit_datamodels --workdir=runs/fashion

It also fits models that others trained. Their masks and margins are .npy files, as those
of the public CIFAR-10 bank are, or were stored by `experiments.ops.bank --do=import` (the
last --num_held_out rows judge the fit):

  python -m experiments.fit_datamodels --workdir=runs/bank \\
      --masks=train_masks.npy --margins=test_margins.npy --targets=0:1000

With --distributed every process of a job fits some of the targets.
"""

import dataclasses
from typing import Any

import numpy as np

from experiments.runtime import (
  base_models,
  datamodels,
  first_look,
  imported_models,
  launcher,
  margin_files,
  processes,
  progress_bar,
  stages,
  subset_models,
  unfinished,
)
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from jaxdm import identity, training_sets
from jaxdm.datamodels import priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import Datamodels
from jaxdm.lasso.result import Status
from jaxdm.margins import Margins
from jaxdm.storage import cache

STAGE = datamodels.STAGE
GROUPS = ("prior", "fit")
_PARTS = "datamodels.parts"


def _fit(
  workdir: Workdir,
  name: str,
  config: FitConfig,
  masks: training_sets.PackedMasks,
  margins_mt: Margins,
  candidates: dict[str, priors.Prior],
) -> tuple[Datamodels, dict[str, Any]]:
  """Fits; continues what a killed run left under the name."""
  if text := first_look.of_models(masks, margins_mt):
    progress_bar.say(text)
  models = fit_datamodels(
    masks,
    margins_mt,
    config=config,
    candidates=candidates,
    folder=workdir.path / _PARTS / name,
    share=processes.share(),
    report=progress_bar.say,
    progress=progress_bar.make("datamodels", "tile", workdir.path),
  )
  gaps = models.gap_t[models.status_t != Status.NONFINITE]
  return models, {
    "models_fitted_to": len(margins_mt),
    "prior": list(candidates)[int(models.choice_t[0])],
    "num_train": models.weights_tn.shape[1],
    "mean_nonzero_weights": float((models.weights_tn != 0).sum(axis=1).mean()),
    "largest_relative_gap": float(gaps.max()),
    "unconverged_targets": int((~(gaps <= config.tol)).sum()),
    stages.OUTPUTS: {datamodels.OUTPUT: identity.digest(models)},
  }


def _save(workdir: Workdir, models: Datamodels) -> None:
  """Writes datamodels that have been judged, in the place of those before."""
  index, count = processes.share()
  if index == 0:
    models.save(workdir.path / datamodels.OUTPUT, overwrite=True)
  if count == 1:  # Others may still be reading them.
    unfinished.remove_parts(workdir, _PARTS)


def _evaluate(
  models: Datamodels,
  masks: training_sets.PackedMasks,
  margins_mt: np.ndarray,
) -> dict[str, Any]:
  """Scores on held-out models."""
  quality = models.evaluate(masks, margins_mt)
  return {
    "held_out_models": quality.num_models,
    "held_out_models_left_out": quality.num_left_out,
    "targets_left_out": quality.num_targets_left_out,
    "lds": quality.lds._asdict(),
    "pooled_correlation": quality.pooled_correlation._asdict(),
    "r2": quality.r2._asdict(),
    "lds_ceiling": quality.ceiling._asdict() if quality.ceiling else None,
  }


def fit_files(files: margin_files.Files) -> dict[str, Any]:
  """Fits what the files hold."""
  settings = files.settings | {
    "fit": dataclasses.asdict(files.experiment.fit),
    "collect": dataclasses.asdict(files.experiment.collect),
  }

  def work() -> dict[str, Any]:
    models, summary = _fit(
      files.workdir,
      cache.name_of(settings),
      files.experiment.fit,
      *files.fit_data,
      {"none": priors.Prior()},
    )
    summary |= _evaluate(models, *files.held_out)
    _save(files.workdir, models)
    return summary

  return stages.run(files.workdir, STAGE, settings, work, files=(datamodels.OUTPUT,))


def fit_run(run: Run) -> dict[str, Any]:
  """Fits the models of an experiment."""
  settings, inputs = run.settings(*GROUPS), run.inputs("train_subsets")
  labels, target_labels = run.dataset.train_labels, run.dataset.test_labels

  def work() -> dict[str, Any]:
    base = base_models.load(run)
    names = run.experiment.prior.priors.split(",")
    models, summary = _fit(
      run.workdir,
      cache.name_of([settings, inputs]),
      run.experiment.fit,
      *subset_models.load_converged(run.subsets.fitted_rows()),
      {
        name: datamodels.prior_of(name, labels, target_labels, base.scores)
        for name in names
      },
    )
    summary |= _evaluate(models, *subset_models.join(run.subsets.held_out_rows()))
    full = models.predict(np.ones((1, len(labels)), bool))[0]
    summary["bias_on_full_data"] = float((full - base.margins_rt.mean(axis=0)).mean())
    _save(run.workdir, models)
    return summary

  return stages.run(
    run.workdir, STAGE, settings, work, inputs, files=(datamodels.OUTPUT,)
  )


def main(source: Run | margin_files.Files) -> dict[str, Any]:
  """Fits, judges on held-out models, and saves."""
  return fit_files(source) if isinstance(source, margin_files.Files) else fit_run(source)


def open_any() -> Run | margin_files.Files:
  """Files if the flags name some, else the workdir's experiment."""
  if not margin_files.are_requested():
    return launcher.open_run()
  files = margin_files.open_files()
  held_out = files.experiment.collect.num_held_out
  imported_models.check_held_out(held_out, len(files.margins_mt))
  if text := imported_models.note_held_out(held_out, len(files.margins_mt)):
    print(text)
  return files


PROGRAM = launcher.Program(
  main, open_any, "job", flag_modules=(margin_files,), groups=GROUPS
)

if __name__ == "__main__":
  PROGRAM.run()
