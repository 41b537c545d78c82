"""The sections of the pages: tables and pictures of what an experiment found."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report_page import words
from jaxdm.report import csv_columns, summary_text
from jaxdm.report.page import TARGETS, Picture, Section, Table

# Those that a page cannot do without.
STAGES = ("train_subsets", "fit_datamodels", "brittleness")

# Tables of stages that need not have been run.
_OPTIONAL = ("label_flip", "repair", "audit")
_WRONG = 50


def of_experiment(
  summary: dict[str, Any], pictures: Mapping[str, bytes]
) -> list[Section]:
  """The sections of the page on one experiment.

  Args:
    summary: what the report launcher writes to summary.json.
    pictures: PNG files by name; those of targets begin with 'target_'.
  """
  method = words.story_method(summary["brittleness"]["methods"])
  stories = _stories(summary, pictures, "target_")
  sections = [
    Section(
      "shares",
      "How few training images make a prediction wrong",
      pictures=[
        Picture(
          pictures["brittleness.png"],
          "Curves: the share of targets flipped against the number of images changed",
          words.shares(summary),
        )
      ],
    ),
    Section(TARGETS, "The targets one by one", [words.browser(summary)]),
    _search(
      "removals",
      "Removals",
      summary["brittleness"],
      words.columns(summary, "brittleness"),
    ),
    *_flips(summary),
    Section(
      "stories",
      f"Targets that the fewest removals flip, chosen by {method}",
      [] if stories else ["None is flipped."],
      stories,
    ),
    _quality(summary, pictures),
    *_studies(summary, pictures),
    *_repairs(summary, pictures),
    *_audit(summary, pictures),
    _wrong(summary),
    _columns(_described_tables(summary)),
    settings(summary["settings"]),
    runs(summary["provenance"]),
  ]
  return mixtures(summary) + sections


def of_fit(summary: dict[str, Any], picture: bytes, missing: str) -> list[Section]:
  """The sections of the page on datamodels alone.

  Args:
    summary: what the report launcher writes to summary.json.
    picture: a PNG file, of predicted and true margins.
    missing: what the page would need more for the rest.
  """
  rows = fit_rows(summary["fit_datamodels"])
  return [
    *mixtures(summary),
    Section(
      "quality",
      "How good the datamodels are",
      [words.quality(summary)],
      [_predictions(picture)],
      [Table(("", "value", "95 % interval"), rows)],
    ),
    Section("missing", "What is not here", [missing]),
    settings(summary["settings"]),
    runs(summary["provenance"]),
  ]


def _described_tables(summary: dict[str, Any]) -> list[str]:
  """The names of the tables that were written."""
  names = dict.fromkeys((*csv_columns.PIPELINE, *_OPTIONAL))
  return [name for name in names if name not in _OPTIONAL or name in summary]


def _flips(summary: dict[str, Any]) -> list[Section]:
  """The section on label flips, if they were searched."""
  stage = "label_flip"
  if stage not in summary:
    return []
  return [_search("flips", "Label flips", summary[stage], words.columns(summary, stage))]


def _search(name: str, heading: str, summary: Mapping[str, Any], caption: str) -> Section:
  """A search's methods side by side.

  Args:
    name: of the section.
    heading: of the section.
    summary: the summary of the search, with comparisons if there are any.
    caption: what the columns are.
  """
  methods = summary["methods"]
  has_lds = any(s.get("lds") for s in methods.values())
  header = ["method", *summary_text.parts(methods), "in all", "by accuracy", "median k"]
  header += ["models trained"] + (["LDS"] if has_lds else [])
  rows = []
  for method, s in methods.items():
    shares = [f"{share:.2f}" for share in summary_text.shares(methods, method)]
    row = [method, *shares]
    row += [f"{x:.2f}" for x in (s["share_flipped"], summary_text.by_accuracy(s))]
    row += [summary_text.median_cell(s), f"{s['models_used']:,}"]
    rows.append(row + ([_estimate(s.get("lds"))] if has_lds else []))
  texts = []
  if unfinished := sum(s["unfinished"] for s in methods.values()):
    texts.append(
      f"The budget of retrained models ran out: {unfinished} searches are not finished. "
      "They count as not flipped unless they have a claim, so that shares are lower "
      "bounds."
    )
  if unchecked := summary_text.unchecked(methods):
    texts.append(f"{unchecked}.")
  if comparisons := summary.get("comparisons"):
    texts.append(words.comparisons(comparisons))
  return Section(name, heading, texts, tables=[Table(header, rows, caption)])


def _quality(summary: dict[str, Any], pictures: Mapping[str, bytes]) -> Section:
  """How good the models and the datamodels are."""
  trained = summary["train_subsets"]
  rows = [
    ("accuracy of models on all data", f"{trained['base_accuracy']:.1%}", ""),
    ("accuracy of models on subsets", f"{trained['subset_accuracy']:.1%}", ""),
    *fit_rows(summary["fit_datamodels"]),
  ]
  calibration = Picture(
    pictures["calibration.png"],
    "Margins that datamodels predict against margins of models that were trained so",
    words.extrapolation(summary),
  )
  return Section(
    "quality",
    "How good the datamodels are",
    [words.quality(summary)],
    [_predictions(pictures["datamodels.png"]), calibration],
    [Table(("", "value", "95 % interval"), rows)],
  )


def _predictions(picture: bytes) -> Picture:
  """Predicted and true margins."""
  return Picture(
    picture,
    "Margins of held-out models against predictions, and a histogram of the LDS",
    "Left: one target; every dot is a held-out model. Right: the LDS of all targets.",
  )


def _estimate(interval: Mapping[str, float] | None) -> str:
  """An estimate with its interval, where there is one."""
  return summary_text.interval(interval) if interval else ""


def _ends(interval: Mapping[str, float]) -> str:
  """An interval in words."""
  return f"{interval['low']:.3f} to {interval['high']:.3f}"


def _stories(
  summary: dict[str, Any],
  pictures: Mapping[str, bytes],
  beginning: str,
  alt: str = "A target and training images",
) -> list[Picture]:
  """The pictures of images whose names begin so, and where their images are."""
  captions = summary.get("captions", {})
  return [
    Picture(data, f"{alt}: {name}", captions.get(name, ""))
    for name, data in pictures.items()
    if name.startswith(beginning)
  ]


def _studies(summary: dict[str, Any], pictures: Mapping[str, bytes]) -> list[Section]:
  """What the launchers beside the pipeline have drawn."""
  sections = []
  if stories := _stories(summary, pictures, "explain_"):
    heading = "Targets one by one, by retraining"
    sections.append(Section("explained", heading, pictures=stories))
  if "efficiency.png" in pictures:
    picture = Picture(
      pictures["efficiency.png"],
      "Curves: the LDS against the number of models that datamodels are fitted to",
      "LDS on held-out models, with 95 % bands, against the number of models on random "
      "subsets that each way of fitting uses. Dotted: scores that need no such models.",
    )
    heading = "How many models a good datamodel takes"
    sections.append(Section("efficiency", heading, pictures=[picture]))
  return sections


def _repairs(summary: dict[str, Any], pictures: Mapping[str, bytes]) -> list[Section]:
  """What makes wrong predictions right, if that was searched."""
  if "repair" not in summary or "repair.png" not in pictures:
    return []
  shares = Picture(
    pictures["repair.png"],
    "Curves: the share of targets repaired against the number of images changed",
    summary["repair"]["caption"],
  )
  stories = _stories(summary, pictures, "repair_")
  heading = "How few training images make wrong predictions right"
  return [
    Section("repairs", heading, pictures=[shares, *stories]),
    *(
      _search(
        f"repairs-{change}",
        f"Repairs by {change}",
        {"methods": methods},
        words.repair_columns(change),
      )
      for change, methods in summary["repair"]["methods"].items()
    ),
  ]


def _audit(summary: dict[str, Any], pictures: Mapping[str, bytes]) -> list[Section]:
  """What models say of the training examples, if they were audited."""
  if "audit" not in summary:
    return []
  stories = _stories(summary, pictures, "audit_", "Training images")
  heading = "What the models say of the training examples"
  return [Section("audit", heading, [words.audit(summary["audit"])], stories)]


def _wrong(summary: dict[str, Any]) -> Section:
  """The targets that are not searched, since models get them wrong without a change."""
  name, heading = "wrong", "Targets that models on all data get wrong"
  wrong = summary["wrong_targets"]
  if not wrong:
    return Section(name, heading, ["None."])
  header = ("target", "class", "source", "accuracy", "mean margin")
  rows = [
    (
      row["target"],
      row["class"],
      row["source"],
      f"{float(row['base_accuracy']):.2f}",
      f"{float(row['base_mean_margin']):.2f}",
    )
    for row in wrong[:_WRONG]
  ]
  note = (
    f"{len(wrong)} of {summary['train_subsets']['num_targets']}; not searched for "
    "brittleness. A search for repairs finds what would make them right."
  )
  if len(wrong) > _WRONG:
    note += f" The first {_WRONG}; targets.csv has all."
  return Section(name, heading, [note], tables=[Table(header, rows)])


def mixtures(summary: dict[str, Any]) -> list[Section]:
  """What to know of results that not one and the same software made."""
  texts = [f"{sentence}." for sentence in summary["mixtures"]]
  return [Section("mixtures", "Made by several versions", texts)] if texts else []


def _columns(names: Sequence[str]) -> Section:
  """What the columns of the CSV files are."""
  columns = [
    Table(
      ("column", "meaning"),
      list(csv_columns.COLUMNS.get(name, {}).items()),
      f"{name}.csv",
      is_text=True,
    )
    for name in names
  ]
  heading = "What the columns of the CSV files mean"
  return Section("columns", heading, tables=columns, folded=True)


def settings(groups: Mapping[str, Mapping[str, Any]]) -> Section:
  """All settings, a row each."""
  rows = [(f"{g}.{k}", v) for g, values in groups.items() for k, v in values.items()]
  table = Table(("setting", "value"), rows, is_text=True)
  return Section("settings", "Settings", tables=[table], folded=True)


def runs(provenance: Mapping[str, Mapping[str, Any]]) -> Section:
  """What made each stage."""
  header = ("stage", "begun", "finished", "seconds", "starts", "processes", "devices")
  rows = [
    (
      stage,
      run["started"] or "not recorded",
      run["finished"],
      f"{run['seconds']:,.1f}",
      run["starts"],
      run["processes"],
      " or ".join(run["devices"]),
      " or ".join(
        ", ".join(f"{name} {version}" for name, version in maker.items())
        for maker in run["made_by"]
      ),
    )
    for stage, run in provenance.items()
  ]
  note = (
    "Seconds are those of all starts and all processes together, killed ones included."
  )
  table = Table((*header, "versions"), rows, note)
  return Section("runs", "Runs", tables=[table], folded=True)


def fit_rows(fit: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """What a fit's summary says of it, and 95 % intervals."""
  lds, pooled, top = fit["lds"], fit["pooled_correlation"], fit["lds_ceiling"]
  rows = [("LDS", f"{lds['estimate']:.3f}", _ends(lds))]
  if top:
    ceiling = f"{top['estimate']:.3f}", _ends(top)
    rows.append(("noise ceiling: the LDS of a perfect prediction", *ceiling))
  correlation = f"{pooled['estimate']:.3f}", _ends(pooled)
  rows.append(("pooled correlation", *correlation))
  if fit["mean_nonzero_weights"] < fit.get("num_train", math.inf):
    count = f"{fit['mean_nonzero_weights']:.0f}"
    rows.append(("weights of a target that are not 0, mean", count, ""))
  if "bias_on_full_data" in fit:
    rows.append(("bias on full data, logits", f"{fit['bias_on_full_data']:.3f}", ""))
  rows.append(("models that were fitted to", f"{fit['models_fitted_to']:,}", ""))
  return [*rows, ("prior that they chose", fit["prior"], "")]
