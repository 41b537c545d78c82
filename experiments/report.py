"""Draws what the other stages found: figures, summary.json and report.html.

python -m experiments.report --workdir=runs/fashion
"""

import time
from typing import Any

import jax

from experiments import fit_datamodels, lab, launcher
from jaxdm import bank
from jaxdm.report import figures, page, tables

_STAGES = ("train_subsets", "fit_datamodels", "brittleness", "label_flip")
_STORIES = 4


def _verdict_table(summary: dict[str, Any]) -> str:
  """A stage's methods side by side."""
  rows = [
    (
      method,
      f"{s['share_flipped']:.0%} of {s['targets']}",
      "more than " + str(s["largest_k_tried"])
      if s["median_k"] is None
      else f"{s['median_k']:g}",
      s["models_used"],
    )
    for method, s in summary.items()
    if method != "seconds"
  ]
  return page.table(("method", "targets flipped", "median size", "models used"), rows)


def _stories(opened: lab.Lab, verdicts: list, changed: list) -> list[tuple[str, bytes]]:
  """Pictures of the targets that fewest removals flip, as (name, PNG)."""
  data, base = opened.dataset, opened.base_models()
  found = [
    (v, examples)
    for v, examples in zip(verdicts, changed, strict=True)
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
        f"{verdict.accuracy:.0%} without these {verdict.k} images; "
        f"mean margin {verdict.mean_margin:.2f} "
        f"[{verdict.margin_low:.2f}, {verdict.margin_high:.2f}]"
      ),
      removed_titles=[data.class_names[data.train_labels[e]] for e in examples],
    )
    pictures.append((f"target_{verdict.target}.png", page.png(fig)))
  return pictures


def main(opened: lab.Lab) -> dict[str, Any]:
  """Writes every figure, the summary and the page."""
  folder = opened.workdir.path
  summaries = {stage: opened.workdir.summary(stage) for stage in _STAGES}
  removed, examples = tables.read_verdicts(folder / "brittleness.csv")
  flipped, _ = tables.read_verdicts(folder / "label_flip.csv")
  models = fit_datamodels.fitted(opened)
  masks, margins_mt = fit_datamodels.finite_rows(opened, held_out=True)
  class_size = round(len(opened.labels) / opened.dataset.num_classes)
  curves = figures.cumulative_share(
    tables.by_method(removed), tables.by_method(flipped), class_size=class_size
  )
  quality = models.evaluate(masks, margins_mt, seed=opened.seed)
  fit = figures.predicted_against_true(models.predict(masks), margins_mt, quality.lds_t)
  pictures = [("brittleness.png", page.png(curves)), ("datamodels.png", page.png(fit))]
  pictures += _stories(opened, removed, examples)
  (folder / "figures").mkdir(exist_ok=True)
  for name, data in pictures:
    (folder / "figures" / name).write_bytes(data)
  settings = opened.settings("data", "collect", "train", "prior", "fit", "search")
  summary = {
    "date": time.strftime("%Y-%m-%d"),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "jax": jax.__version__,
    "settings": settings,
    **summaries,
  }
  bank.write_json(folder / "summary.json", summary)
  (folder / "report.html").write_text(_html(summary, dict(pictures)))
  return summary


def _html(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
  """The page, from the summary and the pictures."""
  trained, fit = summary["train_subsets"], summary["fit_datamodels"]
  lds, pooled = fit["lds"], fit["pooled_correlation"]
  config = summary["settings"]["search"]
  quality_rows = [
    ("accuracy of models on all data", f"{trained['base_accuracy']:.1%}", ""),
    ("accuracy of models on subsets", f"{trained['subset_accuracy']:.1%}", ""),
    ("LDS", f"{lds['estimate']:.3f}", f"{lds['low']:.3f} to {lds['high']:.3f}"),
    (
      "pooled correlation",
      f"{pooled['estimate']:.3f}",
      f"{pooled['low']:.3f} to {pooled['high']:.3f}",
    ),
    ("weights that are not 0, mean", f"{fit['mean_nonzero_weights']:.0f}", ""),
    ("bias on full data, logits", f"{fit['bias_on_full_data']:.3f}", ""),
  ]
  stories = [page.image(data, n) for n, data in pictures.items() if "target" in n]
  sections = [
    (
      "How few training images hold a prediction up",
      page.image(pictures["brittleness.png"], "share of targets flipped by size")
      + page.paragraph(
        "Share of the sampled targets, all right under models on all data, that "
        "a change of at most so many training images makes wrong. Solid: images "
        "removed. Dashed: images kept under the runner-up's label. Every step is "
        f"verified on {config['verify_seeds']} models with fresh seeds, at "
        f"{config['confidence']:.0%} confidence; a target that no tried change "
        "flips stays in the denominator."
      ),
    ),
    ("Removals", _verdict_table(summary["brittleness"])),
    ("Label flips", _verdict_table(summary["label_flip"])),
    ("The targets that fewest removals flip", "".join(stories)),
    (
      "How good the datamodels are",
      page.table(("on held-out models", "value", "95 % interval"), quality_rows)
      + page.image(pictures["datamodels.png"], "predicted and true margins")
      + page.paragraph(
        "LDS is the Spearman correlation of predicted and true margin over "
        f"{fit['held_out_models']} held-out models, each trained once, computed "
        "per target and averaged. The pooled correlation is Pearson's over all "
        "pairs of model and target; it is high whenever targets differ in "
        "difficulty, and is not comparable to the LDS.",
        note=True,
      ),
    ),
    ("Settings", page.settings_table(summary["settings"])),
    (
      "Run",
      page.paragraph(
        f"{summary['date']}, {summary['device']}, JAX {summary['jax']}; seconds: "
        + ", ".join(f"{s} {summary[s]['seconds']}" for s in _STAGES)
      ),
    ),
  ]
  return page.page("What these predictions hang on", sections)


if __name__ == "__main__":
  launcher.run(main)
