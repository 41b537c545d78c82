"""One target's story: what its prediction hangs on, shown by retraining.

  python -m experiments.studies.explain --workdir=runs/fashion --target=7

Trains models without the first k images that its datamodel names, and without as many
most similar and random images of its class, and with their labels flipped; says how
often each group of models is right, with intervals, draws explain_7.png, and writes to
explain_7.csv which images these are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from absl import flags

from experiments.runtime import base_models, launcher, methods, stages
from experiments.runtime.own_training import OwnTrainer
from experiments.runtime.run import Run
from jaxdm import prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.attribution import registry
from jaxdm.brittleness import label_flips, verdicts
from jaxdm.brittleness.cases import make_cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.lasso import design
from jaxdm.report import figures, page, tables, words
from jaxdm.storage import atomic_io
from jaxdm.training.base_trainer import BaseTrainer

TARGET = flags.DEFINE_integer("target", 0, "Which target, by its index.")
KS = flags.DEFINE_list(
  "ks", None, "Numbers of images to change; default: a twentieth and a tenth of a class."
)
MODELS = flags.DEFINE_integer(
  "explain_models", 32, "Models trained for each change.", lower_bound=2
)
METHODS = ("datamodel", "similar", "random")
_SHOWN = 20
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


def outcome(change: str, margins: np.ndarray) -> Outcome:
  """Sums up the margins of models that did not diverge."""
  margins = margins[np.isfinite(margins)]
  right = scipy.stats.binomtest(int((margins > 0).sum()), len(margins))
  interval = right.proportion_ci()
  return Outcome(
    change,
    (right.statistic, interval.low, interval.high),
    verdicts.mean_bounds(margins, 0.975),
    len(margins),
  )


def _requested(data: Dataset) -> tuple[int, list[int]]:
  """Target and sizes of the flags.

  Raises:
    UserError: on a target that does not exist, or sizes that its class does not hold.
  """
  target, count = TARGET.value, len(data.test_labels)
  if not 0 <= target < count:
    raise UserError("target", f"must be in [0, {count}), got {target}")
  size = int(np.sum(data.train_labels == data.test_labels[target]))
  if size < 2:
    name = data.class_names[data.test_labels[target]]
    raise UserError(
      "target",
      f"={target} is of the class {name}, which has 1 training image, and 1 must "
      "stay; name another target",
    )
  default = {max(1, size // 20), min(max(2, size // 10), size - 1)}
  texts = KS.value or [str(k) for k in sorted(default)]
  if not all(text.isdecimal() and 0 < int(text) < size for text in texts):
    raise UserError("ks", f"must be numbers in [1, {size}), got {','.join(texts)}")
  return target, [int(text) for text in texts]


def changes_of(
  data: Dataset, scores: Mapping[str, design.Matrix], target: int, ks: Sequence[int]
) -> list[Change]:
  """What every method would remove, and relabel."""

  def ranking(method: str, same_class: bool) -> np.ndarray:
    labels = data.train_labels, data.test_labels
    [case] = make_cases(
      method,
      scores[method],
      np.array([target]),
      *labels,
      config=SearchConfig(max_share=_ALL),
      same_class=same_class,
    )
    return case.ranking

  none, found = np.zeros(0, int), []
  for method in METHODS:
    first = ranking(method, same_class=not registry.all_classes(method))
    found += [Change(f"{k} removed: {method}", first[:k], none) for k in ks]
  for method in METHODS:
    first = ranking(method, same_class=True)
    found += [Change(f"{k} relabelled: {method}", none, first[:k]) for k in ks]
  return found


def trained(
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
  labels_mn = training_sets.relabelled(labels, flipped, new)
  margins_mt = trainer(
    np.repeat(masks, count, axis=0),
    np.repeat(labels_mn, count, axis=0),
    np.tile(seeds, len(changes)),
    progress=progress,
  )
  groups = margins_mt[:, target].reshape(len(changes), count)
  pairs = zip(changes, groups, strict=True)
  return [outcome(change.name, margins) for change, margins in pairs]


def _images(data: Dataset, changes: Sequence[Change]) -> list[tuple[Any, ...]]:
  """A row for each image of each change: its place, and what and from where it is."""
  return [
    (
      change.name,
      place,
      example,
      data.class_names[data.train_labels[example]],
      data.train_sources[example],
    )
    for change in changes
    for place, example in enumerate([*change.removed, *change.relabelled])
  ]


def _picture(
  data: Dataset, target: int, confidence: float, first: Change, found: list[Outcome]
) -> bytes:
  """The target, the images it hangs on, and what changing them does."""
  name = data.class_names[data.test_labels[target]]
  examples = first.removed[:_SHOWN]
  fig = figures.explanation(
    data.test_images[target],
    data.train_images[examples],
    title=f"target {target}, {name}: softmax {confidence:.0%}, and the training images "
    "that it hangs on most",
    image_titles=[data.class_names[data.train_labels[e]] for e in examples],
    names=[o.change for o in found],
    accuracies=np.array([o.accuracy for o in found]),
    margins=np.array([o.margin for o in found]),
  )
  return page.png(fig)


def main(run: Run) -> dict[str, Any]:
  """Trains, sums up, draws."""
  data = run.dataset
  if isinstance(run.trainer, OwnTrainer):
    raise UserError(
      "retrain",
      ": this study needs the logits and features of networks, which a function "
      "does not give",
    )
  target, ks = _requested(data)
  stage = f"explain_{target}"

  def work() -> dict[str, Any]:
    base = base_models.load(run)
    logits_rtk = base.logits_rtk
    assert logits_rtk is not None  # Networks give some.
    label = label_flips.runner_up_class(logits_rtk, data.test_labels)[target]
    changes = changes_of(data, methods.scores(run, METHODS), target, ks)
    found = [outcome("nothing changed", base.margins_rt[:, target])]
    found += trained(run.trainer, target, changes, int(label), run.bar("explain"))
    for o in found:
      accuracy = "{:.2f} [{:.2f}, {:.2f}]".format(*o.accuracy)
      margin = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*o.margin)
      print(f"{o.change:>28}: right {accuracy}, margin {margin}, {o.models} models")
    softmax = scipy.special.softmax(logits_rtk[:, target], axis=-1)
    confidence = float(softmax[:, data.test_labels[target]].mean())
    first = changes[len(ks) - 1]
    header = ("change", "place", "index", "class", "source")
    rows = _images(data, changes)
    tables.write_rows(run.workdir.path / f"{stage}.csv", header, rows)
    with atomic_io.writing(run.workdir.path / f"{stage}.png") as file:
      file.write(_picture(data, target, confidence, first, found))
    return {
      "softmax": confidence,
      "outcomes": [o._asdict() for o in found],
      "caption": words.caption(data, target, first.removed[:_SHOWN]),
    }

  settings = {"target": target, "ks": ks, "explain_models": MODELS.value}
  inputs = run.inputs("train_subsets", "fit_datamodels")
  return stages.run(run.workdir, stage, {"explain": settings}, work, inputs)


PROGRAM = launcher.Program(main)

if __name__ == "__main__":
  PROGRAM.run()
