"""The report on datamodels of models that others trained, without images."""

from typing import Any, NamedTuple

import numpy as np

from experiments.report_page import pictures, sections
from experiments.runtime import datamodels, imported_models, margin_files, stages
from experiments.runtime.workdir import WorkdirError
from jaxdm import training_sets
from jaxdm.datamodels.model import Datamodels
from jaxdm.report import page


class FitResults(NamedTuple):
  """Everything that a report shows of datamodels of files, without images.

  Attributes:
    settings: of the fit, and numbers of held-out models, by group.
    fit: its summary.
    provenance: what made it, for summary and page.
    models: the datamodels.
    held_out: masks and margins of the held-out models.
    missing: what is not there, and how to go on.
  """

  settings: dict[str, Any]
  fit: dict[str, Any]
  provenance: dict[str, Any]
  models: Datamodels
  held_out: tuple[training_sets.PackedMasks, np.ndarray]
  missing: str


def load(files: margin_files.Files) -> FitResults:
  """Reads what there is to show without images."""
  workdir, stage = files.workdir, datamodels.STAGE
  fit = stages.summary_of(workdir, stage)
  settings = stages.settings_of(workdir, stage)
  if settings.get("files") != files.settings["files"]:
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds a fit to other models; run python -m "
      f"experiments.{stage} --workdir={workdir.path} first",
    )
  masks, margins_mt = files.held_out
  subsets = len(np.unique(masks.bits, axis=0))
  held_out = {"num_held_out": subsets, "held_out_seeds": len(margins_mt) // subsets}
  return FitResults(
    settings=settings | {"collect": held_out},
    fit=fit,
    provenance=stages.provenance_of(workdir),
    models=datamodels.load(workdir),
    held_out=files.held_out,
    missing=(
      "Removals and label flips, for which models must be retrained on the images: "
      f"{imported_models.how_to_go_on(workdir)}."
    ),
  )


def draw(results: FitResults) -> tuple[dict[str, Any], str, dict[str, bytes]]:
  """What there is to say without images: the summary, the page and its pictures."""
  picture = page.png(pictures.predictions(results.models, *results.held_out))
  summary = {
    **results.provenance,
    "settings": results.settings,
    datamodels.STAGE: results.fit,
  }
  title = "How well training sets predict margins"
  text = page.page(title, sections.of_fit(summary, picture, results.missing))
  return summary, text, {"datamodels.png": picture}
