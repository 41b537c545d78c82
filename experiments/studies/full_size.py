"""What becomes of predictions at full size, from some tens of models.

  python -m experiments.studies.full_size --preset=cifar10-fast --data_dir=DIR --json=FILE

For data sets that are too large for a bank of models on random subsets. Models on all
data give the scores. The targets are those that at least three quarters of these models
get right, with the smallest mean margins. For every method and size k, fresh models are
trained without the first k images of every target, all targets at once: with 16 targets
and k = 20 that is 320 images less. As many images that are similar to the targets, and as
many random ones of their classes, are removed for comparison. Then the first k are kept
under the class that models on all data take for the second likeliest. The table says how
often models get a target right, and their mean margin, as means over targets with
standard errors.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.bench import measure
from experiments.config import experiment_flags
from experiments.runtime import checks, data_source, program, progress_log
from experiments.runtime import help as help_page
from jaxdm import devices, margins, prng, training_sets
from jaxdm.attribution import full_data, registry
from jaxdm.attribution.scores import add_scores
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


class BaseModels(NamedTuple):
  """Models on all data, on the devices, and what they say of all images.

  Attributes:
    chunks: variables, keys and number of the models that were trained together.
    logits_rtk: float32, of the test images.
    features_rtf: float32, penultimate, of the test images.
    features_rnf: float32, of the training images.
  """

  chunks: list[tuple[Any, Any, int]]
  logits_rtk: np.ndarray
  features_rtf: np.ndarray
  features_rnf: np.ndarray

  @classmethod
  def trained(cls, fleet: Fleet, dataset: Dataset, count: int, seed: int) -> "BaseModels":
    """Trains them.

    Raises:
      UserError: if one diverges.
    """
    t, chunks = len(dataset.test_labels), []
    values = np.concatenate([dataset.test_images, dataset.train_images])
    logits, features = [], []
    bar = progress_log.progress_bar("models on all data")
    for start in range(0, count, fleet.rows):
      size = min(fleet.rows, count - start)
      masks = np.ones((size, len(dataset.train_labels)), bool)
      sets = training_sets.from_masks(masks, dataset.train_labels)
      keys = prng.keys_for(seed, [prng.Seed("base", start + i) for i in range(size)])
      variables = fleet.train_chunk(sets, keys)
      found = fleet.predict_chunk(variables, values)
      chunks.append((variables, keys, size))
      logits.append(np.asarray(found[0])[:size, :t])
      features.append(np.asarray(found[1])[:size])
      bar(start + size, count)
    whole = np.concatenate(features)
    made = cls(chunks, np.concatenate(logits), whole[:, :t], whole[:, t:])
    if not np.isfinite(made.logits_rtk).all():
      raise UserError("peak_learning_rate is too large: a model on all data diverged")
    return made

  def scores(
    self, trainer: Trainer, targets: np.ndarray, damping: float
  ) -> dict[str, np.ndarray]:
    """Scores of some targets by `METHODS`, float32[u, n].

    Args:
      trainer: whose targets are these.
      targets: int[u], their indices.
      damping: of influence functions.
    """
    fleet, u, model = trainer.fleet, len(targets), 0
    values = np.concatenate([trainer.target_values, fleet.values])
    all_labels = np.concatenate([trainer.target_labels, trainer.labels])
    scores = {name: np.zeros((u, len(trainer.labels)), np.float32) for name in METHODS}
    bar = progress_log.progress_bar("scores")
    for variables, keys, size in self.chunks:
      of_chunk = fleet.gradients_chunk(variables, values, all_labels, keys)
      for i in range(size):
        one = full_data.FullDataModel(
          self.logits_rtk[model, targets],
          self.features_rtf[model, targets],
          self.features_rnf[model],
          {1.0: full_data.gradients_of(of_chunk, i, u)},
          {},
        )
        for name in METHODS:
          if terms_of := registry.METHODS[name].terms:
            add_scores(scores[name], terms_of(one, damping))
        model += 1
      bar(model, len(self.logits_rtk))
    for name in METHODS:
      if rows := registry.METHODS[name].rows:
        scores[name] = rows(trainer)[:]
    return scores


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
  found = np.flatnonzero(right_t)
  if len(found) < count:
    raise UserError(f"weakest must be at most {len(found)}, got {count}")
  return np.sort(found[np.argsort(mean_t[found], kind="stable")[:count]])


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
  found = [Change("", "removed", 0, 0, everything, labels)]
  for method, ranked in rankings.items():
    for k in sizes:
      mask = everything.copy()
      mask[np.concatenate([ranking[:k] for ranking in ranked])] = False
      found.append(Change(method, "removed", k, int(np.sum(~mask)), mask, labels))
  method, ranked = next(iter(rankings.items()))
  for k in relabelled:
    changed = labels.copy()
    for ranking, label in reversed(list(zip(ranked, new_labels, strict=True))):
      changed[ranking[:k]] = label
    count = int(np.sum(changed != labels))
    found.append(Change(method, "relabelled", k, count, everything, changed))
  return found


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


def _sizes(texts: Sequence[str], name: str) -> list[int]:
  """Numbers of images.

  Raises:
    UserError: on anything else.
  """
  if not all(text.isdecimal() and int(text) > 0 for text in texts):
    raise UserError(f"{name} must be numbers of images, got {','.join(texts)}")
  return [int(text) for text in texts]


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Trains, prints the table, writes it."""
  if argv[1:]:
    raise UserError(f"arguments must be flags, got {argv[1]!r}; see --help")
  measure.check()
  sizes = _sizes(SIZES.value, "remove")
  relabelled = _sizes(RELABELLED.value, "relabel")
  experiment = experiment_flags.experiment({})
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  native = data_source.load(experiment.data, where)
  checks.check(experiment, native)
  dataset = native.downscaled(experiment.data.downscale)
  least = int(np.bincount(dataset.train_labels).min())
  if max(sizes + relabelled) >= least:
    raise UserError(f"remove and --relabel must be below {least}, the smallest class")
  fleet = Fleet(
    experiment.train,
    dataset.train_images,
    dataset.num_classes,
    experiment_flags.speed(),
    network=experiment.network.network,
    gradient_dim=experiment.gradient.gradient_dim,
  )
  labels, seed = dataset.train_labels, experiment.collect.seed
  base = experiment.collect.num_base

  base_models = BaseModels.trained(fleet, dataset, base, seed)
  margins_rt = margins.correct_class_margins(base_models.logits_rtk, dataset.test_labels)
  accuracy = float((margins_rt > 0).mean())
  targets = weakest_targets(margins_rt, TARGETS.value)
  print(f"{base} models on all data: accuracy {accuracy:.4f}, targets {targets.tolist()}")
  images, own = dataset.test_images[targets], dataset.test_labels[targets]
  trainer = Trainer.of(fleet, None, labels, images, own, seed=seed)
  scores = base_models.scores(trainer, targets, experiment.gradient.damping)
  logits_ruk = base_models.logits_rtk[:, targets]
  new_labels = label_flips.runner_up_class(logits_ruk, trainer.target_labels)
  rankings = _rankings(scores, dataset, targets, max(sizes + relabelled))
  changes = all_changes(labels, rankings, new_labels, sizes, relabelled)
  seeds = prng.model_seeds("curve", MODELS.value)
  found: list[dict[str, Any]] = []
  bar, count = (
    progress_log.progress_bar("models without some images"),
    len(changes) * len(seeds),
  )
  started = time.perf_counter()
  for change in changes:
    masks = np.broadcast_to(change.mask_n, (len(seeds), len(labels)))
    margins_mu = trainer(masks, change.labels_n, seeds)
    bar((len(found) + 1) * len(seeds), count)
    whole_mu = margins_mu[np.isfinite(margins_mu).all(axis=1)]
    if not len(whole_mu):
      raise UserError("peak_learning_rate is too large: all models of a change diverged")
    found.append(outcome(change, whole_mu))
    seconds = (time.perf_counter() - started) / (len(found) * len(seeds))
    measure.write(
      {
        "device": devices.describe(),
        "choice": fleet.choice._asdict(),
        "accuracy": accuracy,
        "targets": targets.tolist(),
        "seconds_per_model": seconds,
        "changes": found,
      }
    )
  print(table(found))
  print(f"{seconds:.2f} s a model on {devices.describe()}")


if __name__ == "__main__":
  devices.use_all_devices()
  flags.adopt_module_key_flags(measure)
  help_page.exit_if_asked(measure)
  program.run(main)
