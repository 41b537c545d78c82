"""The models on random subsets of the training set."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.config.settings import CollectConfig
from experiments.runtime.workdir import WorkdirError
from jaxdm import margins, training_sets
from jaxdm.storage import bank
from jaxdm.storage import store as store_lib
from jaxdm.training.base_trainer import BaseTrainer
from jaxdm.training.collection import Collection, Subsets, missing


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
  def margins_mt(self) -> store_lib.MatrixView:
    """The margins, read where they are indexed."""
    return store_lib.MatrixView(self.store, "margins", self.numbers)


def load_converged(rows: Rows) -> tuple[training_sets.PackedMasks, store_lib.MatrixView]:
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


@dataclasses.dataclass(frozen=True)
class SubsetModels:
  """The models on random subsets that an experiment's settings ask for.

  Attributes:
    trainer: opens and fills their stores.
    config: how many models there are, on which subsets.
    workdir: the folder, for messages.
    audit: whether the training examples are predicted, by the first model on each subset.
    imported: models that others trained, instead of models of one's own.
  """

  trainer: BaseTrainer
  config: CollectConfig
  workdir: epath.Path
  audit: bool = False
  imported: Collection | None = None

  def collections(self) -> list[Collection]:
    """All subsets, then the held-out ones' further seeds; missing stores are made."""
    if self.imported:
      return [self.imported]
    config = self.config
    first = int(config.held_out_numbers[0])
    stored: dict[str, Any] = {
      "dtype": config.margin_dtype,
      "keep_logits": config.keep_logits,
    }
    subsets = Subsets(alpha=config.alpha)
    models = 1 + int(max(config.fitted_numbers[-1], config.held_out_numbers[-1]))
    first_models = self.trainer.open_subsets(
      "subsets", subsets, models, predict_training=self.audit, **stored
    )
    collections = [first_models]
    for repeat in range(1, config.held_out_seeds):
      name = f"held-out-{first}-{repeat}"
      again = dataclasses.replace(subsets, first=first, family=f"subset-{repeat}")
      collections.append(
        self.trainer.open_subsets(name, again, config.num_held_out, **stored)
      )
    return collections

  def fitted_rows(self) -> Rows:
    """The models that datamodels are fitted to.

    Raises:
      WorkdirError: if some of them are missing.
    """
    return self._rows(self.collections()[0], self.config.fitted_numbers)

  def first_rows(self) -> Rows:
    """One model on each subset, held out or not: they are independent of each other.

    Raises:
      WorkdirError: if some of them are missing.
    """
    collection = self.collections()[0]
    return self._rows(collection, np.arange(collection.models))

  def held_out_rows(self) -> list[Rows]:
    """The models that fits are judged on; every subset as often as it was trained on.

    Raises:
      WorkdirError: if some of them are missing.
    """
    subsets, *repeats = self.collections()
    rows = [self._rows(subsets, self.config.held_out_numbers)]
    return rows + [self._rows(again, np.arange(again.models)) for again in repeats]

  def _rows(self, collection: Collection, numbers: np.ndarray) -> Rows:
    """Some models of a collection, all of which must be there."""
    lacking = missing(collection.store, collection.models)
    if lacking:
      count = sum(len(chunk) for chunk in lacking)
      raise WorkdirError(
        None,
        f"{collection.store.path} lacks {count} of {collection.models} models; run "
        f"python -m experiments.train_subsets --workdir={self.workdir}, with the "
        "same settings",
      )
    return Rows(collection.store, numbers)
