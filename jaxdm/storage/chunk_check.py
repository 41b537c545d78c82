"""Compares the files of a store's chunks with their markers before they are read.

The checksums inside of a chunk's file (see `zarr_arrays`) say that it is a file of a
chunk, but not of which one, nor of how many rows: files may be swapped, or be older than
their markers where a store was copied while it grew. The digest in the marker says it.
"""

import concurrent.futures

import numpy as np
from etils import epath

from jaxdm.storage import checksummed_json, store_layout
from jaxdm.storage.checksummed_json import DamageError, StoreError

_READERS = 16


class ChunkCheck:
  """Checks each file of a store once, when rows of it are read for the first time.

  A file that another store of the same process has checked is not hashed again while
  its size and its time of change are the same.
  """

  def __init__(self, path: epath.Path, rows_per_chunk: int, identity: str):
    """Reads nothing yet.

    Args:
      path: the store's folder.
      rows_per_chunk: of the store.
      identity: `store_layout.identity_digest` of the store.
    """
    self._path, self._rows_per_chunk = path, rows_per_chunk
    self._identity = identity
    self._checked_rows: dict[tuple[str, int], int] = {}
    self._stored: dict[int, int] = {}  # The rows of each chunk when last listed.

  def check(self, name: str, rows: np.ndarray | slice) -> None:
    """Checks the files of an array that hold some rows.

    Args:
      name: of the array.
      rows: int, their numbers; a slice has a start and a stop.

    Raises:
      DamageError: if a file is missing, or not the one that its marker describes.
      StoreError: if a row is in no complete chunk.
      UnreadableError: if a file cannot be read.
    """
    needed = {
      chunk: count
      for chunk, count in _needed_rows(rows, self._rows_per_chunk).items()
      if count > self._checked_rows.get((name, chunk), 0)
    }
    if not needed:
      return
    if any(self._stored.get(chunk, 0) < count for chunk, count in needed.items()):
      self._stored = store_layout.chunks(self._path)
    try:
      self._compare(name, needed)
    except StoreError:
      # Another process may have replaced a chunk since the chunks were listed.
      self._stored = store_layout.chunks(self._path)
      self._compare(name, needed)

  def forget(self, chunk: int) -> None:
    """Has the files of a chunk checked again; called when it changes."""
    for key in [key for key in self._checked_rows if key[1] == chunk]:
      del self._checked_rows[key]

  def _compare(self, name: str, needed: dict[int, int]) -> None:
    """Compares one array's files of some chunks, of which so many rows are needed."""
    stored = self._stored
    for chunk, count in needed.items():
      if stored.get(chunk, 0) < count:
        row = chunk * self._rows_per_chunk + stored.get(chunk, 0)
        raise StoreError(None, f"{self._path} lacks row {row}, which was to be read")

    def compare_chunk(chunk: int) -> None:
      marker = store_layout.marker_path(self._path, chunk, stored[chunk])
      files = store_layout.read_marker(marker, self._identity)["files"]
      for file, digest in files.items():
        if file.startswith(f"{name}/"):
          _compare_file(self._path / file, digest)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      list(pool.map(compare_chunk, needed))
    self._checked_rows |= {(name, chunk): stored[chunk] for chunk in needed}


def _compare_file(path: epath.Path, digest: str) -> None:
  """Raises DamageError unless a file has a digest; it is hashed once in a process."""
  try:
    actual = checksummed_json.file_digest_once(path)
  except DamageError as error:
    raise DamageError(path, "is damaged: it is missing") from error
  if actual != digest:
    raise DamageError(
      path, "is damaged: its digest is not the one that its chunk's marker has"
    )


def _needed_rows(rows: np.ndarray | slice, rows_per_chunk: int) -> dict[int, int]:
  """For each chunk that holds some of the rows, the last one's place in it plus 1."""
  if isinstance(rows, slice):
    numbers = np.arange(rows.start or 0, rows.stop)
  else:
    numbers = np.unique(np.asarray(rows, int))
  chunks, places = np.divmod(numbers, rows_per_chunk)
  is_last = np.append(chunks[1:] != chunks[:-1], True)[: len(chunks)]
  return dict(zip(chunks[is_last].tolist(), (places[is_last] + 1).tolist(), strict=True))
