"""Checks every byte of stores, repairs and merges them, and says what they hold.

All of it works on the folder alone, without the settings that it was made with.
"""

import concurrent.futures
import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from jaxdm.storage import (
  atomic_io,
  checksummed_json,
  removal,
  store,
  store_layout,
  zarr_arrays,
)
from jaxdm.storage.checksummed_json import DamageError, StoreError

# As `atomic_io.writing` names incomplete files.
_PARTIAL = re.compile(r".+\.[0-9a-f]{12}\.partial", re.S)


class Damage(NamedTuple):
  """One file that differs from what was written.

  Attributes:
    chunk: the chunk that must be forgotten; None: the store's own description.
    file: path inside the store.
    why: in words.
  """

  chunk: int | None
  file: str
  why: str


def damage(path: str | epath.PathLike) -> Iterator[Damage]:
  """Compares every byte of a store with the digests that were written with it.

  Needs nothing but the folder. Chunks without a marker are left out.

  Raises:
    UnreadableError: if a file cannot be read, which says nothing of what is in it.
    OSError: if a folder cannot be listed.
  """
  root = atomic_io.as_path(path)
  try:
    manifest = store_layout.read_manifest(root)
    metadata, identity = manifest["metadata"], store_layout.identity_digest(manifest)
  except (DamageError, KeyError) as error:
    yield Damage(None, store_layout.MANIFEST, str(error))
    metadata, identity = {}, None
  for name, digest in metadata.items():
    yield from _compare(None, root, f"{name}/zarr.json", digest)
  for marker in store_layout.markers(root):
    chunk, _ = store_layout.parse_marker(marker.name)
    try:
      files = _read_marker(marker, identity)["files"]
    except (DamageError, KeyError) as error:
      yield Damage(chunk, f"done/{marker.name}", str(error))
      continue
    for file, digest in files.items():
      yield from _compare(chunk, root, file, digest)


class Summary(NamedTuple):
  """What a store holds.

  Attributes:
    chunks: that are whole.
    rows: in them.
    made_by: what wrote the manifest and the chunks (`Store.made_by`), each once; more
      than one mean that the rows may differ by more than their training sets and seeds.
    totals: sums over chunks of every number that their markers tell.
  """

  chunks: int
  rows: int
  made_by: list[dict[str, str]]
  totals: dict[str, int]


def summary(path: str | epath.PathLike) -> Summary:
  """Reads the manifest and all markers, and no array."""
  root = atomic_io.as_path(path)
  first = store_layout.read_manifest(root)["made_by"]
  made_by: list[dict[str, str]] = [first]
  chunks, rows, totals = 0, 0, dict[str, int]()
  markers = store_layout.markers(root)
  with concurrent.futures.ThreadPoolExecutor(store.READERS) as pool:
    abouts = list(pool.map(_read_listed, markers))
  for marker, about in zip(markers, abouts, strict=True):
    if about is None:
      continue
    chunks += 1
    rows += store_layout.parse_marker(marker.name)[1]
    maker = about.get("made_by", first)
    if maker not in made_by:
      made_by.append(maker)
    for name, value in about.items():
      if isinstance(value, int):
        totals[name] = totals.get(name, 0) + value
  return Summary(chunks, rows, made_by, totals)


def _read_listed(marker: epath.Path) -> dict[str, Any] | None:
  """What a marker says; None if it was removed since markers were listed.

  So a writer does where a chunk grows; the next summary has the new one.
  """
  try:
    return checksummed_json.read(marker)
  except DamageError:
    if atomic_io.exists(marker):
      raise
    return None


def reopen(path: str | epath.PathLike) -> store.Store:
  """A store that exists, with the settings that it was made with, to read from."""
  root = atomic_io.as_path(path)
  manifest = store_layout.read_manifest(root)
  columns = {
    name: zarr_arrays.ArraySpec(*c) for name, c in manifest.pop("columns").items()
  }
  own = ("format", "rows_per_chunk", "metadata", "made_by")
  settings = {name: value for name, value in manifest.items() if name not in own}
  return store.Store(root, columns=columns, settings=settings)


def forget(path: str | epath.PathLike, damage: Damage) -> None:
  """Removes a damaged file, and the markers of its chunk, which then counts as missing.

  A store's own description is written again when the store is opened next with the
  settings of its chunks. Chunks without their settings, of earlier versions, are refused.
  """
  root = atomic_io.as_path(path)
  if damage.chunk is not None:
    for marker in store_layout.markers(root, damage.chunk):
      marker.unlink(missing_ok=True)
  (root / damage.file).unlink(missing_ok=True)


def sweep(path: str | epath.PathLike) -> None:
  """Removes the incomplete files of killed writers from a store or another folder.

  No process may be writing to it.
  """
  root = atomic_io.as_path(path)
  if atomic_io.is_remote(root):
    return  # There is nothing half-written in a bucket.
  for places in ("*", "*/*", "*/c/*/*"):
    with contextlib.suppress(PermissionError):  # In folders of others.
      for path in atomic_io.find(root, f"{places}.partial"):
        if _PARTIAL.fullmatch(path.name):  # Other programs have such names, too.
          path.unlink(missing_ok=True)


def remove_empty(path: str | epath.PathLike) -> bool:
  """Removes a store that holds no chunk, if all of the folder is a store's.

  A folder is a store if its manifest is undamaged and names its arrays. One without a
  manifest, which a killed process has begun, may hold descriptions of arrays and no
  numbers.

  Args:
    path: of a folder that may be a store; no process may be writing to it.

  Returns:
    Whether it is gone; it stays if it holds a chunk or any path that no store has, or
    is a symbolic link.
  """
  root = atomic_io.as_path(path)
  columns = _columns(root)
  if columns is None and not store_layout.marker_folder(root).is_dir():
    return False
  if os.path.islink(root):
    return False
  is_own = store_layout.own_paths(columns)
  if removal.foreign_paths(root, is_own) or store_layout.markers(root):
    return False
  return removal.remove_own(root, is_own)


def _columns(root: epath.Path) -> list[str] | None:
  """The arrays that a store's manifest names; None if there is no manifest of a store."""
  try:
    return list(store_layout.read_manifest(root)["columns"])
  except (StoreError, KeyError):
    return None


def merge(path: str | epath.PathLike, other: str | epath.PathLike) -> tuple[int, int]:
  """Copies the chunks that only another store has, or has more rows of.

  Args:
    path: of the store that grows.
    other: of one with the same settings.

  Returns:
    Chunks copied, and chunks that are not whole in the other store, which may have been
    copied while it was written to, or be damaged. These are not copied.

  Raises:
    StoreError: see `check_merge`; and if something cannot be read.
  """
  mine, theirs = atomic_io.as_path(path), atomic_io.as_path(other)
  check_merge(mine, theirs)
  identity = store_layout.identity_digest(store_layout.read_manifest(mine))
  have = store_layout.chunks(mine)
  copied = incomplete = 0
  for marker in store_layout.markers(theirs):
    chunk, rows = store_layout.parse_marker(marker.name)
    if have.get(chunk, 0) >= rows:
      continue
    contents = _read_chunk(theirs, marker, identity)
    if contents is None:
      incomplete += 1
      continue
    about, files = contents
    about[store_layout.IDENTITY] = identity
    store_layout.write_chunk(mine, chunk, rows, files, about)
    copied += 1
  return copied, incomplete


def _read_marker(path: epath.Path, identity: str | None) -> dict[str, Any]:
  """What a marker says; it is of the store's identity, if that is known."""
  if identity is None:
    return checksummed_json.read(path)
  return store_layout.read_marker(path, identity)


def check_merge(path: str | epath.PathLike, other: str | epath.PathLike) -> None:
  """Raises StoreError if one store cannot take over the chunks of another one.

  Args:
    path: see `merge`.
    other: see `merge`.

  Raises:
    StoreError: if the stores differ in more than who made them, naming it, or a manifest
      is damaged, or a file in the place of a marker is none.
  """
  mine, theirs = atomic_io.as_path(path), atomic_io.as_path(other)
  manifests = [store_layout.read_manifest(root) for root in (mine, theirs)]
  for root, manifest in zip((mine, theirs), manifests, strict=True):
    store_layout.check_format(root, manifest)
    manifest.pop("made_by")
    for marker in store_layout.markers(root):
      store_layout.parse_marker(marker.name)
  if wrong := checksummed_json.differences(*manifests):
    raise StoreError(None, f"{theirs} holds other models: {'; '.join(wrong)}")


def _read_chunk(
  root: epath.Path, marker: epath.Path, identity: str
) -> tuple[dict[str, Any], dict[str, bytes]] | None:
  """What a chunk's marker says, and the chunk's files; None if they are not whole.

  Raises:
    UnreadableError: if one of them cannot be read.
  """
  try:
    about = store_layout.read_marker(marker, identity)
    files = {}
    for file in about["files"]:
      with checksummed_json.reading(root / file):
        files[file] = (root / file).read_bytes()
  except (DamageError, KeyError):
    return None
  wrong = any(
    checksummed_json.digest(content) != about["files"][file]
    for file, content in files.items()
  )
  return None if wrong else (about, files)


def _compare(
  chunk: int | None, root: epath.Path, file: str, digest: str
) -> Iterator[Damage]:
  """One file against its digest."""
  try:
    if checksummed_json.file_digest(root / file) != digest:
      yield Damage(chunk, file, "its digest is not the one that was written down")
  except DamageError:
    yield Damage(chunk, file, "it is missing")
