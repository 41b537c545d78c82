"""A crash-safe store of margins by model id: appended to, never rewritten.

On disk: two zarr arrays, `margins` and bit-packed `masks`, whose chunks each have
one writer and carry their own CRC; and `done/<chunk>.json`, written last, which
lists the model ids of a chunk's rows. A chunk without its marker never happened.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

_CAPACITY_ROWS = 2**31
_FORMAT = 1


class BankError(ValueError):
  """A store that does not match, or cannot be read."""


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a JSON file that is either whole or absent, also after a crash."""
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  partial.write_text(json.dumps(value, indent=1))
  partial.replace(path)


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
  """One phrase per setting in which two mappings differ."""
  keys = sorted(stored.keys() | asked.keys())
  return [
    f"{key}: stored {stored.get(key)!r}, asked {asked.get(key)!r}"
    for key in keys
    if stored.get(key) != asked.get(key)
  ]


class Bank:
  """Margins of trained models, by id.

  Attributes:
    num_targets: t.
    num_train: n.
  """

  def __init__(
    self,
    path: str | epath.PathLike,
    *,
    num_targets: int,
    num_train: int,
    settings: Mapping[str, Any],
    rows_per_chunk: int = 32,
  ):
    """Opens a store, or makes one where there is none.

    Args:
      path: a folder; gs:// and s3:// work as etils.epath and TensorStore do.
      num_targets: t.
      num_train: n.
      settings: what the margins depend on; JSON values.
      rows_per_chunk: models a chunk; an existing store keeps its own.

    Raises:
      BankError: if the store was made with other settings, naming them.
    """
    self.num_targets, self.num_train = num_targets, num_train
    self._path = epath.Path(path)
    manifest = {
      "format": _FORMAT,
      "num_targets": num_targets,
      "num_train": num_train,
      **json.loads(json.dumps(settings)),
    }
    manifest_path = self._path / "manifest.json"
    if manifest_path.exists():
      stored = _read_json(manifest_path)
      rows_per_chunk = stored.pop("rows_per_chunk", rows_per_chunk)
      if wrong := differences(stored, manifest):
        raise BankError(f"{self._path} holds other models: {'; '.join(wrong)}")
    else:
      (self._path / "done").mkdir(parents=True, exist_ok=True)
      write_json(manifest_path, {**manifest, "rows_per_chunk": rows_per_chunk})
    self._rows_per_chunk = rows_per_chunk
    self._margins = self._open("margins", "float32", num_targets)
    self._masks = self._open("masks", "uint8", -(-num_train // 8))
    self._row_of: dict[str, int] = {}
    self._next_chunk = 0
    for marker in sorted((self._path / "done").glob("*.json")):
      self._admit(int(marker.stem), _read_json(marker)["ids"])

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
    for start in range(0, len(ids), self._rows_per_chunk):
      part = slice(start, min(start + self._rows_per_chunk, len(ids)))
      self._write_chunk(ids[part], masks_mn[part], margins_mt[part])

  def margins(self, ids: Sequence[str]) -> np.ndarray:
    """float32[m, t] of models in the bank."""
    return self._read(self._margins, ids)

  def masks(self, ids: Sequence[str]) -> np.ndarray:
    """bool[m, n] of models in the bank."""
    packed = self._read(self._masks, ids)
    return np.unpackbits(packed, axis=1, count=self.num_train).astype(bool)

  def _read(self, array: ts.TensorStore, ids: Sequence[str]) -> np.ndarray:
    """Rows of one array, each chunk read once."""
    rows = np.array([self._row_of[i] for i in ids], np.int64)
    try:
      return array[rows].read().result()
    except ValueError as error:
      raise BankError(f"{self._path} is damaged: {error}") from error

  def _write_chunk(
    self, ids: Sequence[str], masks_mn: np.ndarray, margins_mt: np.ndarray
  ) -> None:
    """Writes one chunk's arrays, then its marker."""
    chunk = self._next_chunk
    rows = slice(chunk * self._rows_per_chunk, chunk * self._rows_per_chunk + len(ids))
    writes = [
      self._margins[rows].write(np.asarray(margins_mt, np.float32)),
      self._masks[rows].write(np.packbits(masks_mn, axis=1)),
    ]
    for write in writes:
      write.result()
    write_json(self._path / "done" / f"{chunk:08d}.json", {"ids": list(ids)})
    self._admit(chunk, ids)

  def _admit(self, chunk: int, ids: Sequence[str]) -> None:
    """Makes a finished chunk's rows known."""
    for offset, model_id in enumerate(ids):
      self._row_of[model_id] = chunk * self._rows_per_chunk + offset
    self._next_chunk = max(self._next_chunk, chunk + 1)

  def _open(self, name: str, dtype: str, columns: int) -> ts.TensorStore:
    """Opens or creates a sparse zarr array of [any number of rows, columns]."""
    folder = self._path / name
    spec = {"driver": "zarr3", "kvstore": _kvstore(folder)}
    chunk = {"chunk_shape": [self._rows_per_chunk, columns]}
    metadata = {
      "shape": [_CAPACITY_ROWS, columns],
      "data_type": dtype,
      "chunk_grid": {"name": "regular", "configuration": chunk},
      "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
      ],
    }
    try:
      return ts.open({**spec, "metadata": metadata}, open=True, create=True).result()
    except ValueError as error:
      raise BankError(f"{folder} cannot be opened: {error}") from error


def _kvstore(folder: epath.Path) -> str | dict[str, str]:
  """TensorStore's name for a local or remote folder."""
  text = os.fspath(folder)
  if "://" in text:
    return text + "/"
  return {"driver": "file", "path": os.path.abspath(text) + "/"}


def _read_json(path: epath.Path) -> Any:
  """Parses a file of the store, or says which one is damaged."""
  try:
    return json.loads(path.read_text())
  except (ValueError, OSError) as error:
    raise BankError(f"{path} is damaged: {error}") from error
