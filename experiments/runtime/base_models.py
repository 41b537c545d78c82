"""The models on all data: what they predict, and what they say of the examples.

They are not kept themselves; everything that is wanted of them is taken while they are
on the devices, and written to the folder `base_models` of the workdir.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from experiments.runtime import lab
from jaxdm import devices, margins, prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.attribution.scores import Term, add_scores
from jaxdm.attribution.similarity import closeness, similarity
from jaxdm.brittleness.cases import right_targets, sample_targets
from jaxdm.errors import UserError
from jaxdm.lasso import tiling
from jaxdm.storage import array_folder, checksummed_json
from jaxdm.training.recipe import learning_rate
from jaxdm.typing import Array

# The middles of the thirds of training, where TracIn looks.
_CHECKPOINTS = (1 / 6, 3 / 6, 5 / 6)
METHODS = ("similar", "close", "tracin", "trak", "influence")
_LOGITS = "logits"
_TILE_TARGETS = 1024
# What earlier versions wrote instead of the folder.
_OLD_FILE = "base_models.npz"


class BaseModels(NamedTuple):
  """Models trained on all data.

  Attributes:
    margins_rt: float32, in logits.
    logits_rtk: float32.
    scores: by method, a read-only memory map float32[t, n] that is opened when it is
      asked for: similar (cosine of penultimate features), close (their distance), tracin,
      trak and influence, all averaged over the models.
  """

  margins_rt: np.ndarray
  logits_rtk: np.ndarray
  scores: Mapping[str, np.ndarray]


def load(opened: lab.Lab) -> BaseModels:
  """What `train_all` wrote; the logits are checked, scores are opened later.

  Raises:
    ValueError: if the folder is missing or damaged, holds other models or is of an
      earlier version.
  """
  again = (
    f"python -m experiments.ops.bank --do=repair --workdir={opened.workdir.path} removes "
    "it, and experiments.train_subsets trains these models again"
  )
  if _old_file(opened).exists() and not _folder(opened).exists():
    raise UserError(f"{_old_file(opened)} is of an earlier version; {again}")
  try:
    arrays = array_folder.ArrayFolder(_folder(opened), opened.base_models_identity())
    logits = arrays.verified(_LOGITS)
  except array_folder.OtherArraysError as error:
    raise UserError(
      f"{error}; run python -m experiments.train_subsets "
      f"--workdir={opened.workdir.path}, with the same settings, first"
    ) from error
  except (checksummed_json.StoreError, KeyError) as error:
    raise UserError(f"{error}; {again}") from error
  base_margins = margins.correct_class_margins(logits, opened.target_labels)
  return BaseModels(np.asarray(base_margins), logits, arrays)


def exist(opened: lab.Lab) -> bool:
  """Whether `train_all` has written those that the settings ask for."""
  return array_folder.exists(_folder(opened), opened.base_models_identity())


def damage(opened: lab.Lab, *, complete: bool) -> Iterator[tuple[str, str]]:
  """Looks for files that are not what `train_all` wrote.

  Args:
    opened: the experiment.
    complete: whether `train_all` has ended; else a missing record is no damage.

  Yields:
    Name in the workdir and fault of each such file.
  """
  if _old_file(opened).exists():
    yield _OLD_FILE, "it is of an earlier version"
  elif complete or (_folder(opened) / array_folder.RECORD).exists():
    for file, why in array_folder.damage(_folder(opened), opened.base_models_identity()):
      yield f"{lab.BASE_MODELS}/{file}", why


def searched_targets(opened: lab.Lab) -> np.ndarray:
  """The targets whose brittleness is searched, as int[...], ascending.

  Raises:
    ValueError: if models on all data get none right, or one that was asked for wrong.
  """
  margins_rt, config = load(opened).margins_rt, opened.experiment.search
  asked = np.sort(np.array(opened.experiment.compare.target_list, int))
  if asked.size:
    wrong = asked[~right_targets(margins_rt)[asked]]
    if wrong.size:
      raise UserError(f"search_targets: models on all data get {wrong.tolist()} wrong")
    return asked
  targets = sample_targets(margins_rt, config.num_targets, config.seed)
  if not targets.size:
    raise UserError(
      "models on all data get no target right, so that none can be searched; train "
      "longer (--epochs) or on more examples, in a new workdir"
    )
  return targets


def train_all(opened: lab.Lab) -> BaseModels:
  """Trains models on all data, and writes what is needed of those that converged.

  Scores are added up in memory maps on disk, one float32[t, n] a method. Beside them the
  host holds a tile of 1,024 targets, and a device the gradients of a chunk of models at
  four points of training.
  """
  m, damping = opened.experiment.collect.num_base, opened.experiment.gradient.damping
  t, n = len(opened.target_labels), len(opened.labels)
  folder = _folder(opened)
  totals = array_folder.create(folder, dict.fromkeys(METHODS, (t, n)))
  logits, wrong_n, done = [], np.zeros(n), 0
  bar = opened.bar("models on all data")
  for models in _chunks(opened):
    whole = [model for model in models if np.isfinite(model.logits_tk).all()]
    for model in whole:
      logits.append(model.logits_tk)
      wrong_n += np.asarray(jax.nn.sigmoid(-model.gradients[-1].odds_n))
    for name, total_tn in totals.items():
      terms = [term for model in whole for term in _terms(name, model, damping)]
      add_scores(total_tn, terms)
    done += len(models)
    bar(done, m)
  if len(logits) < 2:
    raise UserError(
      f"peak_learning_rate is too large: {m - len(logits)} of {m} models on all "
      f"data diverged at {opened.recipe.peak_learning_rate}"
    )
  for name, total_tn in totals.items():
    factor_n = wrong_n / len(logits) if name == "trak" else np.ones(n)
    for part in tiling.tiles(t, _TILE_TARGETS):
      total_tn[part] *= factor_n.astype(np.float32)
      total_tn[part] /= len(logits)
  found = array_folder.create(folder, {_LOGITS: (len(logits), *logits[0].shape)})
  found[_LOGITS][:] = np.stack(logits)
  array_folder.finish(folder, totals | found, opened.base_models_identity())
  _old_file(opened).unlink(missing_ok=True)
  opened.fleet.settle()
  return load(opened)


def _terms(name: str, model: "_Model", damping: float) -> list[Term]:
  """What one model adds to the scores of one of `METHODS`."""
  last, features = model.gradients[-1], (model.train_features_nf, model.features_tf)
  if name == "similar":
    return [Term(similarity, *features)]
  if name == "close":
    return [Term(closeness, *features)]
  if name == "tracin":
    return [
      Term(gradient.scores, rate * gradient.tracin(at), at.target_td)
      for rate, at in zip(model.rates, model.gradients[:-1], strict=True)
    ]
  method = {"trak": gradient.trak, "influence": gradient.influence}[name]
  return [Term(gradient.scores, method(last, damping), last.target_td)]


class _Model(NamedTuple):
  """One model: its outputs, its gradients at the checkpoints and at the end."""

  logits_tk: np.ndarray
  features_tf: np.ndarray
  train_features_nf: np.ndarray
  rates: np.ndarray
  gradients: list[gradient.Gradients]


def _chunks(opened: lab.Lab) -> Iterator[list[_Model]]:
  """The models, a list for each chunk that is trained together."""
  fleet, small, labels = opened.fleet, opened.small, opened.labels
  m, t = opened.experiment.collect.num_base, len(opened.target_labels)
  pixels = np.concatenate([small.test_images, small.train_images])
  all_labels = np.concatenate([opened.target_labels, labels])
  rates = np.asarray(learning_rate(opened.recipe, np.array(_CHECKPOINTS)))
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
    yield [
      _Model(
        np.asarray(devices.row(logits, i))[:t],
        np.asarray(devices.row(features, i))[:t],
        np.asarray(devices.row(features, i))[t:],
        rates,
        [gradients(outputs, i, t) for outputs in found],
      )
      for i in range(size)
    ]


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


def _folder(opened: lab.Lab) -> epath.Path:
  """Where the models on all data leave their logits and scores."""
  return opened.workdir.path / lab.BASE_MODELS


def _old_file(opened: lab.Lab) -> epath.Path:
  """Where they were before there was the folder."""
  return opened.workdir.path / _OLD_FILE
