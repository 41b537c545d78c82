"""Margins of trained models: those on random subsets by number, all others by id."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import store as store_lib


def open_store(
  path: str | epath.PathLike,
  *,
  num_targets: int,
  num_train: int,
  settings: Mapping[str, Any],
  rows_per_chunk: int = 32,
  dtype: str = "float32",
  num_logits: int = 0,
) -> store_lib.Store:
  """A store of margins [m, t] and masks, eight examples to a byte; logits by choice.

  Args:
    path: see `store.Store`.
    num_targets: t.
    num_train: n.
    settings: what the margins depend on; JSON values.
    rows_per_chunk: models a chunk; an existing store keeps its own.
    dtype: of the margins, and of the logits.
    num_logits: k, to keep every logit of every target as well; 0: none.
  """
  columns = {
    "margins": store_lib.Column(dtype, num_targets),
    "masks": store_lib.Column("uint8", -(-num_train // 8)),
  }
  if num_logits:
    columns["logits"] = store_lib.Column(dtype, num_targets * num_logits)
  sizes = {"num_targets": num_targets, "num_train": num_train}
  return store_lib.Store(
    path, columns=columns, settings={**sizes, **settings}, rows_per_chunk=rows_per_chunk
  )


def write(
  store: store_lib.Store,
  chunk: int,
  masks_mn: np.ndarray,
  margins_mt: np.ndarray,
  logits_mtk: np.ndarray | None = None,
  about: Mapping[str, Any] = {},
) -> None:
  """Writes a chunk of models, with logits where the store keeps them.

  A model that diverged is a row of NaN. So is one whose numbers the store's type, if it
  is float16, cannot hold: they would not come back as they are.
  """
  arrays = {"margins": margins_mt}
  if "logits" in store.columns:
    assert logits_mtk is not None
    arrays["logits"] = logits_mtk.reshape(len(logits_mtk), -1)
  most = np.finfo(store.columns["margins"].dtype).max
  lost_m = np.any([~(np.abs(a) <= most).all(axis=1) for a in arrays.values()], axis=0)
  for name, array in arrays.items():
    arrays[name] = np.where(lost_m[:, None], np.nan, array)
  diverged = int(lost_m.sum())
  arrays["masks"] = np.packbits(masks_mn, axis=1)
  store.write(chunk, arrays, {"diverged": diverged, **about})


class Bank:
  """Margins of models by id, appended to and never rewritten.

  A chunk's number is a digest of its ids, so that processes need not agree on one.
  """

  def __init__(self, store: store_lib.Store):
    """Takes a store of `open_store`, of which nothing is known before `refresh`."""
    self._store = store
    self._row_of: dict[str, int] = {}
    self._known: set[int] = set()

  def refresh(self) -> None:
    """Learns of what has been stored since, by whichever process."""
    for chunk, rows in self._store.chunks().items():
      if chunk not in self._known:
        self._admit(chunk, self._store.about(chunk, rows)["ids"])

  def __contains__(self, model_id: str) -> bool:
    return model_id in self._row_of

  def __len__(self) -> int:
    return len(self._row_of)

  def append(
    self, ids: Sequence[str], masks_mn: np.ndarray, margins_mt: np.ndarray
  ) -> None:
    """Stores models that are not in the bank yet; durable when it returns.

    Args:
      ids: of the models.
      masks_mn: bool, their training sets.
      margins_mt: float32, in logits; NaN marks a diverged model.
    """
    size = self._store.rows_per_chunk
    for start in range(0, len(ids), size):
      part = slice(start, min(start + size, len(ids)))
      digest = hashlib.blake2b("\n".join(ids[part]).encode(), digest_size=8).digest()
      chunk = int.from_bytes(digest, "big") % store_lib.CHUNKS
      about = {"ids": list(ids[part])}
      write(self._store, chunk, masks_mn[part], margins_mt[part], about=about)
      self._admit(chunk, ids[part])

  def margins(self, ids: Sequence[str]) -> np.ndarray:
    """float32[m, t] of models in the bank."""
    return self._store.read("margins", np.array([self._row_of[i] for i in ids], int))

  def _admit(self, chunk: int, ids: Sequence[str]) -> None:
    """Makes a finished chunk's rows known."""
    self._known.add(chunk)
    for offset, model_id in enumerate(ids):
      row = chunk * self._store.rows_per_chunk + offset
      self._row_of.setdefault(model_id, row)
