"""Margins of trained models: those on random subsets by number, all others by id."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import identity, prng, training_sets
from jaxdm.storage import store as store_lib
from jaxdm.storage import store_layout, zarr_arrays

_READ_BYTES = 2**27


def open_store(
  path: str | epath.PathLike,
  *,
  num_targets: int,
  num_train: int,
  settings: Mapping[str, Any],
  rows_per_chunk: int = store_layout.ROWS_PER_CHUNK,
  dtype: str = "float32",
  num_logits: int = 0,
  label_classes: int = 0,
  provenance: Callable[[], Mapping[str, str]] = dict,
) -> store_lib.Store:
  """A store of margins [m, t] and masks, eight examples to a byte.

  `training.trainer` opens the stores of models that it trains, since it knows all that
  they depend on; this is for models that come from elsewhere. There are nine arguments,
  since each is a part of the store's layout or identity.

  Args:
    path: see `store.Store`.
    num_targets: t.
    num_train: n.
    settings: what the margins depend on; JSON values.
    rows_per_chunk: models a chunk; an existing store keeps its own.
    dtype: of the margins, and of the logits.
    num_logits: k, to keep every logit of every target as well; 0: none.
    label_classes: k, to keep the labels [m, n] that each model was trained with, in the
      smallest type that holds them; 0: none, all models have the dataset's labels.
    provenance: see `store.Store`.
  """
  columns = {
    "margins": zarr_arrays.ArraySpec(dtype, num_targets),
    "masks": zarr_arrays.ArraySpec("uint8", -(-num_train // 8), by_columns=False),
  }
  if num_logits:
    columns["logits"] = zarr_arrays.ArraySpec(dtype, num_targets * num_logits)
  if label_classes:
    smallest = np.min_scalar_type(label_classes - 1).name
    # Rows differ in few labels, so that they are small once compressed.
    columns["labels"] = zarr_arrays.ArraySpec(
      smallest, num_train, by_columns=False, compressed=True
    )
  sizes = {"num_targets": num_targets, "num_train": num_train}
  return store_lib.Store(
    path,
    columns=columns,
    settings={**sizes, **settings},
    rows_per_chunk=rows_per_chunk,
    provenance=provenance,
  )


def write(
  store: store_lib.Store,
  chunk: int,
  masks_mn: np.ndarray,
  margins_mt: np.ndarray,
  logits_mtk: np.ndarray | None = None,
  about: Mapping[str, Any] = {},
  *,
  labels_mn: np.ndarray | None = None,
) -> None:
  """Writes a chunk of models, with logits and labels where the store keeps them.

  A model that diverged is a row of NaN. So is one with numbers that are infinite or that
  the store's type, if it is float16, cannot hold: they would not come back as they are.
  """
  arrays = {"margins": margins_mt}
  if "logits" in store.columns:
    assert logits_mtk is not None
    arrays["logits"] = logits_mtk.reshape(len(logits_mtk), -1)
  most = np.finfo(store.columns["margins"].dtype).max
  diverged_m = np.any([(np.abs(a) > most).any(axis=1) for a in arrays.values()], axis=0)
  for name, array in arrays.items():
    arrays[name] = np.where(diverged_m[:, None], np.nan, array)
  diverged = int(np.isnan(arrays["margins"]).all(axis=1).sum())
  arrays["masks"] = np.packbits(masks_mn, axis=1)
  if "labels" in store.columns:
    assert labels_mn is not None
    arrays["labels"] = labels_mn
  store.write(chunk, arrays, {"diverged": diverged, **about})


def write_from(
  store: store_lib.Store,
  first: int,
  masks_mn: np.ndarray,
  margins_mt: np.ndarray,
  logits_mtk: np.ndarray | None = None,
) -> None:
  """Writes models by number, to the end of a chunk whose first rows may be there.

  Args:
    store: of `open_store`, without labels.
    first: number of the first one; those before it in its chunk are in the store.
    masks_mn: see `write`.
    margins_mt: see `write`.
    logits_mtk: see `write`.
  """
  chunk, before = divmod(first, store.rows_per_chunk)
  rows = np.arange(first - before, first)
  if before:
    masks_mn = np.concatenate([packed_masks(store, rows)[:], masks_mn])
    margins_mt = np.concatenate([store.read("margins", rows), margins_mt])
  if before and logits_mtk is not None and "logits" in store.columns:
    earlier = store.read("logits", rows).reshape(before, *logits_mtk.shape[1:])
    logits_mtk = np.concatenate([earlier, logits_mtk])
  write(store, chunk, masks_mn, margins_mt, logits_mtk)


def packed_masks(store: store_lib.Store, rows: np.ndarray) -> training_sets.PackedMasks:
  """The training sets of some models, as they were stored with their margins.

  Args:
    store: of `open_store`.
    rows: int, their numbers.

  Raises:
    StoreError: if what is read is damaged.
  """
  rows = np.asarray(rows, int)
  width = store.columns["masks"].width
  bits = np.empty((len(rows), width), np.uint8)
  size = max(1, _READ_BYTES // (width * store.rows_per_chunk)) * store.rows_per_chunk
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    bits[start : start + size] = _read_rows(store, "masks", part)
  return training_sets.PackedMasks(bits, int(store.settings["num_train"]))


def _read_rows(store: store_lib.Store, name: str, rows: np.ndarray) -> np.ndarray:
  """Rows of an array; neighbours as one slice, which is faster than numbers."""
  if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
    return store.read(name, slice(int(rows[0]), int(rows[0]) + len(rows)))
  return store.read(name, rows)


def model_ids(
  masks_mn: np.ndarray, labels_mn: np.ndarray, seeds: Sequence[prng.Stream]
) -> list[str]:
  """Ids of models: the seed, and a digest of the training set (see `fingerprints`)."""
  prints = training_sets.fingerprints(masks_mn, labels_mn)
  return [f"{s.family}/{s.number}/{p}" for s, p in zip(seeds, prints, strict=True)]


class Bank:
  """Margins of models by id, appended to and never rewritten.

  A chunk's number is a digest of its ids, so that processes need not coordinate.
  """

  def __init__(self, store: store_lib.Store):
    """Takes a store with labels; no model is known before `refresh`."""
    self._store = store
    self._row_of: dict[str, int] = {}
    self._known: set[int] = set()

  @property
  def path(self) -> epath.Path:
    """The store's folder."""
    return self._store.path

  @property
  def num_train(self) -> int:
    """The number of training examples, n."""
    return int(self._store.settings["num_train"])

  @property
  def most_classes(self) -> int:
    """The number of classes whose labels the store's type can hold."""
    return int(np.iinfo(self._store.columns["labels"].dtype).max) + 1

  def refresh(self) -> None:
    """Reads which models any process has stored since the last call."""
    for chunk, rows in self._store.chunks().items():
      if chunk not in self._known:
        self._admit(chunk, self._store.about(chunk, rows)["ids"])

  def __contains__(self, model_id: str) -> bool:
    return model_id in self._row_of

  def __len__(self) -> int:
    return len(self._row_of)

  def append(
    self,
    seeds: Sequence[prng.Stream],
    masks_mn: np.ndarray,
    labels_mn: np.ndarray,
    margins_mt: np.ndarray,
  ) -> None:
    """Stores models that are not in the bank yet; durable when it returns.

    Args:
      seeds: of the models.
      masks_mn: bool, their training sets.
      labels_mn: int, the labels that they were trained with.
      margins_mt: float32, in logits; NaN marks a diverged model.
    """
    ids, size = model_ids(masks_mn, labels_mn, seeds), self._store.rows_per_chunk
    for start in range(0, len(ids), size):
      part = slice(start, min(start + size, len(ids)))
      chunk = _chunk_of(ids[part])
      about = {"ids": list(ids[part])}
      write(
        self._store,
        chunk,
        masks_mn[part],
        margins_mt[part],
        about=about,
        labels_mn=labels_mn[part],
      )
      self._admit(chunk, ids[part])

  def margins(self, ids: Sequence[str]) -> np.ndarray:
    """float32[m, t] of models in the bank."""
    return self._store.read("margins", np.array([self._row_of[i] for i in ids], int))

  def wrong_chunks(self) -> Iterator[tuple[int, str]]:
    """Chunks whose ids are not those of the stored training sets.

    Yields:
      The chunk, and what is wrong, in words.
    """
    store = self._store
    for chunk, count in store.chunks().items():
      ids = store.about(chunk, count)["ids"]
      first = chunk * store.rows_per_chunk
      rows = np.arange(first, first + count)
      masks_mn = packed_masks(store, rows)[:]
      prints = training_sets.fingerprints(masks_mn, _read_rows(store, "labels", rows))
      digests = [model_id.rpartition("/")[2] for model_id in ids]
      if digests != prints:
        yield chunk, "not the training sets, or the labels, of the models' ids"
      elif _chunk_of(ids) != chunk:
        yield chunk, "ids of another chunk"

  def _admit(self, chunk: int, ids: Sequence[str]) -> None:
    """Adds a chunk's models to the index."""
    self._known.add(chunk)
    for offset, model_id in enumerate(ids):
      row = chunk * self._store.rows_per_chunk + offset
      self._row_of.setdefault(model_id, row)


def _chunk_of(ids: Sequence[str]) -> int:
  """The number of the chunk that holds these models."""
  return int(identity.digest(list(ids))[:16], 16) % zarr_arrays.CHUNKS
