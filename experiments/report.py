"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion
"""

import csv
import time
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import base_models, fit_datamodels, lab, launcher
from jaxdm import datamodels, training_sets, whole
from jaxdm.report import figures, page, tables
from jaxdm.verdicts import Verdict

_STORIES = 4
_SEARCHES = ("brittleness", "label_flip")


def _stories(
  opened: lab.Lab, verdicts: list[Verdict], rankings: list[np.ndarray]
) -> list[tuple[str, bytes]]:
  """Pictures of the targets that fewest removals flip, as (name, PNG)."""
  data, base = opened.dataset, base_models.load(opened)
  found = [
    (v, ranking[: v.k])
    for v, ranking in zip(verdicts, rankings, strict=True)
    if v.method == "datamodel" and not v.censored
  ]
  found.sort(key=lambda pair: pair[0].k)
  pictures = []
  for verdict, examples in found[:_STORIES]:
    before = (base.margins_rt[:, verdict.target] > 0).mean()
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
    pictures.append((f"target_{verdict.target}.png", page.png(fig)))
  return pictures


def _calibration(
  opened: lab.Lab,
  models: datamodels.Datamodels,
  verdicts: list[Verdict],
  rankings: list[np.ndarray],
) -> Figure:
  """Predicted and true margins on all data, and after each search's largest removal."""
  n, base = len(opened.labels), base_models.load(opened)
  full_t = models.predict(np.ones((1, n), bool))[0]
  predicted_vt = models.predict(training_sets.removal_masks(n, rankings))
  removed = {}
  for method in tables.by_method(verdicts):
    rows = [i for i, verdict in enumerate(verdicts) if verdict.method == method]
    pairs = [
      (predicted_vt[i, verdicts[i].target], verdicts[i].largest_margin) for i in rows
    ]
    removed[method] = tuple(np.array(pairs).T)
  return figures.calibration((full_t, base.margins_rt.mean(axis=0)), removed)


def main(opened: lab.Lab) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  folder = opened.workdir.path
  # A search whose budget ran out is drawn as far as it has come.
  summaries = {
    stage: opened.workdir.summary(stage, partial=stage in _SEARCHES)
    for stage in page.STAGES
  }
  removed, rankings = tables.read_verdicts(folder / "brittleness.csv")
  flipped, _ = tables.read_verdicts(folder / "label_flip.csv")
  models = fit_datamodels.fitted(opened.workdir)
  masks, margins_mt = fit_datamodels.held_out_rows(opened)
  classes = np.unique(opened.target_labels[[v.target for v in removed]])
  class_size = int(np.bincount(opened.labels)[classes].min())
  curves = figures.cumulative_share(
    tables.by_method(removed), tables.by_method(flipped), class_size=class_size
  )
  quality = models.evaluate(masks, margins_mt)
  fit = figures.predicted_against_true(models.predict(masks), margins_mt, quality.lds_t)
  pictures = [
    ("brittleness.png", page.png(curves)),
    ("datamodels.png", page.png(fit)),
    ("calibration.png", page.png(_calibration(opened, models, removed, rankings))),
  ]
  pictures += _stories(opened, removed, rankings)
  (folder / "figures").mkdir(exist_ok=True)
  for name, data in pictures:
    (folder / "figures" / name).write_bytes(data)
  pictures += [(p.name, p.read_bytes()) for p in sorted(folder.glob("*.png"))]
  with (folder / "targets.csv").open() as file:
    wrong = [row for row in csv.DictReader(file) if row["right"] == "False"]
  settings = opened.settings(
    "data", "collect", "train", "gradient", "prior", "fit", "search", "compare", "flip"
  )
  summary = {
    "date": time.strftime("%Y-%m-%d"),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "jax": jax.__version__,
    "settings": settings,
    "wrong_targets": wrong,
    **summaries,
  }
  whole.write_json(folder / "summary.json", summary)
  (folder / "report.html").write_text(page.experiment_page(summary, dict(pictures)))
  return summary


if __name__ == "__main__":
  launcher.run(main)
