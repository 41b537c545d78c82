"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion

They are written to the workdir, or to another folder (--out); then the workdir is only
read.
"""

from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import fit_datamodels
from experiments.config.path_flags import define_path
from experiments.runtime import (
  base_models,
  imported,
  lab,
  launcher,
  margin_files,
  workdir,
)
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


def _stories(
  data: Dataset,
  base_margins_rt: np.ndarray,
  verdicts: list[Verdict],
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


def _others(folder: workdir.Workdir) -> tuple[dict[str, bytes], dict[str, str]]:
  """What the launchers beside the pipeline have drawn, and captions, by file name."""
  pictures = {
    path.name: path.read_bytes() for path in atomic_io.find(folder.path, "*.png")
  }
  stages = {name: name.removesuffix(".png") for name in pictures}
  captions = {
    name: folder.summary(stage).get("caption", "")
    for name, stage in stages.items()
    if folder.is_finished(stage)
  }
  return pictures, captions


def _out(opened: lab.Lab | margin_files.Files) -> epath.Path:
  """The folder to write to.

  Raises:
    UserError: if it cannot be written.
  """
  setting, folder = "workdir", opened.workdir.path
  if OUT.value:
    setting, folder = "out", epath.Path(OUT.value)
  try:
    atomic_io.check_writable(folder / "figures")
  except OSError as error:
    raise UserError(
      setting,
      f"={OUT.value or folder} cannot be written: {error}; "
      "python -m experiments.report --out=FOLDER "
      f"--workdir={opened.workdir.path} draws in another folder",
    ) from error
  return folder


def _calibration(
  base_margins_rt: np.ndarray,
  models: Datamodels,
  verdicts: list[Verdict],
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


def _main_files(files: margin_files.Files) -> dict[str, Any]:
  """Writes what there is to say without images."""
  folder = files.workdir.path
  stage = fit_datamodels.STAGE
  fit = files.workdir.summary(stage)
  settings = files.workdir.stage_settings(stage)
  if settings.get("files") != files.settings["files"]:
    raise workdir.WorkdirError(
      "workdir",
      f"={folder} holds a fit to other models; run python -m experiments.{stage} "
      f"--workdir={folder} first",
    )
  masks, margins_mt = files.held_out
  subsets = len(np.unique(masks.bits, axis=0))
  held_out = {"num_held_out": subsets, "held_out_seeds": len(margins_mt) // subsets}
  guess_mt = fit_datamodels.fitted(files.workdir).predict(masks)
  lds_t = metrics.evaluate(guess_mt, margins_mt, masks).lds_t
  picture = page.png(figures.predicted_against_true(guess_mt, margins_mt, lds_t))
  summary = {
    **_provenance(files.workdir),
    "settings": settings | {"collect": held_out},
    stage: fit,
  }
  missing = (
    "Removals and label flips, for which models must be retrained on the images: "
    f"{imported.how_to_go_on(files.workdir)}."
  )
  text = page.fit_page(summary, picture, missing)
  _write(_out(files), summary, text, {"datamodels.png": picture})
  return summary


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


def _provenance(folder: workdir.Workdir) -> dict[str, Any]:
  """What made the stages, for summary and page."""
  made = folder.stage_provenance().items()
  return {
    "provenance": {stage: one._asdict() for stage, one in made},
    "mixtures": folder.mixtures(),
  }


def main(opened: lab.Lab | margin_files.Files) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  if isinstance(opened, margin_files.Files):
    return _main_files(opened)
  folder = opened.workdir.path
  # A search whose budget ran out is drawn as far as it has come.
  summaries = {
    stage: opened.workdir.summary(stage, partial=stage in _SEARCHES)
    for stage in page.STAGES
  }
  inputs = opened.inputs("train_subsets", "fit_datamodels")
  for stage in _SEARCHES:
    opened.workdir.check_inputs(stage, inputs, partial=True)
  out = _out(opened)
  removed = tables.read_verdicts(folder / "brittleness.csv")
  flipped = tables.read_verdicts(folder / "label_flip.csv")
  models = fit_datamodels.fitted(opened.workdir)
  masks, margins_mt = fit_datamodels.held_out_rows(opened)
  classes = np.unique(opened.target_labels[[v.target for v in removed]])
  class_sizes = np.bincount(opened.labels)[classes]
  curves = figures.cumulative_share(
    by_method(removed),
    by_method(flipped),
    class_size=int(class_sizes.min()),
    of="a class" if np.ptp(class_sizes) == 0 else "the smallest class",
  )
  guess_mt = models.predict(masks)
  found = metrics.evaluate(guess_mt, margins_mt, masks)
  fit = figures.predicted_against_true(guess_mt, margins_mt, found.lds_t)
  base_margins_rt = base_models.load(opened).margins_rt
  calibration = _calibration(base_margins_rt, models, removed)
  stories, captions = _stories(opened.dataset, base_margins_rt, removed)
  drawn = {
    "brittleness.png": page.png(curves),
    "datamodels.png": page.png(fit),
    "calibration.png": page.png(calibration),
    **stories,
  }
  others, their_captions = _others(opened.workdir)
  targets = tables.read_rows(folder / "targets.csv")
  settings = opened.settings(
    "data",
    "collect",
    "network",
    "train",
    "gradient",
    "prior",
    "fit",
    "search",
    "compare",
    "flip",
  )
  summary = {
    **_provenance(opened.workdir),
    "settings": settings,
    "wrong_targets": [row for row in targets if row["right"] == "False"],
    "captions": captions | their_captions,
    **summaries,
  }
  _write(out, summary, page.experiment_page(summary, drawn | others), drawn)
  return summary


def open_any() -> lab.Lab | margin_files.Files:
  """The workdir's experiment, or the files, or imports, that it was begun with."""
  return margin_files.open_files() if margin_files.wanted() else launcher.open_lab()


PROGRAM = launcher.Program(main, open_any, "reading")

if __name__ == "__main__":
  PROGRAM.run()
