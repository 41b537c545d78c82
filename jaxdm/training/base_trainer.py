"""Margins of models on any training sets, of which stored ones are not trained again.

What is common to the ways of training: `training.trainer` trains networks, and a user's
own function can be another one.
"""

import abc
import copy
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from jaxdm import identity, training_sets
from jaxdm import progress as progress_lib
from jaxdm.errors import check_seed
from jaxdm.storage import (
  atomic_io,
  bank,
  polling,
  recall,
  store_layout,
  training_predictions,
)
from jaxdm.storage import store as store_lib
from jaxdm.training.collection import Collection, Subsets
from jaxdm.training_sets import ModelSpecs

CHANGES = "changes"
# Ends the names of stores of predictions of the training examples.
TRAINING = "-training"


class BaseTrainer(abc.ABC):
  """A `retrain` function of masks, labels and seeds that stores what it trains.

  A subclass defines `rows`, `provenance`, `_depends_on` and `train_parts`, and says
  whether it knows the classes that models choose, beside their margins.

  Attributes:
    num_classes: k.
    values: uint8[n, h, w, c] or float32[n, d], the inputs of the training examples.
    labels: int32[n], theirs.
    target_values: uint8[t, h, w, c] or float32[t, d], the inputs of the targets.
    target_labels: int32[t].
    seed: root of every model's randomness.
    diverged: models trained here that diverged.
  """

  _knows_classes: bool
  num_classes: int
  values: np.ndarray
  labels: np.ndarray
  target_values: np.ndarray
  target_labels: np.ndarray
  seed: int
  diverged: int

  def _bind(
    self,
    folder: str | epath.PathLike | None,
    num_classes: int,
    values: np.ndarray,
    labels: np.ndarray,
    target_values: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
    share: tuple[int, int],
  ) -> None:
    """Sets the attributes; opens no store yet."""
    polling.check_share(share)
    self._share, self.seed = share, check_seed(seed)
    self._folder = None if folder is None else atomic_io.as_path(folder)
    self.num_classes, self.values = num_classes, values
    self.labels = np.asarray(labels, np.int32)
    self.target_values = target_values
    self.target_labels = np.asarray(target_labels, np.int32)
    self.diverged = 0

  @property
  @abc.abstractmethod
  def rows(self) -> int:
    """Models that are trained and stored together."""

  @property
  @abc.abstractmethod
  def provenance(self) -> Mapping[str, str]:
    """Settings that are no part of a model's identity, but noted with it."""

  @abc.abstractmethod
  def _depends_on(self) -> dict[str, Any]:
    """What margins depend on beside labels, targets and seed, as JSON values."""

  @abc.abstractmethod
  def train_parts(self, parts: Iterable[ModelSpecs]) -> Iterator[np.ndarray]:
    """Trains models; yields margins float32[m, t] of each part of at most `rows`."""

  @functools.cached_property
  def _identity(self) -> dict[str, Any]:
    """See `identity`."""
    return self._depends_on() | {
      "train_labels": identity.digest(self.labels),
      "target_pixels": identity.digest(self.target_values),
      "target_labels": identity.digest(self.target_labels),
      "seed": self.seed,
    }

  def identity(self) -> dict[str, Any]:
    """What margins depend on beside training sets and seeds of models, as JSON values."""
    return dict(self._identity)

  @functools.cached_property
  def changes(self) -> bank.Bank:
    """What `__call__` remembers: the store 'changes' in the folder.

    Raises:
      StoreError: if the folder holds models that depend on something else, naming it.
    """
    classes = self.num_classes
    return bank.Bank(self._open(CHANGES, {}, label_classes=classes))

  def open_subsets(
    self,
    name: str,
    subsets: Subsets,
    models: int,
    *,
    dtype: str = "float32",
    keep_logits: bool = False,
    predict_training: bool = False,
    rows_per_chunk: int = store_layout.ROWS_PER_CHUNK,
  ) -> Collection:
    """Opens or makes a store of models on random subsets, for `collect`.

    Args:
      name: of its folder.
      subsets: which models they are.
      models: how many are wanted.
      dtype: of margins and logits: 'float32' or 'float16'.
      keep_logits: store every logit as well.
      predict_training: predict all training examples too, and keep the predictions in a
        store beside the other one (see `storage.training_predictions`).
      rows_per_chunk: models a chunk; an existing store keeps its own.

    Raises:
      StoreError: if the folder holds models that depend on something else, naming it.
    """
    law = {"law": "uniform, of exactly alpha * n examples"} | dataclasses.asdict(subsets)
    store = self._open(
      name,
      law,
      dtype=dtype,
      num_logits=self.num_classes if keep_logits else 0,
      rows_per_chunk=rows_per_chunk,
    )
    if not predict_training:
      return Collection(store, subsets, models)
    training = training_predictions.open_store(
      self._stores() / (name + TRAINING),
      num_train=len(self.labels),
      num_classes=self.num_classes if self._knows_classes else None,
      settings=self.identity() | law,
      rows_per_chunk=store.rows_per_chunk,
      provenance=lambda: self.provenance,
    )
    return Collection(store, subsets, models, training)

  def in_folder(self, folder: str | epath.PathLike) -> Self:
    """The same trainer with the stores of another folder."""
    other = copy.copy(self)
    other.__dict__.pop("changes", None)
    other._folder = atomic_io.as_path(folder)
    return other

  def has_store(self, name: str) -> bool:
    """Whether the folder has a store of this name; opens and makes nothing."""
    return store_layout.exists(self._stores() / name)

  def _stores(self) -> epath.Path:
    """The folder of the stores; ValueError if there is none."""
    if self._folder is None:
      raise ValueError("a Trainer needs a folder to store models in")
    return self._folder

  def _open(self, name: str, more: dict[str, Any], **options: Any) -> store_lib.Store:
    """A store that depends on `identity`, and on something more."""
    return bank.open_store(
      self._stores() / name,
      num_targets=len(self.target_labels),
      num_train=len(self.labels),
      settings=self.identity() | more,
      provenance=lambda: self.provenance,
      **options,
    )

  def __call__(
    self,
    masks: np.ndarray,
    labels: np.ndarray,
    seeds: Sequence[int] | np.ndarray,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> np.ndarray:
    """Margins of models trained on the given sets.

    Args:
      masks: bool[m, n], which examples each model is trained on.
      labels: int[m, n] or int[n], the labels to train with, in [0, k).
      seeds: int[m], in [0, 2**32); whatever the set, the same seed means the same
        initialisation and the same stream of shuffles.
      progress: called with (models done, models in all), the first time with what the
        folder already holds.

    Returns:
      float32[m, t], in logits; rows of a diverged model are not finite.

    Raises:
      ValueError: on arrays of another shape or kind, or with other values.
    """
    models = training_sets.model_specs(
      masks,
      labels,
      seeds,
      num_train=len(self.labels),
      num_classes=self.num_classes,
    )
    rows = self.rows
    if self._folder is not None:
      return recall.recall(
        self.changes,
        models,
        self.train_parts,
        rows=rows,
        share=self._share,
        progress=progress,
      )
    count = len(models.seeds)
    margins = np.empty((count, len(self.target_labels)), np.float32)
    starts = range(0, count, rows)
    progress(0, count)
    parts = (models.rows(slice(start, start + rows)) for start in starts)
    for start, margins_mt in zip(starts, self.train_parts(parts), strict=True):
      margins[start : start + rows] = margins_mt
      progress(start + len(margins_mt), count)
    return margins

  def _mark_diverged(self, margins_mt: np.ndarray) -> np.ndarray:
    """Counts models that diverged, and sets their rows to NaN in place."""
    diverged_m = ~np.isfinite(margins_mt).all(axis=1)
    self.diverged += int(diverged_m.sum())
    margins_mt[diverged_m] = np.nan
    return margins_mt
