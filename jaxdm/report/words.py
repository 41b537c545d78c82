"""Sentences of the page, as the settings of the experiment have them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdm.data.dataset import Dataset

Summary = Mapping[str, Any]


def percent(share: float) -> str:
  """A share as per cent, with all its digits: .95 is '95 %', .999 is '99.9 %'."""
  return f"{100 * share:.6g} %"


def searched_targets(summary: Summary) -> str:
  """Which targets were searched, and that models on all data get them right."""
  found = summary["brittleness"]
  count = next(iter(found["methods"].values()))["targets"]
  right = summary["train_subsets"]["num_targets"] - found["targets_wrong_on_all_data"]
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
  return (
    f"Share of targets ({searched_targets(summary)}) that a change of at most so many "
    "training images makes wrong, with 95 % bands over targets. Solid: images removed. "
    f"Dashed, beside the removals by {next(iter(methods))}: images kept under "
    f"{new_labels(settings)}. Every step is verified on up to "
    f"{search['verify_seeds']} models with fresh seeds, at "
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
    "flipped by the other definition, too, at most half of the models of the proof being "
    "right; the median number of examples with its 95 % interval over targets; models "
    "trained for the method"
  )
  if any(method.get("lds") for method in methods.values()):
    note += "; and the LDS of the method's scores on held-out models"
  return note + "."


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
  images = "; ".join(f"{i}: {dataset.train_sources[i]}" for i in examples)
  return (
    f"Target {target}: {dataset.test_sources[target]}. Training images, in order, by "
    f"index: {images}."
  )


def story_method(methods: Mapping[str, Any]) -> str:
  """The method whose removals are shown image by image: the datamodel's, or the first."""
  return "datamodel" if "datamodel" in methods else next(iter(methods))


def audit(found: Mapping[str, Any]) -> str:
  """What an audit's numbers are, from its summary."""
  consistency = percent(round(found["mean_consistency"], 3))
  return (
    f"Every training example was predicted by {found['models']:,} models on random "
    "subsets, of which some were trained on it. Models that were not chose the label of "
    f"{consistency} of the examples on average. They choose another class for "
    f"{found['other_label_suggested']} of {found['examples']:,} examples; for "
    f"{found['suspicious']} of these the label quality and its interval are below 0.5. "
    f"{found['memorised']} examples are memorised: with 95 % confidence, models trained "
    "on them are right more often than others, by at least 0.25. Label quality is the "
    "mean probability of the label, half of it over models that were trained on the "
    "example and half over those that were not. The table audit.csv has all examples, "
    "with intervals."
  )
