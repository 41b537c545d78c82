"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion

They are written to the workdir, or to another folder (--out); then the workdir is only
read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments import brittleness, label_flip, repair
from experiments.config.path_flags import define_path
from experiments.report_page import pictures, sections, words
from experiments.report_page.opening import constant_accuracy, opening, warning
from experiments.runtime import (
  base_models,
  datamodels,
  fit_report,
  launcher,
  margin_files,
  searches,
  stages,
  subset_models,
)
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from jaxdm import intervals, training_sets
from jaxdm.brittleness.comparison import compare_methods
from jaxdm.brittleness.repairs import Change
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError
from jaxdm.report import page, tables
from jaxdm.report.browser import make_browser
from jaxdm.storage import atomic_io, checksummed_json

OUT = define_path(
  "out", None, "Folder for figures, summary.json and report.html; default: the workdir."
)
# Stages that need not have been run.
_OPTIONAL = (label_flip.STAGE, repair.STAGE)
# Whose settings the report shows. Of label flips those that removals do not have.
_GROUPS_OF = {
  datamodels.STAGE: ("prior", "fit"),
  brittleness.STAGE: brittleness.GROUPS,
  label_flip.STAGE: ("flip",),
}


class Results(NamedTuple):
  """Everything that a report shows of an experiment.

  Attributes:
    data: examples and targets.
    settings: of all stages, by group.
    summaries: of the stages, by name.
    provenance: what made the stages and stores, for summary and page.
    wrong_targets: rows of the table of targets that models on all data get wrong.
    base_margins_rt: of the models on all data.
    models: the datamodels.
    held_out_masks: of the held-out models.
    held_out_margins_mt: theirs.
    removals: verdicts.
    label_flips: verdicts; empty if they were not searched.
    study_pictures: PNG files of the studies, by name.
    study_captions: by name of the picture.
    repairs: verdicts on what makes wrong targets right, by change; empty if they were
      not searched.
    audit: what audit.json holds; empty if there is no audit.
    audit_rows: of audit.csv.
  """

  data: Dataset
  settings: dict[str, dict[str, Any]]
  summaries: dict[str, dict[str, Any]]
  provenance: dict[str, Any]
  wrong_targets: list[dict[str, str]]
  base_margins_rt: np.ndarray
  models: Datamodels
  held_out_masks: training_sets.PackedMasks
  held_out_margins_mt: np.ndarray
  removals: list[Verdict]
  label_flips: list[Verdict]
  study_pictures: dict[str, bytes]
  study_captions: dict[str, str]
  repairs: Mapping[Change, list[Verdict]]
  audit: dict[str, Any]
  audit_rows: list[dict[str, str]]


def check_stages(run: Run) -> list[str]:
  """Raises WorkdirError if a stage is missing, or has read other inputs than there are.

  A search whose budget ran out is drawn as far as it has come. Label flips and repairs
  need not have been searched. They are left out, with a line that says so, where they
  were begun and not finished, or belong to other models.

  Returns:
    The stages to draw.
  """
  workdir = run.workdir
  for stage in sections.STAGES:  # First: the error names the stage that is missing.
    stages.summary_of(workdir, stage, partial=stage == brittleness.STAGE)
  inputs = searches.inputs(run)
  stages.check_inputs(workdir, brittleness.STAGE, inputs, partial=True, reads_all=True)
  optional = [s for s in _OPTIONAL if _is_drawn(workdir, s, inputs, reads_all=True)]
  return [*sections.STAGES, *optional]


def _is_drawn(
  workdir: Workdir, stage: str, inputs: Mapping[str, str], *, reads_all: bool = False
) -> bool:
  """Whether a stage that need not have been run is current; says so if it was begun."""
  if stages.is_current(workdir, stage, inputs, reads_all=reads_all):
    return True
  if stages.is_begun(workdir, stage):
    print(
      f"{stage} is not in the report: it was not finished, a file that it wrote is "
      "missing or has changed, it read other models or datamodels, or an earlier version "
      "verified it; "
      f"python -m experiments.{stage} --workdir={workdir.path} adds it"
    )
  return False


def load_results(run: Run, stage_names: Sequence[str]) -> Results:
  """Reads everything that a report shows of the stages that `check_stages` returns."""
  workdir, folder = run.workdir, run.workdir.path
  masks, margins_mt = subset_models.join(run.subsets.held_out_rows())
  study_pictures, study_captions = _studies(workdir)
  audit = _audit(run)
  return Results(
    data=run.dataset,
    settings=_settings(run, stage_names),
    summaries={
      stage: stages.summary_of(workdir, stage, partial=True) for stage in stage_names
    },
    provenance=stages.provenance_of(workdir),
    wrong_targets=tables.read_wrong_targets(folder / "targets.csv"),
    base_margins_rt=base_models.load(run).margins_rt,
    models=datamodels.load(workdir),
    held_out_masks=masks,
    held_out_margins_mt=margins_mt,
    removals=tables.read_verdicts(folder / "brittleness.csv"),
    label_flips=(
      tables.read_verdicts(folder / "label_flip.csv")
      if label_flip.STAGE in stage_names
      else []
    ),
    study_pictures=study_pictures,
    study_captions=study_captions | audit.get("captions", {}),
    repairs=repair.read_verdicts(workdir) if repair.STAGE in stage_names else {},
    audit=audit,
    audit_rows=tables.read_audit(folder / "audit.csv") if audit else [],
  )


def _settings(run: Run, stage_names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Those with which the stages were run, which flags of this command do not change."""
  settings = run.settings(*(f.name for f in dataclasses.fields(run.experiment)))
  for stage, groups in _GROUPS_OF.items():
    if stage in stage_names:
      recorded = stages.settings_of(run.workdir, stage)
      settings |= {group: recorded[group] for group in groups if group in recorded}
  if label_flip.STAGE in stage_names:
    search = stages.settings_of(run.workdir, label_flip.STAGE)["search"]
    own = {k: v for k, v in search.items() if v != settings["search"].get(k)}
    settings |= {words.FLIP_SEARCH: own} if own else {}
  return settings


def _studies(workdir: Workdir) -> tuple[dict[str, bytes], dict[str, str]]:
  """The pictures of the launchers beside the pipeline, and captions, by file name."""
  changed, study_pictures = stages.changed_files(workdir), {}
  for path in atomic_io.find(workdir.path, "*.png"):
    if path.name in changed:
      print(
        f"{path.name} is not in the report: it has changed since it was written; run "
        "again what has written it"
      )
    else:
      study_pictures[path.name] = path.read_bytes()
  names = {name: name.removesuffix(".png") for name in study_pictures}
  captions = {
    name: stages.summary_of(workdir, stage).get("caption", "")
    for name, stage in names.items()
    if stages.is_finished(workdir, stage)
  }
  return study_pictures, captions


def _audit(run: Run) -> dict[str, Any]:
  """What the audit has found of what is there now; nothing if there is none."""
  path = run.workdir.path / "audit.json"
  inputs = run.inputs("train_subsets", "fit_datamodels")
  is_there = _is_drawn(run.workdir, "audit", inputs) and path.exists()
  return dict(checksummed_json.read_without_digest(path)) if is_there else {}


def _output_folder(workdir: Workdir) -> epath.Path:
  """The folder to write to.

  Raises:
    UserError: if it cannot be written.
  """
  setting = "out" if OUT.value else "workdir"
  folder = atomic_io.as_path(OUT.value) if OUT.value else workdir.path
  try:
    atomic_io.check_writable(folder / "figures")
  except OSError as error:
    raise UserError(
      setting,
      f"={folder} cannot be written: {error}; python -m experiments.report --out=FOLDER "
      f"--workdir={workdir.path} draws in another folder",
    ) from error
  return folder


def _write(
  out: epath.Path, summary: dict[str, Any], text: str, own_pictures: dict[str, bytes]
) -> None:
  """Writes figures, summary.json and report.html, each whole or not at all."""
  for name, picture in own_pictures.items():
    with atomic_io.writing(out / "figures" / name) as file:
      file.write(picture)
  atomic_io.write_json(out / "summary.json", summary)
  with atomic_io.writing(out / "report.html", "w") as file:
    file.write(text)
  print(f"Open {out / 'report.html'} in a browser")


def write_report(out: epath.Path, results: Results) -> dict[str, Any]:
  """Writes every figure, the summary and the page of an experiment."""
  held_out = results.held_out_masks, results.held_out_margins_mt
  base_margins_rt, removals = results.base_margins_rt, results.removals
  stories, captions = pictures.stories(results.data, base_margins_rt, removals)
  repaired, about = pictures.stories(
    results.data, base_margins_rt, results.repairs.get("removal", []), "repair"
  )
  own_pictures = {
    "brittleness.png": page.png(
      pictures.shares(results.data, removals, results.label_flips)
    ),
    "datamodels.png": page.png(pictures.predictions(results.models, *held_out)),
    "calibration.png": page.png(
      pictures.calibration(base_margins_rt, results.models, removals)
    ),
    **stories,
    **repaired,
  }
  summary = _summary(results, captions | about)
  changes = {
    "removed": removals + results.repairs.get("removal", []),
    "relabelled": results.label_flips + results.repairs.get("relabel", []),
  }
  text = page.page(
    "What these predictions depend on",
    sections.of_experiment(summary, own_pictures | results.study_pictures),
    opening=opening(summary),
    warning=warning(summary),
    browser=make_browser(
      results.data, base_margins_rt, results.models, changes, results.audit_rows
    ),
  )
  _write(out, summary, text, own_pictures)
  return summary


def _summary(results: Results, captions: dict[str, str]) -> dict[str, Any]:
  """Everything that the page says, for summary.json."""
  verdicts_of = {
    brittleness.STAGE: results.removals,
    label_flip.STAGE: results.label_flips,
  }
  targets = sorted({v.target for v in results.removals})
  lows = [intervals.student(results.base_margins_rt[:, t], 0.975)[1] for t in targets]
  comparisons_of = {
    stage: {"comparisons": [c._asdict() for c in compare_methods(verdicts)]}
    for stage, verdicts in verdicts_of.items()
    if verdicts
  }
  return {
    **results.provenance,
    "settings": results.settings,
    "wrong_targets": results.wrong_targets,
    "captions": captions | results.study_captions,
    "constant_accuracy": constant_accuracy(results.data.test_labels),
    "hardly_right": sum(low <= 0 for low in lows),
    **{
      stage: summary | comparisons_of.get(stage, {})
      for stage, summary in results.summaries.items()
    },
    **({"audit": results.audit} if results.audit else {}),
  }


def main(source: Run | margin_files.Files) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  if isinstance(source, margin_files.Files):
    results = fit_report.load(source)
    summary, text, pictures_of_fit = fit_report.draw(results)
    _write(_output_folder(source.workdir), summary, text, pictures_of_fit)
    return summary
  stage_names = check_stages(source)
  out = _output_folder(source.workdir)
  return write_report(out, load_results(source, stage_names))


def open_any() -> Run | margin_files.Files:
  """The workdir's experiment, or the files, or imports, that it was begun with."""
  return (
    margin_files.open_files() if margin_files.are_requested() else launcher.open_run()
  )


PROGRAM = launcher.Program(main, open_any, "reading")

if __name__ == "__main__":
  PROGRAM.run()
