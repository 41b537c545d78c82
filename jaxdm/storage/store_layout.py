"""How a store lies on disk: its format, rows a chunk, and the markers of its chunks.

manifest.json              what all rows depend on, and how they are laid out
<array>/zarr.json, c/...   zarr v3, one file for each chunk of rows (`zarr_arrays`)
done/<chunk>-<rows>.json   a chunk's marker, written last: a digest of each file of its,
                           and of what the manifest says that all rows depend on
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from jaxdm.storage import atomic_io, checksummed_json, removal
from jaxdm.storage.checksummed_json import DamageError, StoreError

FORMAT = 3
MANIFEST = "manifest.json"
# Of a new store; one that exists keeps its own.
ROWS_PER_CHUNK = 32
# The key of `identity_digest` in markers; those of earlier versions lack it.
IDENTITY = "identity"


def manifest_path(store: epath.Path) -> epath.Path:
  """Where a store says what its rows depend on."""
  return store / MANIFEST


def read_manifest(store: epath.Path) -> dict[str, Any]:
  """What a store says that its rows depend on.

  Raises:
    DamageError: if it is missing or damaged.
  """
  return checksummed_json.read(manifest_path(store))


def exists(store: epath.Path) -> bool:
  """Whether there is a store in a folder."""
  return atomic_io.exists(manifest_path(store))


def check_format(store: epath.Path, manifest: Mapping[str, Any]) -> None:
  """Raises StoreError if a store was written by a version with another format."""
  if manifest.get("format") != FORMAT:
    raise StoreError(
      None,
      f"{store} is a store of format {manifest.get('format')}, and this version of jaxdm "
      f"reads format {FORMAT}: use the version that wrote it, or train again in a new "
      "folder",
    )


def identity_digest(manifest: Mapping[str, Any]) -> str:
  """A digest of what all rows of a store depend on: its manifest, but for its writer."""
  own = ("metadata", "made_by")
  depends_on = {name: value for name, value in manifest.items() if name not in own}
  return checksummed_json.digest(json.dumps(depends_on, sort_keys=True).encode())


def read_marker(path: epath.Path, identity: str) -> dict[str, Any]:
  """What a chunk's marker says.

  Args:
    path: of the marker.
    identity: `identity_digest` of the store.

  Raises:
    DamageError: if the marker is damaged, or was written for a store of other settings.
  """
  marker = checksummed_json.read(path)
  if marker.get(IDENTITY, identity) != identity:
    raise DamageError(
      path, "is damaged: its chunk depends on other settings than its store's manifest"
    )
  return marker


def marker_folder(store: epath.Path) -> epath.Path:
  """Where a store's markers are."""
  return store / "done"


def marker_path(store: epath.Path, chunk: int, rows: int) -> epath.Path:
  """The marker of a chunk of so many rows."""
  return marker_folder(store) / f"{_prefix(chunk)}{rows}.json"


def write_chunk(
  store: epath.Path,
  chunk: int,
  rows: int,
  files: Mapping[str, bytes],
  marker: Mapping[str, Any],
) -> None:
  """Writes a chunk's files, and then its marker.

  A chunk of fewer rows is complete until the files of more are durable.

  Args:
    store: its folder.
    chunk: its number.
    rows: how many it has.
    files: by their path in the store.
    marker: JSON values.
  """
  own = marker_path(store, chunk, rows)
  atomic_io.make_folder(own.parent)
  with atomic_io.replacing({store / file: files[file] for file in files}):
    for other in markers(store, chunk):
      if other != own:
        other.unlink(missing_ok=True)
  checksummed_json.write(own, marker)


def parse_marker(name: str) -> tuple[int, int]:
  """Chunk and rows of a marker's file name."""
  chunk, _, rows = name.removesuffix(".json").partition("-")
  try:
    return int(chunk), int(rows)
  except ValueError as error:
    raise StoreError(
      None, f"done/{name} in a store is no marker of a chunk; remove this file"
    ) from error


def markers(store: epath.Path, chunk: int | None = None) -> list[epath.Path]:
  """The markers of a chunk, or of all, in order; half-written ones are left out."""
  return [marker_folder(store) / name for name in sorted(marker_names(store, chunk))]


def chunks(store: epath.Path) -> dict[int, int]:
  """The rows in each complete chunk, by chunk; files are listed, and none is read."""
  return dict(sorted(map(parse_marker, marker_names(store))))


def marker_names(store: epath.Path, chunk: int | None = None) -> list[str]:
  """The names of `markers`, in any order; none if a copy has left out an empty folder."""
  folder, prefix = marker_folder(store), _prefix(chunk)
  if atomic_io.is_remote(folder):
    names = [path.name for path in atomic_io.find(folder, "*")]
  else:
    try:
      names = os.listdir(folder)  # Ten times as fast as paths where there are thousands.
    except FileNotFoundError:
      names = []
  return [n for n in names if n.startswith(prefix) and n.endswith(".json")]


def own_paths(columns: Collection[str] | None) -> removal.IsOwn:
  """The paths that a store without markers can hold.

  Args:
    columns: its arrays; None: unknown, in a folder without a manifest, where an array is
      a folder with nothing but a description.
  """
  if columns is None:
    return removal.matching("done/", r"\w+/", r"\w+/zarr\.json")
  array = f"(?:{'|'.join(map(re.escape, columns))})"
  chunks = rf"{array}/(?:zarr\.json|c/|c/\d+/|c/\d+/\d+)?"
  return removal.matching(r"manifest\.json", "done/", chunks)


def _prefix(chunk: int | None) -> str:
  """How the names of a chunk's markers begin."""
  return "" if chunk is None else f"{chunk:014d}-"
