"""The page's first paragraphs: what was found, for a reader who knows no term of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report_page import words
from jaxdm.report import summary_text

# Models on all data that are less than this much better than a constant answer are poor.
_LEAST_GAIN = 0.15
_LEAST_LDS = 0.2


def opening(summary: words.Summary) -> list[str]:
  """Some sentences on the models, the datamodels, the searches and the methods.

  Args:
    summary: what the report launcher writes to summary.json.
  """
  return [
    _models(summary),
    _datamodels(summary),
    _searches(summary),
    words.comparisons(summary["brittleness"]["comparisons"]),
    _censored(summary),
  ]


def warning(summary: words.Summary) -> str:
  """What a reader must know before anything else; empty if there is no such thing."""
  accuracy = summary["train_subsets"]["base_accuracy"]
  return poor_models(accuracy, summary["constant_accuracy"])


def poor_models(accuracy: float, constant: float) -> str:
  """A warning if models are hardly better than a constant answer; else empty.

  Args:
    accuracy: share of targets that models on all data get right.
    constant: that of a constant answer, see `constant_accuracy`.
  """
  if accuracy >= constant + _LEAST_GAIN * (1 - constant):
    return ""
  return (
    "These models are poor: they have hardly learned the task, and what their "
    "predictions depend on says little. Train longer, on larger images, or on more of "
    "them."
  )


def constant_accuracy(target_labels: np.ndarray) -> float:
  """The largest share of targets that the same answer for all of them gets right."""
  return float(np.bincount(target_labels).max() / len(target_labels))


def accuracies(accuracy: float, constant: float) -> str:
  """The accuracy of models on all data beside that of a constant answer, in words."""
  return (
    f"models on all data classify {_percent(accuracy)} of the targets correctly; a "
    f"constant answer is correct for {_percent(constant)}"
  )


def _models(summary: words.Summary) -> str:
  """How good the models are."""
  trained = summary["train_subsets"]
  accuracy, constant = trained["base_accuracy"], summary["constant_accuracy"]
  share = words.percent(summary["settings"]["collect"]["alpha"])
  text = (
    f"Models trained on all {trained['num_train']:,} training images classify "
    f"{_percent(accuracy)} of the {trained['num_targets']:,} targets correctly, models "
    f"trained on random {share} of the images {_percent(trained['subset_accuracy'])}. "
    f"(A constant answer is correct for {_percent(constant)}.)"
  )
  hardly = summary["hardly_right"]
  if hardly and not poor_models(accuracy, constant):
    text += (
      f" Targets that were searched but are hardly right: {hardly}. Their mean margin is "
      "not clearly above 0 even before any change (its 95 % interval contains 0), so a "
      "small change flips them."
    )
  return text


def _percent(share: float) -> str:
  """A share as per cent, with one digit."""
  return f"{100 * share:.1f} %"


def _datamodels(summary: words.Summary) -> str:
  """How good the datamodels are, as a share of what is possible."""
  fit = summary["fit_datamodels"]
  lds, ceiling = fit["lds"]["estimate"], fit["lds_ceiling"]
  text = (
    "Datamodels predict, from the list of training images, how sure a model will be. "
    "Over models that they have not seen, predictions and truth have a rank correlation "
    f"(LDS) of {lds:.2f}"
  )
  if ceiling and ceiling["estimate"] > 0:
    top = ceiling["estimate"]
    text += (
      f", which is {100 * lds / top:.0f} % of what is possible: training is random, and "
      f"even a perfect prediction would reach only {top:.2f} (the noise ceiling)"
    )
  if lds < _LEAST_LDS:
    text += ". That is low: more models, or better ones, are needed"
  return f"{text}."


def _searches(summary: words.Summary) -> str:
  """How many targets fall, and the median target in images."""
  parts = []
  for stage, change in (("brittleness", "removing"), ("label_flip", "relabelling")):
    if stage in summary:
      methods = summary[stage]["methods"]
      name = words.story_method(methods)
      parts.append(_search(methods[name], name, change))
  return " ".join([*parts, _VERIFIED])


_VERIFIED = (
  "A target counts as flipped only if new models, trained after the change, are verified "
  "to have a mean margin of at most 0, which is a wrong prediction."
)


def _search(row: Mapping[str, Any], method: str, change: str) -> str:
  """One method's result."""
  count = round(row["share_flipped"] * row["targets"])
  middle = summary_text.median_texts(row)[0]
  end = f"for the median target, {middle} were enough"
  if middle.startswith(">"):
    end = f"for the median target, {middle.removeprefix('> ')} were not enough"
  least = ""
  if row["unfinished"]:
    least, end = "at least ", f"{row['unfinished']} searches are not finished"
  return (
    f"In the order of the method {method}, {change} at most {row['largest_k_tried']} "
    f"training images flips {least}{count} of {row['targets']} targets; {end}."
  )


def _censored(summary: words.Summary) -> str:
  """What censored means in this run."""
  methods = summary["brittleness"]["methods"]
  row = methods[words.story_method(methods)]
  share = words.percent(summary["settings"]["search"]["max_share"])
  count = row["targets"] - round(row["share_flipped"] * row["targets"])
  return (
    f"Censored means: no change of at most {row['largest_k_tried']} images ({share} of "
    f"a class, where the search ends) was verified. It is so for {count} of "
    f"{row['targets']} targets. They may depend on more images, or on others than the "
    "method found; they are counted as not flipped."
  )
