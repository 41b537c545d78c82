"""Sentences of the page, as the settings of the experiment have them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdm.audits.audit import MEMORISED, SUSPICIOUS
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.summary import by_method
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data import names
from jaxdm.data.dataset import Dataset

Summary = Mapping[str, Any]

_LEVEL = 0.05  # Of comparisons.
_NAMED = 3  # Of the examples of a change, in a line.


# Of the page's settings: those of the search for label flips that removals do not have.
FLIP_SEARCH = "search of label flips"


def percent(share: float) -> str:
  """A share as per cent, with all its digits: .95 is '95 %', .999 is '99.9 %'."""
  return f"{100 * share:.6g} %"


def searched_targets(summary: Summary) -> str:
  """Which targets were searched, and that models on all data get them right."""
  search = summary["brittleness"]
  count = next(iter(search["methods"].values()))["targets"]
  right = summary["train_subsets"]["num_targets"] - search["targets_wrong_on_all_data"]
  if summary["settings"]["compare"]["search_targets"]:
    which = f"{count} chosen targets"
  elif count == right:
    which = f"all {count} targets"
  else:
    which = f"a random sample of {count} of the {right} targets"
  return f"{which} that models on all data get right"


def new_labels(settings: Mapping[str, Mapping[str, Any]]) -> str:
  """Which label a flipped image has."""
  flip_to = settings["flip"]["flip_to"]
  if flip_to == "runner-up" and "retrain" in settings:  # There are no logits.
    return "the label of the class whose images lower the target's margin most"
  if flip_to == "runner-up":
    return "the label of the target's runner-up class"
  if flip_to == "best":
    return "that label, for each of them, which takes most from the target"
  return f"the label {flip_to}"


def shares(summary: Summary) -> str:
  """What the curves of flipped targets show."""
  settings = summary["settings"]
  search, methods = settings["search"], summary["brittleness"]["methods"]
  dashed = ""
  if "label_flip" in summary:
    dashed = (
      f" Dashed, beside the removals by {next(iter(methods))}: images kept under "
      f"{new_labels(settings)}."
    )
  return (
    f"Share of targets ({searched_targets(summary)}) that a change of at most so many "
    "training images makes wrong. Bars: 95 % intervals over targets. Solid: images "
    f"removed.{dashed} Every step is verified on up to "
    f"{search['verify_seeds']} models with new seeds, at "
    f"{percent(search['confidence'])} confidence; a target that no tried change flips "
    "stays in the denominator."
  )


def columns(summary: Summary, stage: str) -> str:
  """What the columns of a search's table are."""
  methods = summary[stage]["methods"]
  change = "removing" if stage == "brittleness" else "relabelling"
  note = (
    f"Share of {next(iter(methods.values()))['targets']} targets flipped by {change} at "
    "most such a part of their class (so many examples); by accuracy: the share that is "
    "flipped by the other definition, too, at most half of the verification's models "
    "being right; the median number of examples (k) with its 95 % interval over targets; "
    "models trained for the method, for its searches and verifications"
  )
  if any(method.get("lds") for method in methods.values()):
    note += "; and the LDS of the method's scores on held-out models"
  own = summary["settings"].get(FLIP_SEARCH) if stage == "label_flip" else None
  if own:
    values = ", ".join(f"{name} = {value}" for name, value in own.items())
    note += f". These searches had other settings than those for removals: {values}"
  return note + "."


def repairs(search: SearchConfig, count: int) -> str:
  """What the curves of repaired targets show.

  Args:
    search: its settings.
    count: of the targets.
  """
  return (
    f"Share of {count} targets that models on all data get wrong, and that a change of "
    "at most so many training images makes right. Left: the images that oppose the "
    "target most are removed; similarities and random numbers choose among the class "
    "that models predict. Right, dashed, beside the removals by the first method: images "
    "of other classes stay with the label of the target's class. Every step is verified "
    f"on up to {search.verify_seeds} models with new seeds, at "
    f"{percent(search.confidence)} confidence; a target that no tried change repairs "
    "stays in the denominator."
  )


def repair_columns(change: str) -> str:
  """What the columns of a table of repairs are."""
  verb = {"removal": "removing", "relabel": "relabelling"}[change]
  return (
    f"Share of targets repaired by {verb} at most such a part of as many examples as "
    "their class has (so many examples); by accuracy: the share that is repaired by the "
    "other definition, too, at least half of the models of the verification being right; "
    "the median number of examples with its 95 % interval over targets; models trained "
    "for the method."
  )


def comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
  """Which methods need fewer examples than others, and which do not differ.

  Args:
    rows: the fields of each `comparison.Comparison`.
  """
  if not rows:
    return "Only one method was searched, so that there is none to compare it with."
  better: dict[str, list[str]] = {}
  ties = []
  for c in rows:
    pair, counts = (c["first"], c["second"]), f"{c['wins']} to {c['losses']}"
    if c["p"] <= _LEVEL:
      better.setdefault(pair[0], []).append(f"{pair[1]} ({counts} targets)")
    else:
      ties.append(f"{pair[0]} and {pair[1]} ({counts})")
  parts = [
    f"{name} needs fewer images than {_all(rest)}" for name, rest in better.items()
  ]
  if ties and not better:
    parts.append("no clear difference between any two of them")
  elif ties:
    parts.append(f"no clear difference between {_all(ties)}")
  return (
    "Methods compared target by target (sign tests with Holm's correction, level "
    f"{percent(_LEVEL)}): {'; '.join(parts)}."
  )


def _all(names: Sequence[str]) -> str:
  """Names in a sentence."""
  *before, last = names
  return f"{', '.join(before)} and {last}" if before else last


def browser(summary: Summary) -> str:
  """What the browser of targets shows."""
  changes = ""
  if "label_flip" in summary:
    changes = f" Relabelled images have {new_labels(summary['settings'])}."
  if "repair" in summary:
    changes += (
      " Targets that models get wrong have the changes that make them right; relabelled "
      "images have the label of the target's class there."
    )
  return (
    "Choose a target to see its margins over the models on all data, the training images "
    "that support it or oppose it, and what each search found. A weight is what "
    f"the image adds to the predicted margin.{changes} The arrow keys move through the "
    "list, and a click on a column's name sorts by it."
  )


def quality(summary: Summary) -> str:
  """What the LDS and the other figures of a fit are."""
  fit, collect = summary["fit_datamodels"], summary["settings"]["collect"]
  seeds = collect["held_out_seeds"]
  times = f", each trained on {seeds} times" if seeds > 1 else ""
  ceiling = (
    "The noise ceiling bounds the LDS of any predictions, even of the expected margin. "
  )
  models, targets = (
    fit.get(f"{name}_left_out", 0) for name in ("held_out_models", "targets")
  )
  left_out = (
    f"{models} models that diverged and {targets} targets with constant margins are left "
    "out. "
  )
  return (
    "LDS is the Spearman correlation of predicted and true margin over "
    f"{fit['held_out_models']} held-out models ({collect['num_held_out']} subsets"
    f"{times}), computed per target and averaged. "
    f"{left_out if models or targets else ''}"
    f"{ceiling if fit['lds_ceiling'] else ''}"
    "Intervals are for these targets and these datamodels, over random subsets with "
    "models trained anew. The pooled correlation is Pearson's over all pairs of model "
    "and target; it is high whenever targets differ in difficulty, and is not comparable "
    "to the LDS."
  )


def extrapolation(summary: Summary) -> str:
  """What the picture of calibration shows."""
  alpha = summary["settings"]["collect"]["alpha"]
  return (
    f"Datamodels are fitted on random subsets of {percent(alpha)} of the training set, "
    "and extrapolate: to all data on the left, on the right to all data less the largest "
    "removal of each search, which no margin has chosen."
  )


def caption(dataset: Dataset, target: int, examples: np.ndarray) -> str:
  """Which target and, in order, which training examples a picture shows."""
  images = "; ".join(names.describe_example(dataset, int(i)) for i in examples)
  return (
    f"Target {names.describe_target(dataset, target)}. Training images, in order, by "
    f"index: {images}."
  )


def story_method(methods: Mapping[str, Any]) -> str:
  """The method whose removals are shown image by image: the datamodel's, or the first."""
  return "datamodel" if "datamodel" in methods else next(iter(methods))


def smallest_changes(verdicts: Sequence[Verdict]) -> list[Verdict]:
  """The claims of the method whose changes are shown one by one, the smallest first."""
  if not verdicts:
    return []
  method = story_method(by_method(verdicts))
  claims = [v for v in verdicts if v.method == method and not v.censored]
  return sorted(claims, key=lambda v: v.k)


def change_line(dataset: Dataset, verdict: Verdict) -> str:
  """A claim in one line: the target, and the first examples that are changed."""
  first = [names.describe_example(dataset, i) for i in verdict.examples[: verdict.k]]
  more = f" and {len(first) - _NAMED} more" if len(first) > _NAMED else ""
  return (
    f"target {names.describe_target(dataset, verdict.target)}: {verdict.k} changed, "
    f"by {verdict.method}: {', '.join(first[:_NAMED])}{more}"
  )


def audit(summary: Mapping[str, Any]) -> str:
  """What an audit's numbers are, from its summary."""
  consistency = percent(round(summary["mean_consistency"], 3))
  return (
    f"Every training example was predicted by {summary['models']:,} models on random "
    "subsets, of which some were trained on it. Models that were not chose the label of "
    f"{consistency} of the examples on average. They choose another class for "
    f"{summary['other_label_suggested']} of {summary['examples']:,} examples; for "
    f"{summary['suspicious']} of these, with 95 % confidence, fewer than "
    f"{percent(SUSPICIOUS)} choose the label. "
    f"{summary['memorised']} examples are memorised: with 95 % confidence, models that "
    f"were trained on them are right more often than others, by at least {MEMORISED}. "
    "Label quality is the mean probability of the label, half of it over models that "
    "were trained on the example and half over those that were not. The table audit.csv "
    "has all examples, with intervals."
  )
