"""What the columns of every table mean: the data dictionary beside each CSV file.

The columns of verdicts are made here, too.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset

_TARGET = "number of the target, from 0; targets.csv and examples.csv have its file"
_SOURCE = "where it came from: a file, a row of an array, or an example of a data set"
_PLACE = "place in the order of the method, from 0"
_LDS = {
  "lds": "rank correlation of predicted and true margins of held-out models, averaged "
  "over targets",
  "low": "lower end of its 95 % interval",
  "high": "upper end of its 95 % interval",
}


class VerdictRow(NamedTuple):
  """A verdict, with what is needed to read and to replay it.

  Attributes:
    verdict: what was found.
    base_r: float, margins of its target by r models on all data.
    dataset: the examples and targets.
  """

  verdict: Verdict
  base_r: np.ndarray
  dataset: Dataset

  @property
  def changed(self) -> tuple[int, ...]:
    """The examples that were changed, the first `k_tried` of the ranking."""
    return self.verdict.examples[: self.verdict.k_tried]

  @property
  def share_of_class(self) -> float:
    """`k_tried` over the number of training examples of the target's class."""
    label = self.dataset.test_labels[self.verdict.target]
    return self.verdict.k_tried / int(np.sum(self.dataset.train_labels == label))


def _json(values: Sequence[Any]) -> str:
  """A list as text; an example's source may hold any letters."""
  return json.dumps(values, ensure_ascii=False)


# The first columns of verdicts: fields of `Verdict`, under their own names.
VERDICT_FIELDS = {
  "target": _TARGET,
  "method": "who ranked the training examples",
  "k": "examples changed in the smallest verified change; -1 if censored",
  "censored": "True: no change of up to `largest` examples was verified",
  "k_tried": "number of changed examples that mean_margin, margin_low, margin_high, "
  "accuracy and models belong to: k, or, if censored, the number that failed the "
  "test, or `largest` where the first model there was hopeless",
  "mean_margin": "mean margin of the models trained after that change, in logits; those "
  "of a verification are new, with seeds that the search has not used",
  "margin_low": "lower bound of the expected margin; -inf if there is one model, which "
  "gives no bound (margin_high is inf then)",
  "margin_high": "upper bound of the expected margin; a change is verified if it is at "
  "most 0, a repair if margin_low is at least 0",
  "accuracy": "share of the models of the verification that are right about the target",
  "models": "models of the verification: the test was clear after so many",
  "largest": "the largest number of examples that the search may change",
  "largest_margin": "margin of the first model of the search, after a change of "
  "`largest` examples; it is no model of the verification, and no part of any claim",
  "models_used": "models trained for this row, search and verification together",
  "finished": "False: the budget of models ran out before the search ended",
  "skewness": "of the target's margins, estimated from the models on all data; the test "
  "allows for it; empty: unknown",
  "is_repair": "True: models on all data get the target wrong, and the change is to make "
  "it right",
}
# The others: what each means, and how it is made.
_VERDICT_OTHERS: dict[str, tuple[str, Callable[[VerdictRow], Any]]] = {
  "base_accuracy": (
    "share of the models on all data that are right about the target",
    lambda row: float((row.base_r > 0).mean()),
  ),
  "base_mean_margin": (
    "mean margin of the models on all data, in logits",
    lambda row: float(row.base_r.mean()),
  ),
  "share_of_class": (
    "k_tried as a share of the training examples of the target's class",
    lambda row: row.share_of_class,
  ),
  "examples": (
    "training examples in the order of the method, by their numbers in "
    "examples.csv; the first k_tried of them were changed",
    lambda row: " ".join(map(str, row.verdict.examples)),
  ),
  "target_class": (
    "name of the target's class",
    lambda row: row.dataset.class_names[row.dataset.test_labels[row.verdict.target]],
  ),
  "target_source": (
    f"of the target: {_SOURCE}",
    lambda row: row.dataset.test_sources[row.verdict.target],
  ),
  "changed": (
    "numbers of the changed examples, in order: a JSON list",
    lambda row: _json(list(row.changed)),
  ),
  "changed_classes": (
    "names of their classes: a JSON list",
    lambda row: _json(
      [row.dataset.class_names[row.dataset.train_labels[i]] for i in row.changed]
    ),
  ),
  "changed_sources": (
    "of the changed examples, in order: a JSON list of text",
    lambda row: _json([row.dataset.train_sources[i] for i in row.changed]),
  ),
}
VERDICT_HEADER = (*VERDICT_FIELDS, *_VERDICT_OTHERS)
_VERDICTS = VERDICT_FIELDS | {
  name: meaning for name, (meaning, _) in _VERDICT_OTHERS.items()
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
  "planted_repairs": {
    "rate": "share of the labels that are wrong",
    "seed": "of the choice of the wrong labels, and of the models",
    "change": "removal or relabel",
    "method": "that chose the examples",
    "targets": "that were searched, of those that models on all data get wrong",
    "repaired": "targets with a verified repair",
    "named": "examples in all repairs together; one counts once for each repair",
    "named_errors": "of these, with planted errors",
    "by_chance": "share of planted errors among examples with other labels than the "
    "target's, as a mean over repaired targets",
    "repairs_with_errors": "repairs that name one planted error or more",
    "found": "planted errors that at least one repair names",
    "planted": "all of them",
  },
}
# Tables that the stages of the pipeline write.
PIPELINE = ("examples", "targets", "brittleness", "label_flip")


def verdict_cells(row: VerdictRow) -> tuple[Any, ...]:
  """The values of a verdict's columns, under `VERDICT_HEADER`."""
  fields = [getattr(row.verdict, name) for name in VERDICT_FIELDS]
  return (*fields, *(value(row) for _, value in _VERDICT_OTHERS.values()))


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
