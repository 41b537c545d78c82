"""Models on random subsets of the training set, by number."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdm import training_sets
from jaxdm.storage import bank, training_predictions
from jaxdm.storage import store as store_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subsets:
  """Models on random subsets of the training set, by number.

  Attributes:
    alpha: share of the training set in each subset.
    first: model i is trained on subset first + i.
    family: of the models' seeds; another one trains other models on the same subsets.
  """

  alpha: float
  first: int = 0
  family: str = "subset"

  def masks(self, seed: int, num_train: int, numbers: np.ndarray) -> np.ndarray:
    """The subsets of some models, bool[m, n], drawn from the root seed."""
    subsets = self.first + np.asarray(numbers)
    return training_sets.random_masks(seed, num_train, self.alpha, subsets)


class Collection(NamedTuple):
  """A store of models on random subsets: row i is model i.

  Attributes:
    store: of `Trainer.open_subsets`.
    subsets: which models they are.
    models: how many are wanted.
    training: a store of `training_predictions` of the same models; None: the training
      examples are not predicted.
  """

  store: store_lib.Store
  subsets: Subsets
  models: int
  training: store_lib.Store | None = None

  @property
  def stores(self) -> list[store_lib.Store]:
    """All stores of these models."""
    return [self.store] if self.training is None else [self.store, self.training]


def missing_in_store(
  store: store_lib.Store, count: int, share: tuple[int, int] = (0, 1)
) -> list[range]:
  """Which of so many numbered models a store lacks, chunk by chunk.

  Args:
    store: where row i is model i.
    count: models in all.
    share: (i, N): only the chunks whose numbers leave i when divided by N. Whose a chunk
      is depends on nothing else, so hosts need not talk, and their number may change.

  Returns:
    The numbers of the models that each such chunk lacks, at its end.
  """
  size, rows_of = store.rows_per_chunk, store.chunks()
  index, of = share
  ranges = []
  for chunk in range(index, -(-count // size), of):
    numbers = range(chunk * size + rows_of.get(chunk, 0), min((chunk + 1) * size, count))
    if numbers:
      ranges.append(numbers)
  return ranges


def missing_models(
  collection: Collection, share: tuple[int, int] = (0, 1)
) -> list[range]:
  """Which models one of a collection's stores lacks; see `missing_in_store`."""
  first_missing: dict[int, range] = {}
  for store in collection.stores:
    for numbers in missing_in_store(store, collection.models, share):
      chunk = numbers.start // store.rows_per_chunk
      before = first_missing.get(chunk, numbers)
      first_missing[chunk] = min(before, numbers, key=lambda part: part.start)
  return [first_missing[chunk] for chunk in sorted(first_missing)]


class Predictions(NamedTuple):
  """What some models predict.

  Attributes:
    margins_mt: float32, of the targets.
    logits_mtk: float32, of the targets; None: they are unknown, or not kept.
    training_margins_mn: float32, of the training examples; None: they are not kept.
    training_classes_mn: int, the class of the largest logit; None: as above.
  """

  margins_mt: np.ndarray
  logits_mtk: np.ndarray | None = None
  training_margins_mn: np.ndarray | None = None
  training_classes_mn: np.ndarray | None = None

  @classmethod
  def of_rows(cls, rows: Sequence["Predictions"]) -> "Predictions":
    """Those of models one by one, joined."""
    parts: list[Any] = list(zip(*rows, strict=True))
    joined: list[Any] = [None if part[0] is None else np.stack(part) for part in parts]
    return cls(*joined)

  def rows(self) -> list["Predictions"]:
    """Those of each model."""
    return [self.take(row) for row in range(len(self.margins_mt))]

  def take(self, rows: slice | int) -> "Predictions":
    """Those of some of the models."""
    parts: list[Any] = [None if part is None else part[rows] for part in self]
    return Predictions(*parts)


def write(
  collection: Collection, numbers: range, masks_mn: np.ndarray, predictions: Predictions
) -> None:
  """Writes what each of a collection's stores lacks of some models.

  Args:
    collection: the stores.
    numbers: of the models, one of those of `lacking`.
    masks_mn: bool, their training sets.
    predictions: theirs.
  """
  for store in collection.stores:
    chunk = numbers.start // store.rows_per_chunk
    count = max(store.chunks_at(chunk), default=0)
    first = max(numbers.start, chunk * store.rows_per_chunk + count)
    if first >= numbers.stop:
      continue
    new = slice(first - numbers.start, None)
    margins_mt, logits_mtk, margins_mn, classes_mn = predictions.take(new)
    if store is collection.store:
      bank.write_from(store, first, masks_mn[new], margins_mt, logits_mtk)
    else:
      assert margins_mn is not None
      training_predictions.write_from(store, first, margins_mn, classes_mn)
