"""One HTML page that needs no other file."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from jaxdm.report import tables, words

STAGES = ("train_subsets", "fit_datamodels", "brittleness", "label_flip")

_WRONG = 50
_DPI = 120

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
  """A figure as PNG bytes, whatever backend the process draws with."""
  buffer = io.BytesIO()
  fig.set_dpi(_DPI)
  backend_agg.FigureCanvasAgg(fig).print_png(buffer)
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


def _verdict_table(summary: dict[str, Any], stage: str) -> str:
  """A stage's methods side by side."""
  methods = summary[stage]["methods"]
  has_lds = any(s.get("lds") for s in methods.values())
  rows = []
  for method, s in methods.items():
    shares = [f"{share:.2f}" for share in s["share_flipped_within"].values()]
    beyond = f"> {s['largest_k_tried']}"
    median, low, high = (beyond if k is None else f"{k:g}" for k in s["median_k"])
    row = [
      method,
      *shares,
      f"{s['share_flipped']:.2f}",
      f"{s['share_mostly_wrong']:.2f}",
      f"{median} [{low}, {high}]",
      s["models_used"],
    ]
    rows.append(row + ([_estimate(s.get("lds"))] if has_lds else []))
  header = ["method", *tables.parts(methods), "in all", "by accuracy", "median size"]
  header += ["models used"] + (["LDS"] if has_lds else [])
  if has_lds and (ceiling := tables.ceiling_of(methods)):
    rows.append(["noise ceiling", *([""] * (len(header) - 2)), _estimate(ceiling)])
  note = paragraph(words.columns(summary, stage), note=True)
  if left := sum(s["unfinished"] for s in methods.values()):
    note += paragraph(
      f"The budget of retrained models ran out: {left} searches are not finished."
    )
  if unchecked := tables.unchecked(methods):
    note += paragraph(f"{unchecked}.")
  return table(header, rows) + note


def _estimate(found: Mapping[str, float] | None) -> str:
  """An estimate with its interval, where there is one."""
  return "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**found) if found else ""


def _ends(interval: Mapping[str, float]) -> str:
  """An interval in words."""
  return f"{interval['low']:.3f} to {interval['high']:.3f}"


def _stories(
  summary: dict[str, Any], pictures: Mapping[str, bytes], beginning: str
) -> str:
  """The pictures of single targets whose names begin so, and where their images are."""
  captions = summary.get("captions", {})
  return "".join(
    image(data, name) + paragraph(captions.get(name, ""), note=True)
    for name, data in pictures.items()
    if name.startswith(beginning)
  )


def _extras(
  summary: dict[str, Any], pictures: Mapping[str, bytes]
) -> list[tuple[str, str]]:
  """What the launchers beside the pipeline have drawn."""
  stories = _stories(summary, pictures, "explain_")
  found = [("Targets one by one, by retraining", stories)] if stories else []
  if "efficiency.png" in pictures:
    picture = image(pictures["efficiency.png"], "LDS by the number of models")
    found.append(("How many models a good datamodel takes", picture))
  if "audit" in summary:
    text = paragraph(words.audit(summary["audit"]))
    text += _stories(summary, pictures, "audit_")
    found.append(("What the models say of the training examples", text))
  return found


def _wrong_table(summary: dict[str, Any]) -> str:
  """The targets that are not searched, since nothing holds them up."""
  wrong = summary["wrong_targets"]
  if not wrong:
    return paragraph("None.")
  header = ("target", "class", "source", "accuracy", "mean margin")
  rows = [
    (
      row["target"],
      row["class"],
      row.get("source", ""),  # Tables of earlier versions have none.
      f"{float(row['base_accuracy']):.2f}",
      f"{float(row['base_mean_margin']):.2f}",
    )
    for row in wrong[:_WRONG]
  ]
  note = f"{len(wrong)} of {summary['train_subsets']['num_targets']}; not searched."
  if len(wrong) > _WRONG:
    note += f" The first {_WRONG}; targets.csv has all."
  return paragraph(note, note=True) + table(header, rows)


def _mixtures(sentences: Sequence[str]) -> str:
  """What to know of results that not one and the same software made."""
  return "".join(paragraph(f"{sentence}.") for sentence in sentences)


def _run_table(provenance: Mapping[str, Mapping[str, Any]]) -> str:
  """What made each stage."""
  header = ("stage", "begun", "finished", "seconds", "starts", "processes", "devices")
  rows = [
    (
      stage,
      made["started"] or "not recorded",
      made["finished"],
      f"{made['seconds']:,.1f}",
      made["starts"],
      made["processes"],
      " or ".join(made["devices"]),
      " or ".join(
        ", ".join(f"{name} {version}" for name, version in maker.items())
        for maker in made["made_by"]
      ),
    )
    for stage, made in provenance.items()
  ]
  note = (
    "Seconds are those of all starts and all processes together, killed ones included."
  )
  return table((*header, "versions"), rows) + paragraph(note, note=True)


def _fit_rows(fit: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """What a fit's summary says of it, and 95 % intervals."""
  lds, pooled, top = fit["lds"], fit["pooled_correlation"], fit["lds_ceiling"]
  found = [
    ("LDS", f"{lds['estimate']:.3f}", _ends(lds)),
    ("pooled correlation", f"{pooled['estimate']:.3f}", _ends(pooled)),
  ]
  if fit["mean_nonzero_weights"] < fit.get("num_train", math.inf):
    count = f"{fit['mean_nonzero_weights']:.0f}"
    found.append(("weights of a target that are not 0, mean", count, ""))
  if top:
    found.append(("noise ceiling of the LDS", f"{top['estimate']:.3f}", _ends(top)))
  if "bias_on_full_data" in fit:
    found.append(("bias on full data, logits", f"{fit['bias_on_full_data']:.3f}", ""))
  found.append(("models that were fitted to", f"{fit['models_fitted_to']:,}", ""))
  return [*found, ("prior that they chose", fit["prior"], "")]


def fit_page(summary: dict[str, Any], picture: bytes, missing: str) -> str:
  """The page on datamodels of models that others trained, without their images.

  Args:
    summary: what the report launcher writes to summary.json.
    picture: a PNG of predicted and true margins.
    missing: a sentence on what the rest of a report would need.
  """
  fit = summary["fit_datamodels"]
  sections = [
    (
      "How good the datamodels are",
      table(("", "value", "95 % interval"), _fit_rows(fit))
      + image(picture, "predicted and true margins")
      + paragraph(words.quality(summary), note=True),
    ),
    ("What is not here", paragraph(missing)),
    ("Settings", settings_table(summary["settings"])),
    ("Runs", _run_table(summary["provenance"])),
  ]
  if summary["mixtures"]:
    sections.insert(0, ("Made by several versions", _mixtures(summary["mixtures"])))
  return page("How well training sets predict margins", sections)


def experiment_page(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
  """The page on one experiment.

  Args:
    summary: what the report launcher writes to summary.json.
    pictures: PNG bytes by file name; those of targets begin with 'target_'.
  """
  trained = summary["train_subsets"]
  quality_rows = [
    ("accuracy of models on all data", f"{trained['base_accuracy']:.1%}", ""),
    ("accuracy of models on subsets", f"{trained['subset_accuracy']:.1%}", ""),
    *_fit_rows(summary["fit_datamodels"]),
  ]
  stories = _stories(summary, pictures, "target_")
  method = words.story_method(summary["brittleness"]["methods"])
  sections = [
    (
      "How few training images hold a prediction up",
      image(pictures["brittleness.png"], "share of targets flipped by size")
      + paragraph(words.shares(summary)),
    ),
    ("Removals", _verdict_table(summary, "brittleness")),
    ("Label flips", _verdict_table(summary, "label_flip")),
    (
      f"Targets that the fewest removals flip, chosen by {method}",
      stories or paragraph("None is flipped."),
    ),
    (
      "How good the datamodels are",
      table(("", "value", "95 % interval"), quality_rows)
      + image(pictures["datamodels.png"], "predicted and true margins")
      + paragraph(words.quality(summary), note=True)
      + image(pictures["calibration.png"], "margins predicted and found by retraining")
      + paragraph(words.extrapolation(summary), note=True),
    ),
    *_extras(summary, pictures),
    ("Targets that models on all data get wrong", _wrong_table(summary)),
    ("Settings", settings_table(summary["settings"])),
    ("Runs", _run_table(summary["provenance"])),
  ]
  if summary["mixtures"]:
    sections.insert(0, ("Made by several versions", _mixtures(summary["mixtures"])))
  return page("What these predictions hang on", sections)
