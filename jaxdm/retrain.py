"""Edited training sets in, margins out: the one way models are asked for.

Collecting data for datamodels, verifying a removal and verifying a label flip all go
through a `Retrainer`, and train only what its stores do not hold yet.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxdm import Array, bank, fleet, margins, prng, training_sets, waiting
from jaxdm import progress as progress_lib
from jaxdm import store as store_lib


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


class Retrainer:
  """Margins of models on the targets, trained on demand and remembered.

  Attributes:
    diverged: models trained here that diverged.
  """

  def __init__(
    self,
    models: fleet.Fleet,
    store: bank.Bank,
    labels: np.ndarray,
    target_pixels: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
    share: tuple[int, int] = (0, 1),
  ):
    """Binds a fleet to a store and a set of targets.

    Args:
      models: trains them.
      store: remembers what `__call__` is asked for.
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
    waiting.check_share(share)
    self._share = share
    self._models, self._store = models, store
    self._labels = np.asarray(labels, np.int32)
    self._target_pixels, self._target_labels = target_pixels, target_labels
    self._seed = seed
    self.diverged = 0

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
    prints = training_sets.fingerprints(masks_mn, labels_mn)
    ids = [f"{s.family}/{s.number}/{p}" for s, p in zip(seeds, prints, strict=True)]
    self._store.refresh()
    index, processes = self._share
    first = {model_id: row for row, model_id in reversed(list(enumerate(ids)))}
    mine = sorted(first.values())[index::processes]
    todo = np.array([row for row in mine if ids[row] not in self._store], int)
    size = self._models.rows

    def tell() -> bool:
      done = sum(model_id in self._store for model_id in ids)
      progress(done, len(ids))
      return done == len(ids)

    def stored() -> bool:
      self._store.refresh()
      return tell()

    ended = tell()
    parts = [todo[i : i + size] for i in range(0, len(todo), size)]
    asked = (Models(masks_mn[p], [seeds[r] for r in p], labels_mn[p]) for p in parts)
    for part, logits_mtk in zip(parts, self._trained(asked), strict=True):
      margins_mt = self._margins(logits_mtk)
      self._store.append([ids[r] for r in part], masks_mn[part], margins_mt)
      self._models.settle()
      ended = tell()
    if not ended:
      waiting.until(stored, "its share of the models")
    return self._store.margins(ids)

  def collect(
    self,
    store: store_lib.Store,
    chunks: Sequence[range],
    masks_of: Callable[[np.ndarray], np.ndarray],
    family: str,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> None:
    """Trains numbered models and writes them to a store, chunk by chunk.

    Args:
      store: of `bank.open_store`; row i is model i.
      chunks: numbers of the models of each chunk that is missing.
      masks_of: their training sets, bool[m, n], by number.
      family: of their seeds.
      progress: called with (models done, models in all).
    """
    numbers = np.concatenate([np.zeros(0, int), *(np.asarray(c) for c in chunks)])
    size = self._models.rows
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    waiting_masks: list[np.ndarray] = []
    waiting_logits: list[np.ndarray] = []

    def asked() -> Iterator[Models]:
      for part in parts:
        masks_mn = masks_of(part)
        waiting_masks.extend(masks_mn)
        seeds = [prng.Seed(family, int(number)) for number in part]
        yield Models(masks_mn, seeds, np.broadcast_to(self._labels, masks_mn.shape))

    left, done = list(chunks), 0
    progress(done, len(numbers))
    for logits_mtk in self._trained(asked()):
      waiting_logits.extend(logits_mtk)
      while left and len(left[0]) <= len(waiting_logits):
        chunk, rows = left[0].start // store.rows_per_chunk, len(left.pop(0))
        logits_mtk = np.array(waiting_logits[:rows])
        masks_mn, margins_mt = np.array(waiting_masks[:rows]), self._margins(logits_mtk)
        bank.write(store, chunk, masks_mn, margins_mt, logits_mtk)
        del waiting_masks[:rows], waiting_logits[:rows]
        if not waiting_logits:
          self._models.settle()
        done += rows
        progress(done, len(numbers))

  def _margins(self, logits_mtk: np.ndarray) -> np.ndarray:
    """float32[m, t]; notes models that diverged."""
    found = np.asarray(margins.correct_class_margins(logits_mtk, self._target_labels))
    self.diverged += int((~np.isfinite(found).all(axis=1)).sum())
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
    The numbers of the models of each chunk.
  """
  size, whole = store.rows_per_chunk, store.chunks()
  index, of = shard
  found = []
  for chunk in range(index, -(-count // size), of):
    numbers = range(chunk * size, min((chunk + 1) * size, count))
    if whole.get(chunk, 0) < len(numbers):
      found.append(numbers)
  return found
