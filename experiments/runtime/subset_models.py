"""The models on random subsets of the training set."""

import abc
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from experiments.config.settings import CollectConfig
from experiments.runtime.workdir import WorkdirError
from jaxdm import margins, training_sets
from jaxdm.storage import bank
from jaxdm.storage import store as store_lib
from jaxdm.storage.matrix_view import MatrixView
from jaxdm.training.base_trainer import TRAINING, BaseTrainer
from jaxdm.training.collection import (
  Collection,
  Subsets,
  missing_in_store,
  missing_models,
)


class Rows(NamedTuple):
  """Some models of a collection, all of which are stored.

  Attributes:
    store: where they are.
    numbers: int[m], their rows.
  """

  store: store_lib.Store
  numbers: np.ndarray

  @property
  def masks(self) -> training_sets.PackedMasks:
    """The training sets, as they were stored with the margins."""
    return bank.packed_masks(self.store, self.numbers)

  @property
  def margins_mt(self) -> MatrixView:
    """The margins, read where they are indexed."""
    return MatrixView(self.store, "margins", self.numbers)


def load_converged(rows: Rows) -> tuple[training_sets.PackedMasks, MatrixView]:
  """Masks and margins of models, without those that diverged."""
  models, _ = margins.usable(rows.margins_mt)
  converged_rows = rows._replace(numbers=rows.numbers[models])
  return converged_rows.masks, converged_rows.margins_mt


def join(parts: list[Rows]) -> tuple[training_sets.PackedMasks, np.ndarray]:
  """Masks and margins of models in several stores, including those that diverged."""
  margins_mt = np.concatenate([part.margins_mt[:] for part in parts]).astype(np.float32)
  masks = [part.masks for part in parts]
  bits = np.concatenate([part.bits for part in masks])
  return training_sets.PackedMasks(bits, masks[0].shape[1]), margins_mt


class _Request(NamedTuple):
  """One collection that the settings ask for, whether or not it is stored.

  Attributes:
    name: of its store.
    subsets: which models they are.
    models: how many.
    predict_training: whether the training examples are predicted, too.
  """

  name: str
  subsets: Subsets
  models: int
  predict_training: bool = False

  @property
  def stores(self) -> list[str]:
    """The names of all its stores."""
    return [self.name, *[self.name + TRAINING] * self.predict_training]


@dataclasses.dataclass(frozen=True)
class SubsetModels(abc.ABC):
  """The models on random subsets that an experiment's settings ask for.

  Attributes:
    config: how many models there are, on which subsets.
    workdir: the folder, for messages.
  """

  config: CollectConfig
  workdir: epath.Path

  @abc.abstractmethod
  def collections(self) -> list[Collection]:
    """All subsets, then the held-out ones' further seeds.

    Raises:
      WorkdirError: if the store of one of them does not exist.
    """

  @abc.abstractmethod
  def make_collections(self) -> list[Collection]:
    """The same as `collections`; stores that do not exist are made."""

  @abc.abstractmethod
  def existing_collections(self) -> list[Collection]:
    """The same as `collections` without those whose stores do not exist."""

  @abc.abstractmethod
  def first_models(self) -> Collection:
    """All subsets, each with one seed, without predictions of the training examples.

    Raises:
      WorkdirError: if its store does not exist.
    """

  @abc.abstractmethod
  def sizes(self) -> dict[str, int]:
    """The number of models that each store is to hold, by its name."""

  @abc.abstractmethod
  def count_missing(self) -> int:
    """Models that are not stored: all of those whose store does not exist."""

  def first_collection(self) -> Collection:
    """All subsets, each with one seed.

    Raises:
      WorkdirError: if its store does not exist.
    """
    return self.collections()[0]

  def fitted_rows(self) -> Rows:
    """The models that datamodels are fitted to.

    Raises:
      WorkdirError: if some of them are missing.
    """
    return self._rows(self.first_models(), self.config.fitted_numbers)

  def first_rows(self) -> Rows:
    """One model on each subset, held out or not: they are independent of each other.

    Raises:
      WorkdirError: if some of them are missing.
    """
    collection = self.first_models()
    return self._rows(collection, np.arange(collection.models))

  def held_out_rows(self) -> list[Rows]:
    """The models that fits are judged on; every subset as often as it was trained on.

    Raises:
      WorkdirError: if some of them are missing.
    """
    first = self._rows(self.first_models(), self.config.held_out_numbers)
    others = self._repeated_collections()
    return [first, *(self._rows(one, np.arange(one.models)) for one in others)]

  def _repeated_collections(self) -> list[Collection]:
    """The held-out subsets' further seeds."""
    return []

  def _rows(self, collection: Collection, numbers: np.ndarray) -> Rows:
    """Some models of a collection, all of which must be there."""
    missing = missing_in_store(collection.store, collection.models)
    if missing:
      count = sum(map(len, missing))
      raise WorkdirError(
        None,
        f"{collection.store.path} lacks {count} of {collection.models} models; run "
        f"python -m experiments.train_subsets --workdir={self.workdir}, with the "
        "same settings",
      )
    return Rows(collection.store, numbers)


@dataclasses.dataclass(frozen=True)
class ImportedModels(SubsetModels):
  """Models that others trained.

  Attributes:
    collection: all of them.
  """

  collection: Collection

  def collections(self) -> list[Collection]:
    """All subsets."""
    return [self.collection]

  def make_collections(self) -> list[Collection]:
    """All subsets."""
    return [self.collection]

  def existing_collections(self) -> list[Collection]:
    """All subsets."""
    return [self.collection]

  def first_models(self) -> Collection:
    """All subsets."""
    return self.collection

  def sizes(self) -> dict[str, int]:
    """The number of models, by the name of their store."""
    return {self.collection.store.path.name: self.collection.models}

  def count_missing(self) -> int:
    """Models that are not stored."""
    return sum(map(len, missing_models(self.collection)))


@dataclasses.dataclass(frozen=True)
class TrainedModels(SubsetModels):
  """Models that are trained here.

  Attributes:
    trainer: opens and fills their stores.
    audit: whether the training examples are predicted, by the first model on each subset.
  """

  trainer: BaseTrainer
  audit: bool = False

  def collections(self) -> list[Collection]:
    """See `SubsetModels`."""
    return [self._open_existing(request) for request in self._requests()]

  def make_collections(self) -> list[Collection]:
    """See `SubsetModels`."""
    return [self._open(request) for request in self._requests()]

  def existing_collections(self) -> list[Collection]:
    """See `SubsetModels`."""
    exists = self.trainer.has_store
    return [
      self._open(
        request._replace(
          predict_training=request.predict_training and exists(request.name + TRAINING)
        )
      )
      for request in self._requests()
      if exists(request.name)
    ]

  def first_collection(self) -> Collection:
    """See `SubsetModels`; opens no other store."""
    return self._open_existing(next(self._requests()))

  def first_models(self) -> Collection:
    """See `SubsetModels`."""
    return self._open_existing(next(self._requests())._replace(predict_training=False))

  def sizes(self) -> dict[str, int]:
    """See `SubsetModels`."""
    sizes: dict[str, int] = {}
    for request in self._requests():
      sizes |= dict.fromkeys(request.stores, request.models)
    return sizes

  def count_missing(self) -> int:
    """See `SubsetModels`."""
    return sum(
      request.models
      if self._missing_stores(request)
      else sum(map(len, missing_models(self._open(request))))
      for request in self._requests()
    )

  def _repeated_collections(self) -> list[Collection]:
    """See `SubsetModels`."""
    repeats = itertools.islice(self._requests(), 1, None)
    return [self._open_existing(request) for request in repeats]

  def _requests(self) -> Iterator[_Request]:
    """What the settings ask for: all subsets, then the held-out ones' further seeds."""
    config = self.config
    first = int(config.held_out_numbers[0])
    subsets = Subsets(alpha=config.alpha)
    models = 1 + int(max(config.fitted_numbers[-1], config.held_out_numbers[-1]))
    yield _Request("subsets", subsets, models, self.audit)
    for repeat in range(1, config.held_out_seeds):
      again = dataclasses.replace(subsets, first=first, family=f"subset-{repeat}")
      yield _Request(f"held-out-{first}-{repeat}", again, config.num_held_out)

  def _missing_stores(self, request: _Request) -> list[str]:
    """The names of a collection's stores that do not exist."""
    return [name for name in request.stores if not self.trainer.has_store(name)]

  def _open_existing(self, request: _Request) -> Collection:
    """Opens a collection; raises WorkdirError if a store of it does not exist."""
    if names := self._missing_stores(request):
      raise WorkdirError(
        "workdir",
        f"={self.workdir} has no store {names[0]}; run python -m "
        f"experiments.train_subsets --workdir={self.workdir}, with the same settings",
      )
    return self._open(request)

  def _open(self, request: _Request) -> Collection:
    """Opens a collection, and makes those of its stores that do not exist."""
    return self.trainer.open_subsets(
      request.name,
      request.subsets,
      request.models,
      dtype=self.config.margin_dtype,
      keep_logits=self.config.keep_logits,
      predict_training=request.predict_training,
    )
