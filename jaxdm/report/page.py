"""One HTML page that needs no other file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

from jaxdm.report import tables

STAGES = ("train_subsets", "fit_datamodels", "brittleness", "label_flip")

_WRONG = 50

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
p.note { color: #555; }
"""


def png(fig: mpl_figure.Figure) -> bytes:
  """A figure as PNG bytes."""
  buffer = io.BytesIO()
  fig.savefig(buffer, format="png", dpi=120)
  return buffer.getvalue()


def image(data: bytes, alt: str) -> str:
  """An image with its bytes inside the page."""
  text = base64.b64encode(data).decode()
  return f'<img src="data:image/png;base64,{text}" alt="{html.escape(alt)}">'


def paragraph(text: str, *, note: bool = False) -> str:
  """A paragraph of plain text."""
  return f"<p{' class=note' if note else ''}>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table of plain values."""

  def line(cells: Sequence[Any], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"

  return f"<table>{line(header, 'th')}{''.join(line(r, 'td') for r in rows)}</table>"


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> str:
  """All settings, a row each."""
  rows = [(f"{g}.{k}", v) for g, values in settings.items() for k, v in values.items()]
  return table(("setting", "value"), rows)


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
  """The whole page.

  Args:
    title: its heading.
    sections: (heading, HTML) pairs.
  """
  body = "".join(f"<h2>{html.escape(name)}</h2>{inner}" for name, inner in sections)
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    f"<body><h1>{html.escape(title)}</h1>{body}</body></html>"
  )


def _verdict_table(summary: dict[str, Any]) -> str:
  """A stage's methods side by side."""
  methods = summary["methods"]
  parts = tables.parts(methods)
  rows = []
  for method, s in methods.items():
    lds = s.get("lds")
    shares = [f"{share:.2f}" for share in s["share_flipped_within"].values()]
    beyond = f"> {s['largest_k_tried']}"
    median, low, high = (beyond if k is None else f"{k:g}" for k in s["median_k"])
    rows.append(
      (
        method,
        *shares,
        f"{s['share_flipped']:.2f}",
        f"{s['share_mostly_wrong']:.2f}",
        f"{median} [{low}, {high}]",
        s["models_used"],
        f"{lds['estimate']:.3f} [{lds['low']:.3f}, {lds['high']:.3f}]" if lds else "",
      )
    )
  if ceiling := tables.ceiling_of(methods):
    lds_text = "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**ceiling)
    rows.append(("noise ceiling", *("" for _ in parts), "", "", "", "", lds_text))
  header = ("method", *parts, "in all", "by accuracy", "median size")
  targets = next(iter(methods.values()))["targets"]
  note = paragraph(
    f"Share of {targets} targets flipped by changing at most such a part of their class "
    "(so many examples); by accuracy: the share that is flipped by the other definition, "
    "too, at most half of the models of the proof being right; the median number of "
    "examples with its 95 % interval, models trained for it, and the LDS of the method's "
    "scores on held-out models.",
    note=True,
  )
  if left := sum(s["unfinished"] for s in methods.values()):
    note += paragraph(f"--budget_models ran out: {left} searches are not finished.")
  if unchecked := tables.unchecked(methods):
    note += paragraph(f"{unchecked}.")
  return table((*header, "models used", "LDS"), rows) + note


def _ends(interval: Mapping[str, float]) -> str:
  """An interval in words."""
  return f"{interval['low']:.3f} to {interval['high']:.3f}"


def _extras(pictures: Mapping[str, bytes]) -> list[tuple[str, str]]:
  """What the launchers beside the pipeline have drawn."""
  stories = [image(data, n) for n, data in pictures.items() if n.startswith("explain_")]
  found = [("Targets one by one, by retraining", "".join(stories))] if stories else []
  if "efficiency.png" in pictures:
    picture = image(pictures["efficiency.png"], "LDS by the number of models")
    found.append(("How many models a good datamodel takes", picture))
  return found


def _wrong_table(summary: dict[str, Any]) -> str:
  """The targets that are not searched, since nothing holds them up."""
  wrong = summary["wrong_targets"]
  if not wrong:
    return paragraph("None.")
  header = ("target", "class", "accuracy", "mean margin")
  rows = [
    (
      row["target"],
      row["class"],
      f"{float(row['base_accuracy']):.2f}",
      f"{float(row['base_mean_margin']):.2f}",
    )
    for row in wrong[:_WRONG]
  ]
  note = f"{len(wrong)} of {summary['train_subsets']['num_targets']}; not searched."
  if len(wrong) > _WRONG:
    note += f" The first {_WRONG}; targets.csv has all."
  return paragraph(note, note=True) + table(header, rows)


def experiment_page(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
  """The page on one experiment.

  Args:
    summary: what the report launcher writes to summary.json.
    pictures: PNG bytes by file name; those of targets have 'target' in it.
  """
  trained, fit = summary["train_subsets"], summary["fit_datamodels"]
  lds, pooled, top = fit["lds"], fit["pooled_correlation"], fit["lds_ceiling"]
  config = summary["settings"]["search"]
  quality_rows = [
    ("accuracy of models on all data", f"{trained['base_accuracy']:.1%}", ""),
    ("accuracy of models on subsets", f"{trained['subset_accuracy']:.1%}", ""),
    ("LDS", f"{lds['estimate']:.3f}", _ends(lds)),
    ("pooled correlation", f"{pooled['estimate']:.3f}", _ends(pooled)),
    ("weights that are not 0, mean", f"{fit['mean_nonzero_weights']:.0f}", ""),
    *(
      [("noise ceiling of the LDS", f"{top['estimate']:.3f}", _ends(top))] if top else []
    ),
    ("bias on full data, logits", f"{fit['bias_on_full_data']:.3f}", ""),
  ]
  stories = [image(data, n) for n, data in pictures.items() if "target" in n]
  sections = [
    (
      "How few training images hold a prediction up",
      image(pictures["brittleness.png"], "share of targets flipped by size")
      + paragraph(
        "Share of the sampled targets, all right under models on all data, that "
        "a change of at most so many training images makes wrong, with 95 % "
        "bands over targets. Solid: images removed. Dashed: images kept under the "
        "runner-up's label. Every step is "
        f"verified on up to {config['verify_seeds']} models with fresh seeds, at "
        f"{config['confidence']:.0%} confidence; a target that no tried change "
        "flips stays in the denominator."
      ),
    ),
    ("Removals", _verdict_table(summary["brittleness"])),
    ("Label flips", _verdict_table(summary["label_flip"])),
    ("The targets that fewest removals flip", "".join(stories)),
    (
      "How good the datamodels are",
      table(("on held-out models", "value", "95 % interval"), quality_rows)
      + image(pictures["datamodels.png"], "predicted and true margins")
      + paragraph(
        "LDS is the Spearman correlation of predicted and true margin over "
        f"{fit['held_out_models']} held-out models, computed per target and averaged. "
        f"{fit.get('held_out_models_left_out', 0)} models that diverged and "
        f"{fit.get('targets_left_out', 0)} targets with constant margins are left out. "
        "The noise ceiling bounds the LDS of any predictions, even of the expected "
        "margin. Intervals are for these targets and these datamodels, over random "
        "subsets with models trained anew. The pooled "
        "correlation is Pearson's over all pairs of model and target; it is high "
        "whenever targets differ in difficulty, and is not comparable to the LDS.",
        note=True,
      )
      + image(pictures["calibration.png"], "margins predicted and found by retraining")
      + paragraph(
        "Datamodels are fitted on random subsets and extrapolate: to all data on the "
        "left, on the right to all data less the largest removal of each search, which "
        "no margin has chosen.",
        note=True,
      ),
    ),
    *_extras(pictures),
    ("Targets that models on all data get wrong", _wrong_table(summary)),
    ("Settings", settings_table(summary["settings"])),
    (
      "Run",
      paragraph(
        f"{summary['date']}, {summary['device']}, JAX {summary['jax']}; seconds: "
        + ", ".join(f"{s} {summary[s]['seconds']}" for s in STAGES)
      ),
    ),
  ]
  return page("What these predictions hang on", sections)
