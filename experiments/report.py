"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion

They are written to the workdir, or to another folder (--out); then the workdir is only
read.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import fit_datamodels
from experiments.config.path_flags import define_path
from experiments.runtime import (
  base_models,
  imported,
  launcher,
  margin_files,
  stages,
  subset_models,
)
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm import training_sets
from jaxdm.brittleness.summary import by_method
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError
from jaxdm.report import figures, page, tables, words
from jaxdm.storage import atomic_io

OUT = define_path(
  "out", None, "Folder for figures, summary.json and report.html; default: the workdir."
)
_STORIES = 4
_SEARCHES = ("brittleness", "label_flip")
_SETTINGS = (
  "data",
  "collect",
  "retrain",
  "network",
  "train",
  "gradient",
  "prior",
  "fit",
  "search",
  "compare",
  "flip",
)


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
    label_flips: verdicts.
    study_pictures: PNG files of the studies, by name.
    study_captions: by name of the picture.
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


def check_stages(run: Run) -> None:
  """Raises WorkdirError if a stage is missing, or has read other inputs than there are.

  A search whose budget ran out is drawn as far as it has come.
  """
  for stage in page.STAGES:
    stages.summary_of(run.workdir, stage, partial=stage in _SEARCHES)
  inputs = run.inputs("train_subsets", "fit_datamodels")
  for stage in _SEARCHES:
    stages.check_inputs(run.workdir, stage, inputs, partial=True)


def load_results(run: Run) -> Results:
  """Reads everything that a report shows of finished stages."""
  workdir, folder = run.workdir, run.workdir.path
  masks, margins_mt = subset_models.joined(run.subsets.held_out_rows())
  pictures, captions = _studies(workdir)
  targets = tables.read_rows(folder / "targets.csv")
  return Results(
    data=run.dataset,
    settings=run.settings(*_SETTINGS),
    summaries={
      stage: stages.summary_of(workdir, stage, partial=True) for stage in page.STAGES
    },
    provenance=_provenance(workdir),
    wrong_targets=[row for row in targets if row["right"] == "False"],
    base_margins_rt=base_models.load(run).margins_rt,
    models=fit_datamodels.load(workdir),
    held_out_masks=masks,
    held_out_margins_mt=margins_mt,
    removals=tables.read_verdicts(folder / "brittleness.csv"),
    label_flips=tables.read_verdicts(folder / "label_flip.csv"),
    study_pictures=pictures,
    study_captions=captions,
  )


def _studies(workdir: Workdir) -> tuple[dict[str, bytes], dict[str, str]]:
  """The pictures of the launchers beside the pipeline, and captions, by file name."""
  pictures = {
    path.name: path.read_bytes() for path in atomic_io.find(workdir.path, "*.png")
  }
  names = {name: name.removesuffix(".png") for name in pictures}
  captions = {
    name: stages.summary_of(workdir, stage).get("caption", "")
    for name, stage in names.items()
    if stages.is_finished(workdir, stage)
  }
  return pictures, captions | _audit(workdir).get("captions", {})


def _audit(workdir: Workdir) -> dict[str, Any]:
  """What the audit of the training set has found; nothing if there is none."""
  path = workdir.path / "audit.json"
  is_there = stages.is_finished(workdir, "audit") and path.exists()
  return dict(json.loads(path.read_text())) if is_there else {}


def _provenance(workdir: Workdir) -> dict[str, Any]:
  """What made the stages and stores, for summary and page."""
  starts = stages.starts_by_stage(workdir).items()
  return {
    "provenance": {stage: one._asdict() for stage, one in starts},
    "mixtures": stages.mixtures(workdir),
  }


def _output_folder(workdir: Workdir) -> epath.Path:
  """The folder to write to.

  Raises:
    UserError: if it cannot be written.
  """
  setting = "out" if OUT.value else "workdir"
  folder = epath.Path(OUT.value) if OUT.value else workdir.path
  try:
    atomic_io.check_writable(folder / "figures")
  except OSError as error:
    raise UserError(
      setting,
      f"={folder} cannot be written: {error}; python -m experiments.report --out=FOLDER "
      f"--workdir={workdir.path} draws in another folder",
    ) from error
  return folder


def _stories(
  data: Dataset, base_margins_rt: np.ndarray, verdicts: list[Verdict]
) -> tuple[dict[str, bytes], dict[str, str]]:
  """Pictures of the targets that fewest removals flip, and captions, by file name."""
  method = words.story_method(by_method(verdicts))
  found = [
    (v, np.array(v.examples[: v.k]))
    for v in verdicts
    if v.method == method and not v.censored
  ]
  found.sort(key=lambda pair: pair[0].k)
  pictures, captions = {}, {}
  for verdict, examples in found[:_STORIES]:
    before = (base_margins_rt[:, verdict.target] > 0).mean()
    name = data.class_names[data.test_labels[verdict.target]]
    fig = figures.story(
      data.test_images[verdict.target],
      data.train_images[examples],
      title=(
        f"target {verdict.target}, {name}: P(correct) {before:.0%} with all data, "
        f"{verdict.accuracy:.0%} of {verdict.models} models without these {verdict.k} "
        f"images; mean margin {verdict.mean_margin:.2f} "
        f"[{verdict.margin_low:.2f}, {verdict.margin_high:.2f}]"
      ),
      removed_titles=[data.class_names[data.train_labels[e]] for e in examples],
    )
    file = f"target_{verdict.target}.png"
    pictures[file] = page.png(fig)
    captions[file] = words.caption(data, verdict.target, examples)
  return pictures, captions


def _calibration(
  base_margins_rt: np.ndarray, models: Datamodels, verdicts: list[Verdict]
) -> Figure:
  """Predicted and true margins on all data, and after each search's largest removal."""
  full_t = models.predict(np.ones((1, models.weights_tn.shape[1]), bool))[0]
  predicted_v = [
    full_t[v.target] - models.weights_tn[v.target, list(v.examples)].sum()
    for v in verdicts
  ]
  removed = {}
  for method in by_method(verdicts):
    rows = [i for i, verdict in enumerate(verdicts) if verdict.method == method]
    pairs = [(predicted_v[i], verdicts[i].largest_margin) for i in rows]
    removed[method] = tuple(np.array(pairs).T)
  return figures.calibration((full_t, base_margins_rt.mean(axis=0)), removed)


def _shares(results: Results) -> Figure:
  """The shares of targets that removals and label flips of each size flip."""
  data = results.data
  classes = np.unique(data.test_labels[[v.target for v in results.removals]])
  class_sizes = np.bincount(data.train_labels)[classes]
  return figures.cumulative_share(
    by_method(results.removals),
    by_method(results.label_flips),
    class_size=int(class_sizes.min()),
    of="a class" if np.ptp(class_sizes) == 0 else "the smallest class",
  )


def _predictions(
  models: Datamodels, masks: training_sets.PackedMasks, margins_mt: np.ndarray
) -> Figure:
  """Predicted and true margins of the held-out models."""
  guess_mt = models.predict(masks)
  lds_t = metrics.evaluate(guess_mt, margins_mt, masks).lds_t
  return figures.predicted_against_true(guess_mt, margins_mt, lds_t)


def _write(
  out: epath.Path, summary: dict[str, Any], text: str, pictures: dict[str, bytes]
) -> None:
  """Writes figures, summary.json and report.html, each whole or not at all."""
  for name, picture in pictures.items():
    with atomic_io.writing(out / "figures" / name) as file:
      file.write(picture)
  atomic_io.write_json(out / "summary.json", summary)
  with atomic_io.writing(out / "report.html", "w") as file:
    file.write(text)
  print(f"read {out / 'report.html'}")


def write_files_report(files: margin_files.Files) -> dict[str, Any]:
  """Writes what there is to say without images."""
  workdir, stage = files.workdir, fit_datamodels.STAGE
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
  models = fit_datamodels.load(workdir)
  picture = page.png(_predictions(models, masks, margins_mt))
  summary = {
    **_provenance(workdir),
    "settings": settings | {"collect": held_out},
    stage: fit,
  }
  missing = (
    "Removals and label flips, for which models must be retrained on the images: "
    f"{imported.how_to_go_on(workdir)}."
  )
  text = page.fit_page(summary, picture, missing)
  _write(_output_folder(workdir), summary, text, {"datamodels.png": picture})
  return summary


def write_run_report(run: Run) -> dict[str, Any]:
  """Writes every figure, the summary and the page of an experiment."""
  check_stages(run)
  out, results = _output_folder(run.workdir), load_results(run)
  held_out = results.held_out_masks, results.held_out_margins_mt
  base_margins_rt, removals = results.base_margins_rt, results.removals
  stories, captions = _stories(results.data, base_margins_rt, removals)
  drawn = {
    "brittleness.png": page.png(_shares(results)),
    "datamodels.png": page.png(_predictions(results.models, *held_out)),
    "calibration.png": page.png(_calibration(base_margins_rt, results.models, removals)),
    **stories,
  }
  summary = {
    **results.provenance,
    "settings": results.settings,
    "wrong_targets": results.wrong_targets,
    "captions": captions | results.study_captions,
    **results.summaries,
    **({"audit": found} if (found := _audit(run.workdir)) else {}),
  }
  text = page.experiment_page(summary, drawn | results.study_pictures)
  _write(out, summary, text, drawn)
  return summary


def main(source: Run | margin_files.Files) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  if isinstance(source, margin_files.Files):
    return write_files_report(source)
  return write_run_report(source)


def open_any() -> Run | margin_files.Files:
  """The workdir's experiment, or the files, or imports, that it was begun with."""
  return margin_files.open_files() if margin_files.wanted() else launcher.open_run()


PROGRAM = launcher.Program(main, open_any, "reading")

if __name__ == "__main__":
  PROGRAM.run()
