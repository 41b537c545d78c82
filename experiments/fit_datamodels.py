"""Fits one sparse linear datamodel per target to the models of train_subsets.

  python -m experiments.fit_datamodels --workdir=runs/fashion

or to models that others trained, whose masks and margins are .npy files as those of the
public CIFAR-10 bank are, or have been made a store by `experiments.ops.bank --do=import`
(the last --num_held_out rows are kept to judge the fit on):

  python -m experiments.fit_datamodels --workdir=runs/bank \\
      --masks=train_masks.npy --margins=test_margins.npy --targets=0:1000

With --distributed every process of a job fits some of the targets.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runtime import (
  base_models,
  imported,
  lab,
  launcher,
  margin_files,
  processes,
  workdir,
)
from jaxdm import margins, training_sets
from jaxdm.datamodels import priors
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import Datamodels
from jaxdm.datamodels.path import FitConfig
from jaxdm.lasso.result import Status
from jaxdm.margins import Margins
from jaxdm.storage import atomic_io, cache, identity, store

STAGE = "fit_datamodels"
GROUPS = ("prior", "fit")
_OUTPUT = "datamodels"
_PARTS = "datamodels.parts"


def fitted(folder: workdir.Workdir) -> Datamodels:
  """The datamodels that this stage wrote.

  Raises:
    WorkdirError: if the stage is not finished, or what it wrote has changed.
  """
  expected = folder.outputs(STAGE)[_OUTPUT]
  path, found, why = folder.path / "datamodels", None, "its digest is another one"
  try:
    found = Datamodels.load(path)
  except Exception as error:  # Orbax raises many kinds.
    why = str(error)
  if found is None or identity.digest(found) != expected:
    raise workdir.WorkdirError(
      None,
      f"{path} is not what {STAGE} wrote ({why}); remove "
      f"{folder.path / 'stages' / STAGE}.json, and run python -m experiments.{STAGE} "
      f"--workdir={folder.path} again",
    )
  return found


def finite_rows(opened: lab.Lab) -> tuple[training_sets.PackedMasks, store.Matrix]:
  """Masks and margins of the models to fit to, without those that diverged."""
  rows = opened.fitted_rows()
  models, _ = margins.usable(rows.margins_mt)
  found = rows._replace(numbers=rows.numbers[models])
  return found.masks, found.margins_mt


def held_out_rows(opened: lab.Lab) -> tuple[training_sets.PackedMasks, np.ndarray]:
  """Masks and margins of the models to judge on, including those that diverged."""
  parts = opened.held_out_rows()
  margins_mt = np.concatenate([part.margins_mt[:] for part in parts]).astype(np.float32)
  bits = np.concatenate([part.masks.bits for part in parts])
  return training_sets.PackedMasks(bits, len(opened.labels)), margins_mt


def prior_of(
  name: str, opened: lab.Lab, scores: Mapping[str, np.ndarray]
) -> priors.Prior:
  """One of `settings_lib.PRIORS`; reads what it needs a tile of targets at a time."""
  if name == "none":
    return priors.Prior()
  if name == "class":
    labels = opened.labels, opened.target_labels
    return priors.Prior(lambda part: priors.by_class(labels[0], labels[1][part]))
  if name == "similar":
    return priors.Prior(lambda part: priors.by_similarity(scores["similar"][part]))
  method, _, sized = name.partition("+")
  offset = scores[method]
  by_size = (lambda part: priors.by_size(offset[part])) if sized else None
  return priors.Prior(by_size, offset)


def _fit(
  folder: workdir.Workdir,
  name: str,
  config: FitConfig,
  masks: training_sets.PackedMasks,
  margins_mt: Margins,
  candidates: dict[str, priors.Prior],
) -> tuple[Datamodels, dict[str, Any]]:
  """Fits; continues what a killed run left under the name."""
  models = fit_datamodels(
    masks,
    margins_mt,
    config=config,
    candidates=candidates,
    folder=folder.path / _PARTS / name,
    share=processes.mine(),
    report=print,
    progress=lab.progress_bar("datamodels", unit="tile", folder=folder),
  )
  gaps = models.gap_t[models.status_t != Status.NONFINITE]
  return models, {
    "models_fitted_to": len(margins_mt),
    "prior": list(candidates)[int(models.choice_t[0])],
    "mean_nonzero_weights": float((models.weights_tn != 0).sum(axis=1).mean()),
    "largest_relative_gap": float(gaps.max()),
    "unconverged_targets": int((~(gaps <= config.tol)).sum()),
    workdir.OUTPUTS: {_OUTPUT: identity.digest(models)},
  }


def _save(folder: workdir.Workdir, models: Datamodels) -> None:
  """Writes datamodels that have been judged, in the place of those before."""
  index, count = processes.mine()
  if index == 0:
    models.save(folder.path / "datamodels", overwrite=True)
  if count == 1:  # Others may still be reading them.
    atomic_io.remove_folder(folder.path / _PARTS)


def _judged(
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


def _main_files(files: margin_files.Files) -> dict[str, Any]:
  """Fits what the files hold."""
  asked = files.settings | {
    "fit": dataclasses.asdict(files.experiment.fit),
    "collect": dataclasses.asdict(files.experiment.collect),
  }

  def work() -> dict[str, Any]:
    models, summary = _fit(
      files.workdir,
      cache.name_of(asked),
      files.experiment.fit,
      *files.fitted,
      {"none": priors.Prior()},
    )
    summary |= _judged(models, *files.held_out)
    _save(files.workdir, models)
    return summary

  return files.workdir.run(STAGE, asked, work)


def main(opened: lab.Lab | margin_files.Files) -> dict[str, Any]:
  """Fits, judges on held-out models, and saves."""
  if isinstance(opened, margin_files.Files):
    return _main_files(opened)
  settings, inputs = opened.settings(*GROUPS), opened.inputs("train_subsets")

  def work() -> dict[str, Any]:
    base = base_models.load(opened)
    names = opened.experiment.prior.priors.split(",")
    models, summary = _fit(
      opened.workdir,
      cache.name_of([settings, inputs]),
      opened.experiment.fit,
      *finite_rows(opened),
      {name: prior_of(name, opened, base.scores) for name in names},
    )
    summary |= _judged(models, *held_out_rows(opened))
    full = models.predict(np.ones((1, len(opened.labels)), bool))[0]
    summary["bias_on_full_data"] = float((full - base.margins_rt.mean(axis=0)).mean())
    _save(opened.workdir, models)
    return summary

  return opened.workdir.run(STAGE, settings, work, inputs)


def open_any() -> lab.Lab | margin_files.Files:
  """Files if the flags name some, else the workdir's experiment."""
  if not margin_files.wanted():
    return launcher.open_lab()
  files = margin_files.open_files()
  held_out = files.experiment.collect.num_held_out
  imported.check_held_out(held_out, len(files.margins_mt))
  return files


PROGRAM = launcher.Program(main, open_any, "job", flag_modules=(margin_files,))

if __name__ == "__main__":
  PROGRAM.run()
