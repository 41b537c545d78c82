"""The models on all data: what they predict, and what they say of the examples.

They are not kept themselves; everything that is wanted of them is taken while they are
on the devices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from experiments import lab
from jaxdm import (
  Array,
  baselines,
  brittleness,
  devices,
  kept,
  margins,
  prng,
  train,
  training_sets,
  whole,
)
from jaxdm.baselines import gradient

# The middles of the thirds of training, where TracIn looks.
_CHECKPOINTS = (1 / 6, 3 / 6, 5 / 6)
FILE = "base_models.npz"


class BaseModels(NamedTuple):
  """Models trained on all data.

  Attributes:
    margins_rt: float32, in logits.
    logits_rtk: float32.
    scores: float32[t, n] by method: similar (cosine of penultimate features), close
      (their distance), tracin, trak and influence, all averaged over the models.
  """

  margins_rt: np.ndarray
  logits_rtk: np.ndarray
  scores: dict[str, np.ndarray]


def load(opened: lab.Lab) -> BaseModels:
  """What `train_all` wrote.

  Raises:
    ValueError: if the file is damaged.
  """
  try:
    scores = kept.read(_path(opened))
  except ValueError as error:
    raise ValueError(
      f"{error}; python -m experiments.bank --do=repair "
      f"--workdir={opened.workdir.path} has the models trained again"
    ) from error
  logits = scores.pop("logits_rtk")
  base_margins = margins.correct_class_margins(logits, opened.target_labels)
  return BaseModels(np.asarray(base_margins), logits, scores)


def exist(opened: lab.Lab) -> bool:
  """Whether `train_all` has written them."""
  return _path(opened).exists()


def searched_targets(opened: lab.Lab) -> np.ndarray:
  """The targets whose brittleness is searched, as int[...], ascending.

  Raises:
    ValueError: if models on all data get none right, or one that was asked for wrong.
  """
  margins_rt, config = load(opened).margins_rt, opened.experiment.search
  asked = np.sort(np.array(opened.experiment.compare.target_list, int))
  if asked.size:
    wrong = asked[~brittleness.right_targets(margins_rt)[asked]]
    if wrong.size:
      raise ValueError(f"search_targets: models on all data get {wrong.tolist()} wrong")
    return asked
  targets = brittleness.sample_targets(margins_rt, config.num_targets, config.seed)
  if not targets.size:
    raise ValueError("num_targets: models on all data get no target right")
  return targets


def train_all(opened: lab.Lab) -> BaseModels:
  """Trains models on all data, and writes what is needed of those that converged."""
  m, damping = opened.experiment.collect.num_base, opened.experiment.gradient.damping
  t, n = len(opened.target_labels), len(opened.labels)
  logits, wrong_n = [], np.zeros(n)
  names = ("similar", "close", "tracin", "trak", "influence")
  scores = {name: np.zeros((t, n), np.float32) for name in names}
  bar = opened.bar("models on all data")
  for done, model in enumerate(_models(opened), start=1):
    bar(done, m)
    if not np.isfinite(model.logits_tk).all():
      continue
    logits.append(model.logits_tk)
    last = model.gradients[-1]
    wrong_n += np.asarray(jax.nn.sigmoid(-last.odds_n))
    features = model.features_bf[t:], model.features_bf[:t]
    scores["similar"] += baselines.by_tile(baselines.similarity, *features)
    scores["close"] += baselines.by_tile(baselines.closeness, *features)
    for rate, checkpoint in zip(model.rates, model.gradients[:-1], strict=True):
      rows_nd = rate * gradient.tracin(checkpoint)
      scores["tracin"] += baselines.by_tile(
        gradient.scores, rows_nd, checkpoint.target_td
      )
    for name, method in (("trak", gradient.trak), ("influence", gradient.influence)):
      rows_nd = method(last, damping)
      scores[name] += baselines.by_tile(gradient.scores, rows_nd, last.target_td)
  if len(logits) < 2:
    raise ValueError(
      f"peak_learning_rate is too large: {m - len(logits)} of {m} models on all "
      f"data diverged at {opened.recipe.peak_learning_rate}"
    )
  scores["trak"] *= (wrong_n / len(logits)).astype(np.float32)
  means = {name: total / len(logits) for name, total in scores.items()}
  with whole.writing(_path(opened)) as file:
    np.savez_compressed(file, **means, logits_rtk=np.stack(logits))  # type: ignore[arg-type]
  opened.fleet.settle()
  return load(opened)


class _Model(NamedTuple):
  """One model: its outputs, its gradients at the checkpoints and at the end."""

  logits_tk: np.ndarray
  features_bf: np.ndarray
  rates: np.ndarray
  gradients: list[gradient.Gradients]


def _models(opened: lab.Lab) -> Iterator[_Model]:
  """The models one by one, trained a chunk at a time."""
  fleet, small, labels = opened.fleet, opened.small, opened.labels
  m, t = opened.experiment.collect.num_base, len(opened.target_labels)
  pixels = np.concatenate([small.test_images, small.train_images])
  all_labels = np.concatenate([opened.target_labels, labels])
  rates = np.asarray(train.learning_rate(opened.recipe, np.array(_CHECKPOINTS)))
  for start in range(0, m, fleet.rows):
    size = min(fleet.rows, m - start)
    chunk_keys = keys(opened, start, size)
    masks = np.ones((size, len(labels)), bool)
    sets = training_sets.from_masks(masks, labels)
    found = []
    for until in (*_CHECKPOINTS, 1.0):
      variables = fleet.train_chunk(sets, chunk_keys, until=until)
      found.append(fleet.gradients_chunk(variables, pixels, all_labels, chunk_keys))
    logits, features = fleet.predict_chunk(variables, pixels)
    for i in range(size):
      yield _Model(
        np.asarray(devices.row(logits, i))[:t],
        np.asarray(devices.row(features, i)),
        rates,
        [gradients(outputs, i, t) for outputs in found],
      )


def keys(opened: lab.Lab, start: int, size: int) -> Array:
  """Keys of so many models on all data, from one on."""
  return prng.keys_for(opened.seed, [prng.Seed("base", start + i) for i in range(size)])


def gradients(
  outputs: tuple[jax.Array, jax.Array], i: int, num_targets: int
) -> gradient.Gradients:
  """Model i's part of `Fleet.gradients_chunk`, for targets and then training examples."""
  odds_b, gradients_bd = (devices.row(output, i) for output in outputs)
  t = num_targets
  return gradient.Gradients(gradients_bd[t:], gradients_bd[:t], odds_b[t:])


def _path(opened: lab.Lab) -> epath.Path:
  """Where the models on all data leave their logits and scores."""
  return opened.workdir.path / FILE
