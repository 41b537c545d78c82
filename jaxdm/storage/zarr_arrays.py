"""The arrays of a store: zarr v3, one file for each chunk of rows.

A chunk is a shard of tiles of columns, so that some targets of all models can be read
without the others.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from etils import epath

from jaxdm.storage import atomic_io, tensorstore_errors
from jaxdm.storage.checksummed_json import StoreError

# An array has room for so many; those that are not written take no space.
CHUNKS = 2**44
_TILE_COLUMNS = 256
_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_ZSTD = {"name": "zstd", "configuration": {"level": 3}}


class ArraySpec(NamedTuple):
  """One array of a store.

  Attributes:
    dtype: of its numbers, by NumPy's name.
    width: numbers in a row.
    by_columns: whether some columns can be read without the others.
    compressed: by zstd.
  """

  dtype: str
  width: int
  by_columns: bool = True
  compressed: bool = False


def open_array(
  folder: epath.Path, array_spec: ArraySpec, rows_per_chunk: int
) -> ts.TensorStore:
  """Opens or creates an array on disk.

  Raises:
    DamageError: if its description is damaged.
    OSError: if it cannot be read or written.
  """
  spec = {**_spec(array_spec, rows_per_chunk), "kvstore": _kvstore(folder)}
  try:
    return ts.open(spec, open=True, create=True).result()
  except ValueError as error:
    raise tensorstore_errors.of_reading(error, folder / "zarr.json") from error


def encode_chunk(
  name: str, array_spec: ArraySpec, rows_per_chunk: int, chunk: int, array: np.ndarray
) -> dict[str, bytes]:
  """A chunk's file in an array's folder, by its path there.

  TensorStore makes it in memory: on disk it would merge it with what a killed writer or a
  second one left.

  Args:
    name: of the array, for errors.
    array_spec: of the array.
    rows_per_chunk: of the store.
    chunk: its number.
    array: its rows.

  Raises:
    StoreError: if a number is larger than the array's type can hold.
  """
  spec = {**_spec(array_spec, rows_per_chunk), "kvstore": {"driver": "memory"}}
  store = ts.open(spec, create=True, context=ts.Context()).result()
  first, dtype = chunk * rows_per_chunk, array_spec.dtype
  with np.errstate(over="ignore"):
    values = np.asarray(array, dtype)
  if values.dtype.kind != "f" and not np.array_equal(values, array):
    raise StoreError(
      None, f"{dtype} cannot hold {name} of {array.min()} to {array.max()}"
    )
  if np.isinf(values[np.isfinite(array)]).any():
    most = np.abs(array[np.isfinite(array)]).max()
    raise StoreError(None, f"{dtype} cannot hold {name} of {most:.6g}")
  store[first : first + len(array)].write(values).result()
  kvstore = store.kvstore
  assert kvstore is not None
  keys = [key for key in kvstore.list().result() if key != b"zarr.json"]
  return {key.decode(): kvstore.read(key).result().value for key in keys}


def _spec(array_spec: ArraySpec, rows_per_chunk: int) -> dict[str, Any]:
  """TensorStore's description of a zarr array of [any number of rows, columns]."""
  tile = (
    min(array_spec.width, _TILE_COLUMNS) if array_spec.by_columns else array_spec.width
  )
  rows = rows_per_chunk
  codecs = [_ENDIAN, *([_ZSTD] if array_spec.compressed else []), _CRC]
  metadata = {
    "shape": [CHUNKS * rows, array_spec.width],
    "data_type": array_spec.dtype,
    "chunk_grid": {
      "name": "regular",
      "configuration": {"chunk_shape": [rows, -(-array_spec.width // tile) * tile]},
    },
    "codecs": [
      {
        "name": "sharding_indexed",
        "configuration": {
          "chunk_shape": [rows, tile],
          "codecs": codecs,
          "index_codecs": [_ENDIAN, _CRC],
        },
      }
    ],
    "fill_value": 0,
  }
  return {
    "driver": "zarr3",
    "metadata": metadata,
    # Else a chunk of zeros would have no file, and nothing to check.
    "store_data_equal_to_fill_value": True,
    # A chunk that is lost is no chunk of zeros.
    "fill_missing_data_reads": False,
  }


def _kvstore(folder: epath.Path) -> str | dict[str, str]:
  """TensorStore's name for a local or remote folder."""
  if atomic_io.is_remote(folder):
    return os.fspath(folder) + "/"
  return {
    "driver": "file",
    "path": f"{atomic_io.plain_path(folder.parent)}/{folder.name}/",
  }
