"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion

They are written to the workdir, or to another folder (--out); then the workdir is only
read.
"""

from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import base_models, fit_datamodels, lab, launcher, program, workdir
from jaxdm import data as data_lib
from jaxdm import datamodels, quality, whole
from jaxdm.errors import UserError
from jaxdm.report import figures, page, tables, words
from jaxdm.verdicts import Verdict

OUT = program.define_path(
  "out", None, "Folder for figures, summary.json and report.html; default: the workdir."
)
_STORIES = 4
_SEARCHES = ("brittleness", "label_flip")


def _stories(
  data: data_lib.Dataset,
  base_margins_rt: np.ndarray,
  verdicts: list[Verdict],
  rankings: list[np.ndarray],
) -> tuple[dict[str, bytes], dict[str, str]]:
  """Pictures of the targets that fewest removals flip, and captions, by file name."""
  method = words.story_method(tables.by_method(verdicts))
  found = [
    (v, ranking[: v.k])
    for v, ranking in zip(verdicts, rankings, strict=True)
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
  pictures = {path.name: path.read_bytes() for path in whole.find(folder.path, "*.png")}
  stages = {name: name.removesuffix(".png") for name in pictures}
  captions = {
    name: folder.summary(stage).get("caption", "")
    for name, stage in stages.items()
    if folder.is_finished(stage)
  }
  return pictures, captions


def _out(opened: lab.Lab) -> epath.Path:
  """The folder to write to.

  Raises:
    UserError: if it cannot be written.
  """
  place = f"out={OUT.value}" if OUT.value else f"workdir={opened.workdir.path}"
  folder = epath.Path(OUT.value) if OUT.value else opened.workdir.path
  try:
    whole.check_writable(folder / "figures")
  except OSError as error:
    raise UserError(
      f"{place} cannot be written: {error}; python -m experiments.report --out=FOLDER "
      f"--workdir={opened.workdir.path} draws in another folder"
    ) from error
  return folder


def _calibration(
  base_margins_rt: np.ndarray,
  models: datamodels.Datamodels,
  verdicts: list[Verdict],
  rankings: list[np.ndarray],
) -> Figure:
  """Predicted and true margins on all data, and after each search's largest removal."""
  full_t = models.predict(np.ones((1, models.weights_tn.shape[1]), bool))[0]
  predicted_v = [
    full_t[v.target] - models.weights_tn[v.target, ranking].sum()
    for v, ranking in zip(verdicts, rankings, strict=True)
  ]
  removed = {}
  for method in tables.by_method(verdicts):
    rows = [i for i, verdict in enumerate(verdicts) if verdict.method == method]
    pairs = [(predicted_v[i], verdicts[i].largest_margin) for i in rows]
    removed[method] = tuple(np.array(pairs).T)
  return figures.calibration((full_t, base_margins_rt.mean(axis=0)), removed)


def main(opened: lab.Lab) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  folder = opened.workdir.path
  # A search whose budget ran out is drawn as far as it has come.
  summaries = {
    stage: opened.workdir.summary(stage, partial=stage in _SEARCHES)
    for stage in page.STAGES
  }
  out = _out(opened)
  removed, rankings = tables.read_verdicts(folder / "brittleness.csv")
  flipped, _ = tables.read_verdicts(folder / "label_flip.csv")
  models = fit_datamodels.fitted(opened.workdir)
  masks, margins_mt = fit_datamodels.held_out_rows(opened)
  classes = np.unique(opened.target_labels[[v.target for v in removed]])
  class_sizes = np.bincount(opened.labels)[classes]
  curves = figures.cumulative_share(
    tables.by_method(removed),
    tables.by_method(flipped),
    class_size=int(class_sizes.min()),
    of="a class" if np.ptp(class_sizes) == 0 else "the smallest class",
  )
  guess_mt = models.predict(masks)
  found = quality.evaluate(guess_mt, margins_mt, masks)
  fit = figures.predicted_against_true(guess_mt, margins_mt, found.lds_t)
  base_margins_rt = base_models.load(opened).margins_rt
  calibration = _calibration(base_margins_rt, models, removed, rankings)
  stories, captions = _stories(opened.dataset, base_margins_rt, removed, rankings)
  drawn = {
    "brittleness.png": page.png(curves),
    "datamodels.png": page.png(fit),
    "calibration.png": page.png(calibration),
    **stories,
  }
  for name, picture in drawn.items():
    with whole.writing(out / "figures" / name) as file:
      file.write(picture)
  others, their_captions = _others(opened.workdir)
  targets = tables.read_rows(folder / "targets.csv")
  settings = opened.settings(
    "data", "collect", "train", "gradient", "prior", "fit", "search", "compare", "flip"
  )
  summary = {
    "provenance": {
      stage: made._asdict() for stage, made in opened.workdir.stage_provenance().items()
    },
    "mixtures": opened.workdir.mixtures(),
    "settings": settings,
    "wrong_targets": [row for row in targets if row["right"] == "False"],
    "captions": captions | their_captions,
    **summaries,
  }
  whole.write_json(out / "summary.json", summary)
  with whole.writing(out / "report.html", "w") as file:
    file.write(page.experiment_page(summary, drawn | others))
  return summary


PROGRAM = launcher.Program(main, hold="reading")

if __name__ == "__main__":
  PROGRAM.run()
