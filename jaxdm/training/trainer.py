"""Edited training sets in, margins out: the one way models are asked for.

Collecting data for datamodels, verifying a removal and verifying a label flip all go
through a `Trainer`, and train only what its stores do not hold yet. It opens the stores
itself, since it has all that their models depend on: no caller can leave a part out.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import linen as nn

from jaxdm import margins, prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.data.dataset import Dataset
from jaxdm.storage import bank, identity, polling, recall
from jaxdm.storage import store as store_lib
from jaxdm.training import fleet as fleet_lib
from jaxdm.training.collection import Collection, Subsets, missing
from jaxdm.training.recipe import TrainConfig
from jaxdm.training.speed import Speed
from jaxdm.training_sets import Models
from jaxdm.typing import Array

CHANGES = "changes"
# Masks bool[m, n], labels int[n] or int[m, n], and m streams of random numbers.
_Part = tuple[np.ndarray, np.ndarray, Sequence[prng.Seed]]


class Trainer:
  """Trains a dataset's models; a `retrain` function of masks, labels and seeds.

  Attributes:
    fleet: trains many models at once.
    labels: int32[n], of the training examples.
    target_values: uint8[t, h, w, c] or float32[t, d], the inputs of the targets.
    target_labels: int32[t].
    seed: root of every model's randomness.
    diverged: models trained here that diverged.

  >>> import jaxdm, numpy as np
  >>> shirts = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 20, 10)
  >>> config = jaxdm.TrainConfig(epochs=4, batch_size=10)
  >>> trainer = jaxdm.Trainer(shirts, config, network="linear")
  >>> masks = jaxdm.random_subsets(3, 40, alpha=0.5, seed=0)
  >>> trainer(masks, shirts.train_labels, np.arange(3)).shape
  (3, 20)
  """

  fleet: fleet_lib.Fleet
  labels: np.ndarray
  target_values: np.ndarray
  target_labels: np.ndarray
  seed: int
  diverged: int

  def __init__(
    self,
    dataset: Dataset,
    config: TrainConfig = TrainConfig(),
    *,
    network: str | nn.Module = "resnet9",
    folder: str | epath.PathLike | None = None,
    seed: int = 0,
    speed: Speed = Speed(),
  ):
    """Uses no device and opens no store yet.

    Args:
      dataset: the training examples, and the targets whose margins are returned.
      config: how each model is trained.
      network: 'resnet9', 'mlp', 'linear' or a Flax module; see `networks.make`.
      folder: for stores, so that no model is trained twice; it may be in a bucket. None:
        nothing is remembered.
      seed: root of every model's randomness, in [0, 2**32).
      speed: how many models are trained side by side; changes results by rounding alone.

    Raises:
      UserError: on a network that does not fit the data.
    """
    fleet = fleet_lib.Fleet(
      config, dataset.train_images, dataset.num_classes, speed, network=network
    )
    targets = dataset.test_images, dataset.test_labels
    self._set(fleet, folder, dataset.train_labels, *targets, seed, (0, 1))

  @classmethod
  def of(
    cls,
    fleet: fleet_lib.Fleet,
    folder: str | epath.PathLike | None,
    labels: np.ndarray,
    target_values: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
    share: tuple[int, int] = (0, 1),
  ) -> "Trainer":
    """Binds a fleet to labels, targets and a seed.

    Args:
      fleet: trains them.
      folder: see above.
      labels: int[n], of the training examples.
      target_values: uint8[t, h, w, c] or float32[t, d].
      target_labels: int[t].
      seed: root of every model's randomness.
      share: (i, N): this is process i of N that ask for the same models, in the same
        order, and meet in the store: `__call__` trains an Nth of them and waits for the
        others to store the rest.

    Raises:
      ValueError: if `share` is none.
    """
    made = cls.__new__(cls)
    made._set(fleet, folder, labels, target_values, target_labels, seed, share)
    return made

  def _set(
    self,
    fleet: fleet_lib.Fleet,
    folder: str | epath.PathLike | None,
    labels: np.ndarray,
    target_values: np.ndarray,
    target_labels: np.ndarray,
    seed: int,
    share: tuple[int, int],
  ) -> None:
    """What both constructors do."""
    polling.check_share(share)
    self.fleet, self._share, self.seed = fleet, share, seed
    self._folder = None if folder is None else epath.Path(folder)
    self.labels = np.asarray(labels, np.int32)
    self.target_values = target_values
    self.target_labels = np.asarray(target_labels, np.int32)
    self.diverged = 0

  @functools.cached_property
  def _identity(self) -> dict[str, Any]:
    """See `identity`."""
    return self.fleet.identity() | {
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
    classes = self.fleet.num_classes
    return bank.Bank(self._open(CHANGES, {}, label_classes=classes))

  def open_subsets(
    self,
    name: str,
    subsets: Subsets,
    models: int,
    *,
    dtype: str = "float32",
    keep_logits: bool = False,
    rows_per_chunk: int = store_lib.ROWS_PER_CHUNK,
  ) -> Collection:
    """Opens or makes a store of models on random subsets, for `collect`.

    Args:
      name: of its folder.
      subsets: which models they are.
      models: how many are wanted.
      dtype: of margins and logits: 'float32' or 'float16'.
      keep_logits: store every logit as well.
      rows_per_chunk: models a chunk; an existing store keeps its own.

    Raises:
      StoreError: if the folder holds models that depend on something else, naming it.
    """
    law = {"law": "uniform, of exactly alpha * n examples"}
    store = self._open(
      name,
      law | dataclasses.asdict(subsets),
      dtype=dtype,
      num_logits=self.fleet.num_classes if keep_logits else 0,
      rows_per_chunk=rows_per_chunk,
    )
    return Collection(store, subsets, models)

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
      provenance=lambda: self.fleet.provenance,
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
      labels: int[m, n] or int[n], the labels to train with.
      seeds: int[m]; whatever the set, the same seed means the same initialisation and
        the same stream of shuffles.
      progress: called with (models done, models in all), the first time with what the
        folder already holds.

    Returns:
      float32[m, t], in logits; rows of a diverged model are not finite.
    """
    masks = np.asarray(masks, bool)
    labels_mn = np.broadcast_to(np.asarray(labels, np.int32), masks.shape)
    models = Models(masks, labels_mn, np.asarray(seeds))
    rows = self.fleet.rows
    if self._folder is not None:
      return recall.recall(
        self.changes,
        models,
        self._trained_margins,
        rows=rows,
        share=self._share,
        progress=progress,
      )
    found = np.empty((len(masks), len(self.target_labels)), np.float32)
    starts = range(0, len(masks), rows)
    progress(0, len(masks))
    asked = (models.rows(slice(start, start + rows)) for start in starts)
    for start, margins_mt in zip(starts, self._trained_margins(asked), strict=True):
      found[start : start + rows] = margins_mt
      progress(start + len(margins_mt), len(masks))
    return found

  def _trained_margins(self, asked: Iterable[Models]) -> Iterator[np.ndarray]:
    """Margins of each part; half-trained models are forgotten when it is stored."""
    for logits_mtk in self._trained(asked):
      yield self._margins(logits_mtk)
      self.fleet.settle()

  def collect(
    self,
    collection: Collection,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> None:
    """Trains what is missing of a collection and writes it to the store, chunk by chunk.

    Args:
      collection: of `open_subsets`.
      shard: see `missing`.
      progress: called with (models done, models in all).
    """
    store, subsets = collection.store, collection.subsets
    chunks = missing(store, collection.models, shard=shard)
    numbers = np.concatenate([np.zeros(0, int), *(np.asarray(c) for c in chunks)])
    size = self.fleet.rows
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    waiting_masks: list[np.ndarray] = []
    waiting_logits: list[np.ndarray] = []

    def asked() -> Iterator[_Part]:
      for part in parts:
        masks_mn = subsets.masks(self.seed, len(self.labels), part)
        waiting_masks.extend(masks_mn)
        streams = [prng.Seed(subsets.family, int(number)) for number in part]
        yield masks_mn, self.labels, streams

    left, done = list(chunks), 0
    progress(done, len(numbers))
    for logits_mtk in self._trained_logits(asked()):
      waiting_logits.extend(logits_mtk)
      while left and len(left[0]) <= len(waiting_logits):
        first, rows = left[0].start, len(left.pop(0))
        logits_mtk = np.array(waiting_logits[:rows])
        masks_mn, margins_mt = np.array(waiting_masks[:rows]), self._margins(logits_mtk)
        bank.write_from(store, first, masks_mn, margins_mt, logits_mtk)
        del waiting_masks[:rows], waiting_logits[:rows]
        if not waiting_logits:
          self.fleet.settle()
        done += rows
        progress(done, len(numbers))

  def _margins(self, logits_mtk: np.ndarray) -> np.ndarray:
    """float32[m, t]; models that diverged are noted, and rows of NaN."""
    found = margins.correct_class_margins(logits_mtk, self.target_labels)
    diverged_m = ~np.isfinite(found).all(axis=1)
    self.diverged += int(diverged_m.sum())
    found[diverged_m] = np.nan
    return found

  def _trained(self, asked: Iterable[Models]) -> Iterator[np.ndarray]:
    """Logits float32[m, t, k] of parts of at most `Fleet.rows` models each."""
    parts = (
      (part.masks_mn, part.labels_mn, [prng.stream_of(int(seed)) for seed in part.seeds])
      for part in asked
    )
    return self._trained_logits(parts)

  def _trained_logits(self, parts: Iterable[_Part]) -> Iterator[np.ndarray]:
    """The same of masks, labels and streams."""

    def calls() -> Iterator[tuple[training_sets.TrainingSets, Array]]:
      for masks_mn, labels, streams in parts:
        # Always as many keys, so that nothing is compiled for other numbers of models.
        padded = itertools.islice(itertools.cycle(streams), self.fleet.rows)
        keys = prng.keys_for(self.seed, list(padded))
        yield training_sets.from_masks(masks_mn, labels), keys

    for output in self.fleet.train_models(calls(), self.target_values):
      yield np.asarray(output.logits)[: output.num_models]
