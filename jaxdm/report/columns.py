"""What the columns of every table mean: the data dictionary beside each CSV file."""

from collections.abc import Sequence

_TARGET = "number of the target, from 0; targets.csv and examples.csv have its file"
_SOURCE = "where it came from: a file, a row of an array, or an example of a data set"
_PLACE = "place in the order of the method, from 0"
_LDS = {
  "lds": "rank correlation of predicted and true margins of held-out models, averaged "
  "over targets",
  "low": "lower end of its 95 % interval",
  "high": "upper end of its 95 % interval",
}

_VERDICTS = {
  "target": _TARGET,
  "method": "who ranked the training examples",
  "k": "examples changed in the smallest verified change; -1 if censored",
  "censored": "True: no change of up to `largest` examples was verified",
  "k_tried": "number of changed examples that mean_margin, margin_low, margin_high, "
  "accuracy and models belong to: k, or, if censored, the number that failed the "
  "test, or `largest` where the first model there was hopeless",
  "mean_margin": "mean margin of the models trained after that change, in logits; those "
  "of a proof are new, with seeds that the search has not used",
  "margin_low": "lower bound of the expected margin; -inf if there is one model, which "
  "gives no bound (margin_high is inf then)",
  "margin_high": "upper bound of the expected margin; a change is verified if it is at "
  "most 0, a repair if margin_low is at least 0",
  "accuracy": "share of the models of the proof that are right about the target",
  "models": "models of the proof: the test was clear after so many",
  "largest": "the largest number of examples that the search may change",
  "largest_margin": "margin of the first model of the search, after a change of "
  "`largest` examples; it is no model of the proof, and no part of any claim",
  "models_used": "models trained for this row, search and proof together",
  "finished": "False: the budget of models ran out before the search ended",
  "skewness": "of the target's margins, estimated from the models on all data; the test "
  "allows for it; empty: unknown",
  "is_repair": "True: models on all data get the target wrong, and the change is to make "
  "it right",
  "base_accuracy": "share of the models on all data that are right about the target",
  "base_mean_margin": "mean margin of the models on all data, in logits",
  "share_of_class": "k_tried as a share of the training examples of the target's class",
  "examples": "training examples in the order of the method, by their numbers in "
  "examples.csv; the first k_tried of them were changed",
  "target_class": "name of the target's class",
  "target_source": f"of the target: {_SOURCE}",
  "changed": "numbers of the changed examples, in order: a JSON list",
  "changed_classes": "names of their classes: a JSON list",
  "changed_sources": "of the changed examples, in order: a JSON list of text",
}

_AUDIT = {
  "label_quality": "mean probability of the label, half of it over models that were "
  "trained on the example and half over those that were not; low: the label is "
  "suspicious",
  "consistency": "share of the models without the example that choose its label",
  "probability": "mean probability of its label by these models",
  "memorisation": "share of the models trained on it that choose its label, less "
  "consistency",
  "support": "sum over targets of its positive weights in the datamodels, in logits; "
  "empty: there were no datamodels",
  "opposition": "sum over targets of its negative weights, as a positive number",
}

COLUMNS: dict[str, dict[str, str]] = {
  "examples": {
    "split": "train: a training example; test: a target",
    "index": "its number in the split, from 0, which all other tables use",
    "class": "name of its class",
    "label": "number of its class",
    "source": _SOURCE,
  },
  "targets": {
    "target": _TARGET,
    "class": "name of its class",
    "base_accuracy": _VERDICTS["base_accuracy"],
    "base_mean_margin": _VERDICTS["base_mean_margin"],
    "right": "True: the mean margin is positive, and at least half of the models are "
    "right; only such targets are searched",
    "source": _SOURCE,
  },
  "brittleness": _VERDICTS,
  "label_flip": _VERDICTS,
  "repair": {
    "change": "removal: the examples are left out; relabel: they stay, with the label of "
    "the target's class",
    **_VERDICTS,
  },
  "explain": {
    "change": "what was done to the examples of the row, or what they do to the target",
    "place": _PLACE,
    "index": "number of the training example",
    "class": "name of its class",
    "source": _SOURCE,
    "weight": "its weight in the target's datamodel, in logits: what the example adds to "
    "the predicted margin",
  },
  "audit": {
    "index": "number of the training example",
    "source": _SOURCE,
    "label": "name of its class",
    "suggested_label": "the class that most models without the example choose",
    "models_in": "models that were trained on the example",
    "models_out": "models that were not",
    **_AUDIT,
    **{f"{name}_low": _LDS["low"] for name in _AUDIT},
    **{f"{name}_high": _LDS["high"] for name in _AUDIT},
    "stand_in": "number of an example that stands in for it: each adds to the other's "
    "margin where that is left out; empty: none is known",
  },
  "removal_curves": {
    "target": _TARGET,
    "method": _VERDICTS["method"],
    "removed": "number of training examples removed, the first ones of the method",
    "mean_margin": "mean margin of the models trained without them, in logits",
    "models": "models trained without them that did not diverge",
    "target_source": _VERDICTS["target_source"],
  },
  "efficiency": {
    "way": "how the scores were fitted, or the method that needs no models on subsets",
    "models": "models on random subsets that it uses",
    **_LDS,
  },
  "moments": {
    "gradient_dim": "numbers that an example's gradient is projected to",
    "models": "models on all data that the scores are averaged over",
    "moments": "moments of training that the scores are averaged over",
    "damping": "of the influence functions",
    "lds": _LDS["lds"],
  },
}
# Tables that the stages of the pipeline write.
PIPELINE = ("examples", "targets", "brittleness", "label_flip")


def dictionary(table: str, header: Sequence[str]) -> str:
  """What the columns of a table mean, as Markdown; empty if it is not described here.

  Args:
    table: its name; what follows the name of a described table is left out, as in
      explain_7.
    header: its columns.
  """
  name = table if table in COLUMNS else table.rpartition("_")[0]
  if name not in COLUMNS:
    return ""
  lines = [f"- `{column}`: {COLUMNS[name].get(column, '')}" for column in header]
  return "\n".join([f"# {table}.csv", "", *lines, ""])
