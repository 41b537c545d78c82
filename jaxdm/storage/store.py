"""A crash-safe store of rows, in chunks with markers that say which are complete.

`store_layout` says which files these are. A chunk without its marker counts as missing.
JSON files carry a digest of their own content, so that every byte of the store is
covered: `maintenance` looks at all of them. Chunks have numbers, and whoever writes a
chunk writes all of it, so that processes which write different chunks never meet, and two
which write the same rows write the same bytes.

The manifest is the store's identity: whoever opens the store with other settings is
refused. Each marker carries a digest of that identity, so that a chunk never counts as
one of other settings, also where the manifest is lost or replaced. Manifest and markers
also say what software and device wrote them (`made_by`). That is no part of the identity,
since a long run may outlive a version; a store that several versions write to warns of
it, and `maintenance.summary` lists them.
"""

import concurrent.futures
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from jaxdm import identity
from jaxdm.storage import (
  atomic_io,
  checksummed_json,
  chunk_check,
  store_layout,
  tensorstore_errors,
  zarr_arrays,
)
from jaxdm.storage.checksummed_json import StoreError
from jaxdm.storage.zarr_arrays import ArraySpec

READERS = 16


class Store:
  """Rows of several arrays, by row number.

  Attributes:
    path: the folder.
    columns: the arrays, by name.
    rows_per_chunk: rows that are written together.
    settings: what the rows depend on, with the format and the columns.
  """

  def __init__(
    self,
    path: str | epath.PathLike,
    *,
    columns: Mapping[str, ArraySpec],
    settings: Mapping[str, Any],
    rows_per_chunk: int = store_layout.ROWS_PER_CHUNK,
    provenance: Callable[[], Mapping[str, str]] = dict,
  ):
    """Opens a store, or makes one where there is none.

    Args:
      path: a folder; gs:// and s3:// work as etils.epath and TensorStore do.
      columns: the arrays by name.
      settings: what the rows depend on; JSON values. Large values stand there as
        `identity.digest`.
      rows_per_chunk: an existing store keeps its own.
      provenance: what it returns is added to `identity.made_by` of what is written here;
        it is not called where nothing is written.

    Raises:
      StoreError: if the store was made with other settings, naming them, or by a version
        with another format, or its description is damaged, or it holds chunks without a
        manifest that were not made with these settings.
    """
    self.path = atomic_io.as_path(path)
    self.columns = dict(columns)
    self._provenance = provenance
    self._has_compared_makers = False
    requested = {
      "format": store_layout.FORMAT,
      "columns": {name: list(spec) for name, spec in columns.items()},
      **json.loads(json.dumps(settings)),
    }
    if not store_layout.exists(self.path):
      self._begin(requested, rows_per_chunk)
    stored = store_layout.read_manifest(self.path)
    store_layout.check_format(self.path, stored)
    self._identity = store_layout.identity_digest(stored)
    self.rows_per_chunk = int(stored.pop("rows_per_chunk"))
    stored = {k: v for k, v in stored.items() if k not in ("metadata", "made_by")}
    if wrong := checksummed_json.differences(stored, requested):
      raise StoreError(None, f"{self.path} holds other models: {'; '.join(wrong)}")
    self.settings = requested
    self._check = chunk_check.ChunkCheck(self.path, self.rows_per_chunk, self._identity)
    self._arrays = {name: self._open(name) for name in columns}

  @property
  def made_by(self) -> dict[str, str]:
    """What writes here: `identity.made_by`, and the provenance that was given."""
    return identity.made_by() | dict(self._provenance())

  def _begin(self, requested: Mapping[str, Any], rows_per_chunk: int) -> None:
    """Makes the arrays, then the manifest, unless another process has been faster."""
    self.rows_per_chunk = rows_per_chunk
    atomic_io.make_folder(self.path)
    self._check_orphans({**requested, "rows_per_chunk": rows_per_chunk})
    atomic_io.make_folder(store_layout.marker_folder(self.path))
    digests = {}
    for name in self.columns:
      self._open(name)
      digests[name] = checksummed_json.digest(
        (self.path / name / "zarr.json").read_bytes()
      )
    own = {
      "rows_per_chunk": rows_per_chunk,
      "metadata": digests,
      "made_by": self.made_by,
    }
    manifest = store_layout.manifest_path(self.path)
    checksummed_json.write(manifest, {**requested, **own}, new=True)

  def _check_orphans(self, manifest: Mapping[str, Any]) -> None:
    """Raises StoreError if chunks without a manifest may be of another one."""
    markers = _read_all(store_layout.markers(self.path))
    identity = store_layout.identity_digest(manifest)
    if all(marker.get(store_layout.IDENTITY) == identity for marker in markers):
      return
    raise StoreError(
      None,
      f"{self.path} holds models, but no manifest.json that says what they depend on, "
      "and they do not prove to be of the settings that are requested; bring "
      f"manifest.json back from a copy of the store, or remove {self.path}, and the same "
      "command makes its models again",
    )

  def chunks(self) -> dict[int, int]:
    """The rows in each complete chunk, by chunk; files are listed, and none is read."""
    return store_layout.chunks(self.path)

  def write(
    self, chunk: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] = {}
  ) -> None:
    """Writes a chunk, and its marker when all else is durable.

    Args:
      chunk: its number.
      arrays: by name, the same number of rows of each, at most `rows_per_chunk`.
      about: kept in the marker; JSON values.

    Raises:
      StoreError: if a number is larger than an array's type can hold, or another process
        has removed the store or put one of other settings in its place.

    Warns:
      UserWarning: at the first chunk, if the store holds chunks that other software or
        another kind of device wrote.
    """
    self._check_manifest()
    self._warn_of_others()
    [rows] = {len(array) for array in arrays.values()}
    files = {
      f"{name}/{key}": content
      for name, array in arrays.items()
      for key, content in zarr_arrays.encode_chunk(
        name, self.columns[name], self.rows_per_chunk, chunk, array
      ).items()
    }
    digests = {
      file: checksummed_json.digest(content) for file, content in sorted(files.items())
    }
    marker = {
      "files": digests,
      store_layout.IDENTITY: self._identity,
      "made_by": self.made_by,
      **about,
    }
    self._check.forget(chunk)
    store_layout.write_chunk(self.path, chunk, rows, files, marker)

  def read(
    self, name: str, rows: np.ndarray | slice, columns: slice = slice(None)
  ) -> np.ndarray:
    """Some rows and columns of one array.

    The file of each chunk is compared with the chunk's marker the first time that this
    process reads some of it.

    Raises:
      DamageError: if what is read is damaged, or not what its marker says.
      StoreError: if the store lacks a row.
      UnreadableError: if a file cannot be read.
      OSError: if TensorStore cannot read it.
    """
    self._check.check(name, rows)
    try:
      some = self._arrays[name][rows, columns]
      # A slice of TensorStore's starts where it was cut.
      return np.asarray(some.read().result())
    except ValueError as error:
      raise tensorstore_errors.of_reading(error, self.path / name) from error

  def chunks_at(self, chunk: int) -> list[int]:
    """The rows that a chunk's markers name; none if the chunk is not complete."""
    names = store_layout.marker_names(self.path, chunk)
    return [store_layout.parse_marker(name)[1] for name in names]

  def about(self, chunk: int, rows: int) -> dict[str, Any]:
    """What the marker of a chunk of so many rows says.

    Raises:
      DamageError: if the marker is damaged, or was written for other settings.
    """
    path = store_layout.marker_path(self.path, chunk, rows)
    return store_layout.read_marker(path, self._identity)

  def identity(self, rows: np.ndarray) -> dict[str, Any]:
    """What some rows depend on and what they are, without reading them.

    Args:
      rows: int, their numbers.

    Returns:
      The settings, the rows, and the digests of the files of each chunk that holds some
      of them, as its marker has them. They change with every number in a chunk. A file
      that is not the one of its marker is damage: `read` refuses it.
    """
    chunks = self.chunks()
    needed_chunks = np.unique(np.asarray(rows) // self.rows_per_chunk).tolist()
    if lacking := [chunk for chunk in needed_chunks if chunk not in chunks]:
      raise StoreError(
        None, f"{self.path} lacks chunk {lacking[0]} of the rows asked for"
      )
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
      counts = [chunks[chunk] for chunk in needed_chunks]
      markers = list(pool.map(self.about, needed_chunks, counts))
    return {
      "settings": self.settings,
      "rows_per_chunk": self.rows_per_chunk,
      "rows": np.asarray(rows),
      "files": [marker["files"] for marker in markers],
    }

  def _check_manifest(self) -> None:
    """Raises StoreError if the folder is no longer the store that was opened."""
    is_there = store_layout.exists(self.path)
    if is_there:
      stored = store_layout.read_manifest(self.path)
      if store_layout.identity_digest(stored) == self._identity:
        return
    state = "has other settings" if is_there else "is removed"
    raise StoreError(
      None,
      f"{self.path} {state} since this process opened it; does another experiment write "
      "to the same folder of stores? Give each a folder of its own, and run the same "
      "command again",
    )

  def _warn_of_others(self) -> None:
    """Warns, once, if others than this process's software have written here."""
    if self._has_compared_makers:
      return
    self._has_compared_makers = True
    mine, others = self.made_by, makers(self.path)
    wrong = {w for other in others for w in checksummed_json.differences(other, mine)}
    if wrong:
      warnings.warn(
        f"{self.path} holds models that were made otherwise than those written now "
        f"({'; '.join(sorted(wrong))}); they may differ by rounding or more, and nothing "
        "tells their margins apart but each chunk's marker",
        stacklevel=3,
      )

  def _open(self, name: str) -> ts.TensorStore:
    """Opens or creates an array on disk."""
    return zarr_arrays.open_array(
      self.path / name, self.columns[name], self.rows_per_chunk
    )


def makers(path: epath.Path) -> list[dict[str, str]]:
  """What has written to a store, each once, the manifest's writer first.

  Files that cannot be read are left out: `maintenance.damage` names them, and other
  processes may replace chunks at the same time.
  """
  markers = store_layout.markers(path)
  distinct: list[dict[str, str]] = []
  with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
    for maker in pool.map(_maker, [store_layout.manifest_path(path), *markers]):
      if maker and maker not in distinct:
        distinct.append(maker)
  return distinct


def _maker(path: epath.Path) -> dict[str, str]:
  """Who wrote a manifest or marker; nothing if it cannot be read."""
  try:
    return dict(checksummed_json.read(path)["made_by"])
  except (StoreError, KeyError):
    return {}


def _read_all(paths: Sequence[epath.Path]) -> list[dict[str, Any]]:
  """JSON files; several at once, since a bucket takes its time for each."""
  with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
    return list(pool.map(checksummed_json.read, paths))
