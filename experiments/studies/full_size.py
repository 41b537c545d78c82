"""What becomes of predictions at full size, from some tens of models.

  python -m experiments.studies.full_size --preset=cifar10-fast --data_dir=DIR --json=FILE

For data sets that are too large for a bank of models on random subsets. The targets are
those that at least three quarters of some models on all data get right, with the smallest
mean margins. The same models are trained once more for the scores of these targets. For
every method and size k, fresh models are
trained without the first k images of every target, all targets at once: with 16 targets
and k = 20 that is 320 images less. As many images that are similar to the targets, and as
many random ones of their classes, are removed for comparison. Then the first k are kept
under the class that models on all data take for the second likeliest. The table says how
often models get a target right, and their mean margin, as means over targets with
standard errors.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.bench import measure
from experiments.config import experiment_flags, settings
from experiments.config.number_lists import whole_numbers
from experiments.runtime import checks, data_source, program, progress_bar
from experiments.runtime import help as help_page
from experiments.runtime.run import train_config
from jaxdm import devices, margins, prng
from jaxdm.attribution import full_data, registry
from jaxdm.attribution.attribute import attribution_scores
from jaxdm.brittleness import label_flips
from jaxdm.brittleness.cases import make_cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training.fleet import Fleet
from jaxdm.training.trainer import Trainer

TARGETS = flags.DEFINE_integer("weakest", 16, "Targets, all changed at once.", 2)
SIZES = flags.DEFINE_list(
  "remove", ["9", "20", "60"], "Numbers of images to remove for each target."
)
RELABELLED = flags.DEFINE_list(
  "relabel", ["9", "20"], "Images to relabel for each target, of those removed first."
)
MODELS = flags.DEFINE_integer("fresh_models", 8, "Fresh models for each change.", 2)
METHODS = ("influence", "similar", "random")
_RIGHT = 0.75  # Of the models on all data.


class Change(NamedTuple):
  """One training set for all targets.

  Attributes:
    method: who chose the images; '' if there is no change.
    action: 'removed' or 'relabelled'.
    size: images for each target.
    changed: training images without their place or their label, in all.
    mask_n: bool, the training set.
    labels_n: int32.
  """

  method: str
  action: str
  size: int
  changed: int
  mask_n: np.ndarray
  labels_n: np.ndarray


def weakest_targets(margins_rt: np.ndarray, count: int) -> np.ndarray:
  """Targets that most models get right, with the smallest mean margins, ascending.

  Args:
    margins_rt: float, of models on all data, in logits.
    count: how many.

  Raises:
    UserError: if there are not so many.
  """
  mean_t = margins_rt.mean(axis=0)
  right_t = ((margins_rt > 0).mean(axis=0) >= _RIGHT) & (mean_t > 0)
  right = np.flatnonzero(right_t)
  if len(right) < count:
    raise UserError("weakest", f"must be at most {len(right)}, got {count}")
  return np.sort(right[np.argsort(mean_t[right], kind="stable")[:count]])


def all_changes(
  labels: np.ndarray,
  rankings: dict[str, list[np.ndarray]],
  new_labels: np.ndarray,
  sizes: Sequence[int],
  relabelled: Sequence[int],
) -> list[Change]:
  """No change, every removal, and relabelling in the order of the first method.

  Args:
    labels: int32[n].
    rankings: by method, for each target, its training images in order.
    new_labels: int[u], for the images of each target.
    sizes: of removals.
    relabelled: sizes of relabelling. An image of two targets gets the first one's.
  """
  everything = np.ones(len(labels), bool)
  changes = [Change("", "removed", 0, 0, everything, labels)]
  for method, ranked in rankings.items():
    for k in sizes:
      mask = everything.copy()
      mask[np.concatenate([ranking[:k] for ranking in ranked])] = False
      changes.append(Change(method, "removed", k, int(np.sum(~mask)), mask, labels))
  method, ranked = next(iter(rankings.items()))
  for k in relabelled:
    changed = labels.copy()
    for ranking, label in reversed(list(zip(ranked, new_labels, strict=True))):
      changed[ranking[:k]] = label
    count = int(np.sum(changed != labels))
    changes.append(Change(method, "relabelled", k, count, everything, changed))
  return changes


def outcome(change: Change, margins_mu: np.ndarray) -> dict[str, Any]:
  """A line of the table: means over targets, with standard errors."""
  right_u, mean_u = (margins_mu > 0).mean(axis=0), margins_mu.mean(axis=0)
  root = math.sqrt(len(mean_u))
  return {
    "method": change.method,
    "action": change.action,
    "size": change.size,
    "changed": change.changed,
    "models": len(margins_mu),
    "right": float(right_u.mean()),
    "right_error": float(right_u.std(ddof=1) / root),
    "margin": float(mean_u.mean()),
    "margin_error": float(mean_u.std(ddof=1) / root),
    "mostly_wrong": float((right_u < 0.5).mean()),
    "margins": margins_mu.tolist(),
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The results as Markdown."""
  lines = [
    "| method | action | per target | right | mean margin | targets mostly wrong |"
  ]
  lines.append("|---|---|---|---|---|---|")
  for r in rows:
    right = f"{r['right']:.2f} +- {r['right_error']:.2f}"
    margin = f"{r['margin']:+.2f} +- {r['margin_error']:.2f}"
    name = r["method"] or "no change"
    cells = f"{name} | {r['action']} | {r['size']} | {right} | {margin} | "
    lines.append(f"| {cells}{r['mostly_wrong']:.2f} |")
  return "\n".join(lines)


def _rankings(
  scores: dict[str, np.ndarray], dataset: Dataset, targets: np.ndarray, most: int
) -> dict[str, list[np.ndarray]]:
  """By method, the first images of each target."""
  labels, own = dataset.train_labels, dataset.test_labels[targets]
  share = min(1 - 1e-9, (most + 1) / np.bincount(labels)[own].min())
  return {
    method: [
      case.ranking
      for case in make_cases(
        method,
        rows,
        np.arange(len(targets)),
        labels,
        own,
        config=SearchConfig(max_share=share),
        same_class=not registry.all_classes(method),
      )
    ]
    for method, rows in scores.items()
  }


def _dataset(experiment: settings.Experiment, largest: int) -> Dataset:
  """The data that the flags name, of which each class has more than `largest` images."""
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  if experiment.retrain.retrain:
    raise UserError("retrain", "has no effect in this program")
  native = data_source.load(experiment.data, where)
  checks.check(experiment, native)
  least = int(np.bincount(native.train_labels).min())
  if largest >= least:
    raise UserError("remove", f"and --relabel must be below {least}, the smallest class")
  return native.downscaled(experiment.data.downscale)


def _base_logits(fleet: Fleet, dataset: Dataset, count: int, seed: int) -> np.ndarray:
  """Logits of all test images under models on all data, float32[r, t, k].

  Raises:
    UserError: if a model diverges.
  """
  tests = dataset.test_images, dataset.test_labels
  trainer = Trainer.of(fleet, None, dataset.train_labels, *tests, seed=seed)
  bar, logits = progress_bar.make("models on all data"), []
  for models in full_data.snapshots(trainer, count, ()):
    logits += [one.outputs.logits_tk for one in models if one.outputs]
    bar(len(logits), count)
  found_rtk = np.stack(logits)
  if not np.isfinite(found_rtk).all():
    raise UserError("peak_learning_rate", "is too large: a model on all data diverged")
  return found_rtk


def _outcomes(trainer: Trainer, changes: Sequence[Change]) -> Iterator[dict[str, Any]]:
  """Trains fresh models with each change; yields lines of the table.

  Raises:
    UserError: if all models of a change diverge.
  """
  seeds = prng.model_seeds("curve", MODELS.value)
  bar, count = (
    progress_bar.make("models without some images"),
    len(changes) * len(seeds),
  )
  for done, change in enumerate(changes, 1):
    masks = np.broadcast_to(change.mask_n, (len(seeds), len(trainer.labels)))
    margins_mu = trainer(masks, change.labels_n, seeds)
    bar(done * len(seeds), count)
    finite_mu = margins_mu[np.isfinite(margins_mu).all(axis=1)]
    if not len(finite_mu):
      raise UserError(
        "peak_learning_rate", "is too large: all models of a change diverged"
      )
    yield outcome(change, finite_mu)


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Trains, prints the table, writes it."""
  program.check_no_arguments(argv)
  measure.check()
  sizes = whole_numbers("remove", SIZES.value, "numbers of images")
  relabelled = whole_numbers("relabel", RELABELLED.value, "numbers of images")
  experiment = experiment_flags.experiment({})
  seed, base = experiment.collect.seed, experiment.collect.num_base
  dataset = _dataset(experiment, max(sizes + relabelled))
  fleet = Fleet(
    train_config(experiment, len(dataset.train_labels)),
    dataset.train_images,
    dataset.num_classes,
    experiment_flags.speed(),
    network=experiment.network.network,
    gradient_dim=experiment.gradient.gradient_dim,
  )
  logits_rtk = _base_logits(fleet, dataset, base, seed)
  margins_rt = margins.correct_class_margins(logits_rtk, dataset.test_labels)
  accuracy = float((margins_rt > 0).mean())
  targets = weakest_targets(margins_rt, TARGETS.value)
  print(f"{base} models on all data: accuracy {accuracy:.4f}, targets {targets.tolist()}")
  labels, own = dataset.train_labels, dataset.test_labels[targets]
  trainer = Trainer.of(fleet, None, labels, dataset.test_images[targets], own, seed=seed)
  scores = attribution_scores(
    trainer,
    METHODS,
    base,
    damping=experiment.gradient.damping,
    moments=experiment.gradient.moments,
    progress=progress_bar.make("scores"),
  )
  new_labels = label_flips.runner_up_class(logits_rtk[:, targets], own)
  rankings = _rankings(scores, dataset, targets, max(sizes + relabelled))
  changes = all_changes(labels, rankings, new_labels, sizes, relabelled)
  results: list[dict[str, Any]] = []
  started = time.perf_counter()
  for line in _outcomes(trainer, changes):
    results.append(line)
    seconds = (time.perf_counter() - started) / (len(results) * MODELS.value)
    measure.write(
      {
        "device": devices.describe(),
        "choice": fleet.choice._asdict(),
        "accuracy": accuracy,
        "targets": targets.tolist(),
        "seconds_per_model": seconds,
        "changes": results,
      }
    )
  print(table(results))
  print(f"{seconds:.2f} s a model on {devices.describe()}")


if __name__ == "__main__":
  devices.use_all_devices()
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit(
    measure, extra=experiment_flags.SOURCES, groups=experiment_flags.GROUPS
  )
  program.run(main)
