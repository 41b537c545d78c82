"""What one target's prediction depends on, shown by retraining.

  python -m experiments.studies.explain --workdir=runs/fashion --target=7

It says what models on all data predict, which training images support the target's class
and which oppose it, and shows by retraining what a change of some does. If models get the
target right, it trains models without the first k images that the datamodel names, and
without as many most similar and random images of its class, and with their labels
flipped. If models get it wrong, it removes the images that oppose the target most, and as
many similar and random ones of the class that models predict, and gives them the label of
the target's class; but look first whether the target's own label is right. It says how
often each group of models is right, with intervals, draws explain_7.png, and writes to
explain_7.csv which images these are. --target=shirt/007.png names a target by its file.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from absl import flags

from experiments.config.number_lists import whole_numbers
from experiments.report_page import words
from experiments.runtime import base_models, launcher, methods, stages
from experiments.runtime.run import Run
from jaxdm import intervals, matrices, prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.repairs import CHANGES, repair_cases
from jaxdm.brittleness.search_inputs import SearchInputs, cases_of
from jaxdm.data import names
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.report import image_figures, page, tables
from jaxdm.storage import atomic_io
from jaxdm.training.base_trainer import BaseTrainer

TARGET = flags.DEFINE_string(
  "target",
  "0",
  "Which target: its index, or the end of its file's path, such as shirt/007.png.",
)
KS = flags.DEFINE_list(
  "ks", None, "Numbers of images to change; default: a twentieth and a tenth of a class."
)
MODELS = flags.DEFINE_integer(
  "explain_models", 32, "Models trained for each change.", lower_bound=2
)
METHODS = ("datamodel", "similar", "random")
_SHOWN = 10  # Of each kind, in the picture.
_PRINTED = 5
_ALL = 1 - 1e-9  # Of a class.


class Change(NamedTuple):
  """Some training images removed, or kept under another label.

  Attributes:
    name: in words.
    removed: int[k].
    relabelled: int[k].
  """

  name: str
  removed: np.ndarray
  relabelled: np.ndarray


class Outcome(NamedTuple):
  """What models say of the target after one change.

  Attributes:
    change: in words.
    accuracy: share of models that are right, and its 95 % interval (Clopper-Pearson).
    margin: mean, in logits, and its 95 % interval (Student's t).
    models: trained for it.
  """

  change: str
  accuracy: tuple[float, float, float]
  margin: tuple[float, float, float]
  models: int


class Subject(NamedTuple):
  """A target before anything is changed.

  Attributes:
    data: examples and targets.
    target: index of it.
    confidence: mean softmax of its class by models on all data.
    title: what these models predict, in words.
    weights_n: of its datamodel, in logits.
    groups: the examples that support and that oppose it most, by a name.
  """

  data: Dataset
  target: int
  confidence: float
  title: str
  weights_n: np.ndarray
  groups: dict[str, np.ndarray]


def outcome(change: str, margins: np.ndarray) -> Outcome:
  """Sums up the margins of models that did not diverge."""
  margins = margins[np.isfinite(margins)]
  if not len(margins):
    raise UserError(None, f"all models diverged after this change: {change}")
  right = scipy.stats.binomtest(int((margins > 0).sum()), len(margins))
  interval = right.proportion_ci()
  return Outcome(
    change,
    (right.statistic, interval.low, interval.high),
    intervals.student(margins, 0.975),
    len(margins),
  )


def _sizes(data: Dataset, target: int, classes: set[int]) -> list[int]:
  """The sizes of the flags.

  Args:
    data: examples and targets.
    target: index of it.
    classes: each of which must hold more examples than are changed.

  Raises:
    UserError: on sizes that one does not hold.
  """
  counts = {label: int(np.sum(data.train_labels == label)) for label in classes}
  label = min(counts, key=lambda label: counts[label])
  size, name = counts[label], data.class_names[label]
  if size < 2:
    verb = "is of" if label == data.test_labels[target] else "is taken for"
    raise UserError(
      "target",
      f"={target} {verb} the class {name}, which has {size} training image, and 1 must "
      "stay; name another target",
    )
  default = {max(1, size // 20), min(max(2, size // 10), size - 1)}
  texts = KS.value or [str(k) for k in sorted(default)]
  return whole_numbers("ks", texts, f"numbers in [1, {size})", most=size - 1)


def changes_of(
  inputs: SearchInputs,
  scores: Mapping[str, matrices.Matrix],
  target: int,
  ks: Sequence[int],
  *,
  is_wrong: bool,
) -> list[Change]:
  """What every method would remove, and relabel.

  Args:
    inputs: examples and targets.
    scores: by method.
    target: index of it.
    ks: numbers of examples.
    is_wrong: the changes are to make the target right; else to make it wrong.
  """
  of = inputs, np.array([target]), SearchConfig(max_share=_ALL)
  none, changes = np.zeros(0, int), []
  for change in CHANGES:
    is_removal = change == "removal"
    cases = (
      repair_cases(scores, *of, change=change)
      if is_wrong
      else cases_of(scores, *of, same_class=not is_removal)
    )
    for case in cases:
      for k in ks:
        first = case.ranking[:k]
        verb = "removed" if is_removal else "relabelled"
        pair = (first, none) if is_removal else (none, first)
        changes.append(Change(f"{k} {verb}: {case.method}", *pair))
  return changes


def train(
  trainer: BaseTrainer,
  target: int,
  changes: Sequence[Change],
  label: int,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Outcome]:
  """What fresh models say after each change."""
  count, labels = MODELS.value, trainer.labels
  seeds = prng.model_seeds("explain", count)
  masks = training_sets.removal_masks(len(labels), [c.removed for c in changes])
  flipped = [change.relabelled for change in changes]
  new = [np.full(len(examples), label) for examples in flipped]
  labels_mn = training_sets.relabel(labels, flipped, new)
  margins_mt = trainer(
    np.repeat(masks, count, axis=0),
    np.repeat(labels_mn, count, axis=0),
    np.tile(seeds, len(changes)),
    progress=progress,
  )
  groups = margins_mt[:, target].reshape(len(changes), count)
  pairs = zip(changes, groups, strict=True)
  return [outcome(change.name, margins) for change, margins in pairs]


def _predictions(data: Dataset, logits_rtk: np.ndarray, target: int) -> str:
  """The target, and what models on all data predict for it, with numbers of models."""
  predicted_r = logits_rtk[:, target].argmax(axis=-1)
  counts = np.bincount(predicted_r, minlength=data.num_classes)
  parts = [
    f"{data.class_names[label]} ({counts[label]} of {len(predicted_r)})"
    for label in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
  ]
  about = names.describe_target(data, target)
  return f"target {about}: models on all data predict {', '.join(parts)}"


def _print(subject: Subject, outcomes: Sequence[Outcome]) -> None:
  """The target, its first supporters and opponents, and what models say."""
  print(subject.title)
  for name, examples in subject.groups.items():
    print(f"{name}, by the datamodel's weight in logits:")
    for example in examples[:_PRINTED].tolist():
      about = names.describe_example(subject.data, example)
      print(f"  {subject.weights_n[example]:+.3f}  {about}")
  for o in outcomes:
    accuracy = "{:.2f} [{:.2f}, {:.2f}]".format(*o.accuracy)
    margin = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*o.margin)
    print(f"{o.change:>28}: right {accuracy}, margin {margin}, {o.models} models")


def _rows(subject: Subject, changes: Sequence[Change]) -> list[tuple[Any, ...]]:
  """A row for each image of each group and change: its place, what and where it is."""
  data, groups = subject.data, dict(subject.groups)
  for change in changes:
    groups[change.name] = np.concatenate([change.removed, change.relabelled])
  return [
    (
      name,
      place,
      example,
      data.class_names[data.train_labels[example]],
      data.train_sources[example],
      float(subject.weights_n[example]),
    )
    for name, examples in groups.items()
    for place, example in enumerate(examples.tolist())
  ]


def _picture(subject: Subject, outcomes: Sequence[Outcome]) -> bytes:
  """The target, the images that support and oppose it, and what changing some does."""
  data, examples = subject.data, np.concatenate(list(subject.groups.values()))
  rows = ", ".join(
    f"{place} row: {name}"
    for place, name in zip(("first", "second"), subject.groups, strict=True)
  )
  fig = image_figures.explanation(
    data.test_images[subject.target],
    data.train_images[examples],
    title=f"{subject.title}\n{rows}, with the datamodel's weight in logits",
    image_titles=[
      f"{subject.weights_n[e]:+.2f}\n{names.thumbnail_title(data, e)}"
      for e in examples.tolist()
    ],
    names=[o.change for o in outcomes],
    accuracies=np.array([o.accuracy for o in outcomes]),
    margins=np.array([o.margin for o in outcomes]),
    columns=len(examples) // 2,
  )
  return page.png(fig)


def _subject(
  run: Run, base: base_models.BaseModels, target: int, weights_n: np.ndarray
) -> Subject:
  """What is known of the target before anything is changed."""
  assert base.logits_rtk is not None  # Networks give some.
  data, own = run.dataset, run.dataset.test_labels[target]
  softmax = scipy.special.softmax(base.logits_rtk[:, target], axis=-1)
  title = _predictions(data, base.logits_rtk, target)
  name, order = data.class_names[own], np.argsort(-weights_n, kind="stable")
  count = min(_SHOWN, len(order) // 2)
  return Subject(
    data=data,
    target=target,
    confidence=float(softmax[:, own].mean()),
    title=f"{title}; softmax of {name} {softmax[:, own].mean():.0%}",
    weights_n=weights_n,
    groups={
      f"supports {name}": order[:count],
      f"opposes {name}": order[::-1][:count],
    },
  )


def main(run: Run) -> dict[str, Any]:
  """Trains, sums up, draws."""
  data = run.dataset
  if run.networks is None:
    raise UserError(
      "retrain",
      ": this study needs the logits and features of networks, which a function "
      "does not give",
    )
  target = names.find_target(data, TARGET.value)
  inputs = run.inputs("train_subsets", "fit_datamodels")
  base, own = base_models.load(run), int(data.test_labels[target])
  rival_t = methods.rival_classes(run, base.logits_rtk)
  is_wrong = bool(base.margins_rt[:, target].mean() <= 0)
  ks = _sizes(data, target, {own, int(rival_t[target])} if is_wrong else {own})
  stage = f"explain_{target}"

  def work() -> dict[str, Any]:
    scores = methods.scores(run, METHODS)
    subject = _subject(run, base, target, scores["datamodel"][np.array([target])][0])
    if is_wrong:
      print(base_models.LABEL_FIRST)
      scores = methods.for_repairs(scores, data, rival_t)
    inputs = SearchInputs(data.train_labels, data.test_labels, base.margins_rt)
    changes = changes_of(inputs, scores, target, ks, is_wrong=is_wrong)
    label = own if is_wrong else int(rival_t[target])
    outcomes = [outcome("nothing changed", base.margins_rt[:, target])]
    outcomes += train(run.trainer, target, changes, label, run.bar("explain"))
    base_models.print_if_poor(base.margins_rt, data.test_labels)
    _print(subject, outcomes)
    header = ("change", "place", "index", "class", "source", "weight")
    tables.write_rows(run.workdir.path / f"{stage}.csv", header, _rows(subject, changes))
    with atomic_io.writing(run.workdir.path / f"{stage}.png") as file:
      file.write(_picture(subject, outcomes))
    examples = np.concatenate(list(subject.groups.values()))
    return {
      "softmax": subject.confidence,
      "outcomes": [o._asdict() for o in outcomes],
      "caption": words.caption(data, target, examples),
    }

  settings = {"target": target, "ks": ks, "explain_models": MODELS.value}
  if is_wrong:  # Of targets that are right, what earlier versions wrote still holds.
    settings["repairs"] = True
  files, group = (*tables.files_of(stage), f"{stage}.png"), {"explain": settings}
  summary = stages.run(run.workdir, stage, group, work, inputs, files=files)
  stages.say_written(run.workdir, (f"{stage}.csv", f"{stage}.png"), to_report=True)
  return summary


PROGRAM = launcher.Program(main, groups=("search", "compare", "flip"))

if __name__ == "__main__":
  PROGRAM.run()
