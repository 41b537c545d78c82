"""Edited training sets in, margins out: the one way models are asked for.

Collecting data for datamodels, verifying a removal and verifying a label flip all go
through a `Retrainer`, and train only what its stores do not hold yet. It opens the stores
itself, since it has all that their models depend on: no caller can leave a part out.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdm import margins, prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.storage import bank, identity, polling
from jaxdm.storage import store as store_lib
from jaxdm.training import fleet
from jaxdm.typing import Array

CHANGES = "changes"


class Models(NamedTuple):
  """Models to train.

  Attributes:
    masks_mn: bool, which examples each one is trained on.
    seeds: m of them, such as ('verify', 3); whatever the set, the same seed means the
      same initialisation and the same stream of shuffles.
    labels_mn: int32, the labels to train with.
  """

  masks_mn: np.ndarray
  seeds: Sequence[prng.Seed]
  labels_mn: np.ndarray


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
    store: of `Retrainer.open_subsets`.
    subsets: which models they are.
    models: how many are wanted.
  """

  store: store_lib.Store
  subsets: Subsets
  models: int


class Retrainer:
  """Margins of models on the targets, trained on demand and remembered.

  Attributes:
    diverged: models trained here that diverged.
  """

  def __init__(
    self,
    models: fleet.Fleet,
    folder: str | epath.PathLike,
    labels: np.ndarray,
    target_pixels: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
    share: tuple[int, int] = (0, 1),
  ):
    """Binds a fleet to labels, targets and a seed; opens no store yet.

    Args:
      models: trains them.
      folder: for the stores; it may be in a bucket (see `store.Store`).
      labels: int[n], of the training examples.
      target_pixels: uint8[t, h, w, c].
      target_labels: int[t].
      seed: root of every model's randomness.
      share: (i, N): this is process i of N that ask for the same models, in the same
        order, and meet in the store: `__call__` trains an Nth of them and waits for the
        others to store the rest.

    Raises:
      ValueError: if `share` is none.
    """
    polling.check_share(share)
    self._share = share
    self._models, self._folder = models, epath.Path(folder)
    self._labels = np.asarray(labels, np.int32)
    self._target_pixels, self._target_labels = target_pixels, target_labels
    self._seed = seed
    self.diverged = 0

  @functools.cached_property
  def _identity(self) -> dict[str, Any]:
    """See `identity`."""
    return self._models.identity() | {
      "train_labels": identity.digest(self._labels),
      "target_pixels": identity.digest(self._target_pixels),
      "target_labels": identity.digest(np.asarray(self._target_labels, np.int32)),
      "seed": self._seed,
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
    classes = self._models.num_classes
    return bank.Bank(self._open(CHANGES, {}, label_classes=classes))

  def open_subsets(
    self,
    name: str,
    subsets: Subsets,
    models: int,
    *,
    dtype: str = "float32",
    keep_logits: bool = False,
    rows_per_chunk: int = 32,
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
      num_logits=self._models.num_classes if keep_logits else 0,
      rows_per_chunk=rows_per_chunk,
    )
    return Collection(store, subsets, models)

  def _open(self, name: str, more: dict[str, Any], **options: Any) -> store_lib.Store:
    """A store that depends on `identity`, and on something more."""
    return bank.open_store(
      self._folder / name,
      num_targets=len(self._target_labels),
      num_train=len(self._labels),
      settings=self.identity() | more,
      provenance=self._models.provenance,
      **options,
    )

  def __call__(
    self,
    masks_mn: np.ndarray,
    seeds: Sequence[prng.Seed],
    *,
    labels_mn: np.ndarray | None = None,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> np.ndarray:
    """Margins of models trained on the given sets.

    Args:
      masks_mn: see `Models`.
      seeds: see `Models`.
      labels_mn: int, the labels to train with; None: the true ones.
      progress: called with (models done, models in all), the first time with what
        the store already holds.

    Returns:
      float32[m, t], in logits; rows of a diverged model are not finite.
    """
    labels_mn = np.broadcast_to(
      self._labels if labels_mn is None else labels_mn, masks_mn.shape
    )
    ids, store = bank.model_ids(masks_mn, labels_mn, seeds), self.changes
    store.refresh()
    index, processes = self._share
    first = {model_id: row for row, model_id in reversed(list(enumerate(ids)))}
    mine = sorted(first.values())[index::processes]
    todo = np.array([row for row in mine if ids[row] not in store], int)
    size = self._models.rows

    def tell() -> bool:
      done = sum(model_id in store for model_id in ids)
      progress(done, len(ids))
      return done == len(ids)

    def stored() -> bool:
      store.refresh()
      return tell()

    ended = tell()
    parts = [todo[i : i + size] for i in range(0, len(todo), size)]
    asked = (Models(masks_mn[p], [seeds[r] for r in p], labels_mn[p]) for p in parts)
    for part, logits_mtk in zip(parts, self._trained(asked), strict=True):
      margins_mt = self._margins(logits_mtk)
      store.append([seeds[r] for r in part], masks_mn[part], labels_mn[part], margins_mt)
      self._models.settle()
      ended = tell()
    if not ended:
      polling.until(stored, "its share of the models")
    return store.margins(ids)

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
    size = self._models.rows
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    waiting_masks: list[np.ndarray] = []
    waiting_logits: list[np.ndarray] = []

    def asked() -> Iterator[Models]:
      for part in parts:
        masks_mn = subsets.masks(self._seed, len(self._labels), part)
        waiting_masks.extend(masks_mn)
        seeds = [prng.Seed(subsets.family, int(number)) for number in part]
        yield Models(masks_mn, seeds, np.broadcast_to(self._labels, masks_mn.shape))

    left, done = list(chunks), 0
    progress(done, len(numbers))
    for logits_mtk in self._trained(asked()):
      waiting_logits.extend(logits_mtk)
      while left and len(left[0]) <= len(waiting_logits):
        first, rows = left[0].start, len(left.pop(0))
        logits_mtk = np.array(waiting_logits[:rows])
        masks_mn, margins_mt = np.array(waiting_masks[:rows]), self._margins(logits_mtk)
        bank.write_from(store, first, masks_mn, margins_mt, logits_mtk)
        del waiting_masks[:rows], waiting_logits[:rows]
        if not waiting_logits:
          self._models.settle()
        done += rows
        progress(done, len(numbers))

  def _margins(self, logits_mtk: np.ndarray) -> np.ndarray:
    """float32[m, t]; models that diverged are noted, and rows of NaN."""
    found = np.array(margins.correct_class_margins(logits_mtk, self._target_labels))
    diverged_m = ~np.isfinite(found).all(axis=1)
    self.diverged += int(diverged_m.sum())
    found[diverged_m] = np.nan
    return found

  def _trained(self, asked: Iterable[Models]) -> Iterator[np.ndarray]:
    """Logits float32[m, t, k] of parts of at most a fleet's chunk of models each."""

    def chunks() -> Iterator[tuple[training_sets.TrainingSets, Array]]:
      for part in asked:
        # Always as many keys, so that nothing is compiled for other numbers of models.
        padded = itertools.islice(itertools.cycle(part.seeds), self._models.rows)
        keys = prng.keys_for(self._seed, list(padded))
        yield training_sets.from_masks(part.masks_mn, part.labels_mn), keys

    for output in self._models.train_models(chunks(), self._target_pixels):
      yield np.asarray(output.logits)[: output.num_models]


def missing(
  store: store_lib.Store, count: int, *, shard: tuple[int, int] = (0, 1)
) -> list[range]:
  """Which of so many numbered models a store lacks, chunk by chunk.

  Args:
    store: where row i is model i.
    count: models in all.
    shard: (i, N): only the chunks whose numbers leave i when divided by N. Whose a chunk
      is depends on nothing else, so hosts need not talk, and their number may change.

  Returns:
    The numbers of the models that each such chunk lacks, at its end.
  """
  size, whole = store.rows_per_chunk, store.chunks()
  index, of = shard
  found = []
  for chunk in range(index, -(-count // size), of):
    numbers = range(chunk * size + whole.get(chunk, 0), min((chunk + 1) * size, count))
    if numbers:
      found.append(numbers)
  return found
