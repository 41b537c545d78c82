"""Training by a function of the user, in place of `jaxdm.Trainer` (--retrain)."""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from etils import epath

from experiments.config import settings as settings_lib
from jaxdm import identity, prng
from jaxdm import progress as progress_lib
from jaxdm.attribution.registry import from_full_data
from jaxdm.brittleness.retraining import Retrain, margins_of
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.storage import recall
from jaxdm.training.base_trainer import BaseTrainer
from jaxdm.training.collection import (
  Collection,
  Predictions,
  Subsets,
  missing_models,
  write,
)
from jaxdm.training_sets import ModelSpecs

_ROWS = 32
# Odd, so that distinct roots stay distinct modulo 2**32.
_SEED_STEP = 2_654_435_769


class OwnTrainer(BaseTrainer):
  """Trains by a user's function; see `BaseTrainer`."""

  _knows_classes = False

  def __init__(
    self,
    config: settings_lib.RetrainConfig,
    dataset: Dataset,
    folder: epath.Path,
    *,
    seed: int,
    share: tuple[int, int],
  ):
    """Imports the user's module, and calls nothing in it yet.

    Args:
      config: names the function's factory.
      dataset: for the factory.
      folder: for stores.
      seed: root of all models' seeds.
      share: see `Trainer.of`.

    Raises:
      UserError: if there is no such factory.
    """
    self._config, self._dataset = config, dataset
    self._module, self._factory = _import_factory(config.retrain)
    train = dataset.num_classes, dataset.train_images, dataset.train_labels
    targets = dataset.test_images, dataset.test_labels
    self._bind(folder, *train, *targets, seed=seed, share=share)

  @property
  def rows(self) -> int:
    """Models that are trained and stored together."""
    return _ROWS

  @property
  def provenance(self) -> dict[str, str]:
    """Nothing is known of how the function computes."""
    return {}

  def _depends_on(self) -> dict[str, Any]:
    """The function's name, source and version, and the data that its factory gets."""
    source = pathlib.Path(str(self._module.__file__)).read_bytes()
    return {
      **dataclasses.asdict(self._config),
      "retrain_source": identity.digest(source),
      "train_pixels": identity.digest(self.values),
      "num_classes": self.num_classes,
    }

  @functools.cached_property
  def _retrain(self) -> Retrain:
    """The user's function, of the dataset's targets."""
    return self._function_for(self._dataset)

  @functools.cached_property
  def _retrain_for_all(self) -> Retrain:
    """The same, of the targets and, after them, the training examples."""
    data = self._dataset
    sets = (data.test_images, data.train_images), (data.test_labels, data.train_labels)
    values, labels = map(np.concatenate, sets)
    sources = (*data.test_sources, *data.train_sources)
    with_training = dataclasses.replace(
      data, test_images=values, test_labels=labels, test_sources=sources
    )
    return self._function_for(with_training)

  def _function_for(self, dataset: Dataset) -> Retrain:
    """What the user's factory makes of a dataset."""
    with _user_code(self._config.retrain):
      function: Retrain = self._factory(dataset)
    if not callable(function):
      raise UserError(
        "retrain",
        f"={self._config.retrain} must return a function of masks, labels and "
        f"seeds, got {type(function).__name__}",
      )
    return function

  def _margins(self, models: ModelSpecs) -> np.ndarray:
    """float32[m, t]; models that diverged are noted, and rows of NaN."""
    margins_mt = self._call(self._retrain, models, len(self.target_labels))
    return self._mark_diverged(margins_mt)

  def _predictions(self, models: ModelSpecs, *, predict_training: bool) -> Predictions:
    """Margins of the targets and, if asked for, of the training examples."""
    if not predict_training:
      return Predictions(self._margins(models))
    t, n = len(self.target_labels), len(self.labels)
    margins = self._mark_diverged(self._call(self._retrain_for_all, models, t + n))
    return Predictions(margins[:, :t], training_margins_mn=margins[:, t:])

  def _call(self, retrain: Retrain, models: ModelSpecs, count: int) -> np.ndarray:
    """What a function of the user returns: float32 margins [m, count]."""
    first = self.seed * _SEED_STEP % 2**32
    seeds = (np.asarray(models.seeds, np.int64) + first) % 2**32
    with _user_code(self._config.retrain):
      # Arrays of other libraries may refuse it, such as tensors on a device.
      output = np.asarray(retrain(models.masks_mn, models.labels_mn, seeds))
    try:
      margins = margins_of(lambda *_: output, *models[:2], seeds, count)
    except ValueError as error:
      raise UserError("retrain", str(error).removeprefix("retrain ")) from error
    with np.errstate(over="ignore"):  # Infinite margins count as diverged.
      return np.array(margins, np.float32)

  def train_parts(self, parts: Iterable[ModelSpecs]) -> Iterator[np.ndarray]:
    """Margins of each part."""
    return map(self._margins, parts)

  def collect(
    self,
    collection: Collection,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> None:
    """Trains what is missing of a collection; see `Trainer.collect`."""
    chunks = missing_models(collection, self._share)
    training = collection.training is not None
    done, total = 0, sum(map(len, chunks))
    progress(done, total)
    for chunk in chunks:
      numbers = np.asarray(chunk)
      masks = collection.subsets.masks(self.seed, len(self.labels), numbers)
      labels = np.tile(self.labels, (len(masks), 1))
      models = ModelSpecs(masks, labels, _seeds(collection.subsets, numbers))
      predictions = self._predictions(models, predict_training=training)
      write(collection, chunk, masks, predictions)
      done += len(chunk)
      progress(done, total)


def full_data_margins(
  trainer: BaseTrainer, name: str, count: int, progress: progress_lib.Progress
) -> np.ndarray:
  """Margins float32[r, t] of models on all data, without those that diverged.

  Args:
    trainer: trains them, in this process alone, and stores them.
    name: of the user's function, for the error.
    count: how many.
    progress: called with (models done, models in all).

  Raises:
    UserError: if fewer than 2 models converge.
  """
  masks = np.ones((count, len(trainer.labels)), bool)
  labels = np.tile(trainer.labels, (count, 1))
  models = ModelSpecs(masks, labels, prng.model_seeds("base", count))
  margins_rt = recall.recall(
    trainer.changes, models, trainer.train_parts, rows=trainer.rows, progress=progress
  )
  converged_r = np.isfinite(margins_rt).all(axis=1)
  if converged_r.sum() < 2:
    raise UserError(
      "retrain",
      f"={name} returned margins that are not finite for "
      f"{int((~converged_r).sum())} of {count} models on all data",
    )
  return margins_rt[converged_r]


def adapt(experiment: settings_lib.Experiment) -> settings_lib.Experiment:
  """The experiment without methods and priors that need networks; prints which those are.

  Raises:
    UserError: if no method or no prior is left.
  """
  name, compare = experiment.retrain.retrain, experiment.compare
  of_networks = from_full_data(compare.names)
  left_out = [method for method in compare.names if method in of_networks]
  methods = [method for method in compare.names if method not in left_out]
  if not methods:
    raise UserError(
      "methods",
      f"={compare.methods} need gradients or features of networks, which "
      "--retrain does not give; name datamodel, pixels or random",
    )
  if experiment.flip.flip_to == "best":
    raise UserError(
      "flip_to",
      "must be runner-up or a class with --retrain, which gives no gradients "
      "for relabel scores, got 'best'",
    )
  candidates = experiment.prior.priors.split(",")
  priors = [prior for prior in candidates if not needs_networks(prior)]
  if not priors:
    raise UserError(
      "priors",
      f"={experiment.prior.priors} need scores of networks, which --retrain does not "
      "give; name none or class",
    )
  left_out += [f"prior {prior}" for prior in candidates if prior not in priors]
  if left_out:
    print(
      f"left out: {', '.join(left_out)}, since they need gradients or features of "
      f"networks, which --retrain={name} does not give"
    )
  return dataclasses.replace(
    experiment,
    compare=dataclasses.replace(compare, methods=",".join(methods)),
    prior=dataclasses.replace(experiment.prior, priors=",".join(priors)),
  )


def needs_networks(prior: str) -> bool:
  """Whether one of `settings_lib.PRIORS` is made of scores of models on all data."""
  return prior.partition("+")[0] in from_full_data()


def _import_factory(path: str) -> tuple[ModuleType, Callable[[Dataset], Any]]:
  """The module and the factory of 'package.module:factory'."""
  where, _, name = path.partition(":")
  if not where or not name:
    raise UserError("retrain", f"must be package.module:factory, got {path!r}")
  try:
    factory = getattr(module := importlib.import_module(where), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise UserError("retrain", f"={path} cannot be imported: {error}") from error
  except Exception as error:  # The module's own.
    raise _user_code_error(path, error) from error
  if not callable(factory):
    raise UserError(
      "retrain",
      f"={path} must be a function that takes a jaxdm.Dataset, got "
      f"{type(factory).__name__}",
    )
  if getattr(module, "__file__", None) is None:
    raise UserError("retrain", f"={path} is in a module without a source file")
  return module, factory


@contextlib.contextmanager
def _user_code(name: str) -> Iterator[None]:
  """Raises errors in the user's code as `_user_code_error`."""
  try:
    yield
  except Exception as error:
    raise _user_code_error(name, error) from error


def _user_code_error(name: str, error: Exception) -> UserError:
  """An error that names the user's code; its traceback is printed."""
  traceback.print_exception(error)
  return UserError("retrain", f"={name} raised {type(error).__name__}: {error}")


def _seeds(subsets: Subsets, numbers: np.ndarray) -> np.ndarray:
  """Seeds of models on random subsets; each model on the same subset has another one."""
  return prng.subset_seeds(numbers, int(subsets.family.partition("-")[2] or 0))
