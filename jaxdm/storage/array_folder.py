"""Named arrays in a folder, one .npy file each, that are read as memory maps.

On disk:

  record.json   what the arrays depend on; type, shape and digest of each; written last
  NAME.npy      as NumPy writes it

A folder without a record holds nothing: its writer was killed. Opening an array compares
its file's type, shape and size with the record, and the first time in a process every
byte, too; `damage` compares every byte always.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxdm import identity as identity_lib
from jaxdm.storage import atomic_io, checksummed_json
from jaxdm.storage.checksummed_json import DamageError, StoreError

RECORD = "record.json"


class OtherArraysError(StoreError):
  """A folder of arrays that depend on something else."""


def create(
  folder: str | epath.PathLike, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.memmap]:
  """Arrays of zeros in new files, to be filled in place.

  Args:
    folder: on a local disk; made if there is none. A record in it is removed first.
    shapes: of the arrays, by name.

  Returns:
    By name, float32 memory maps.

  Raises:
    OSError: if the disk has no room for all of them.
  """
  root = atomic_io.as_path(folder)
  root.mkdir(parents=True, exist_ok=True)
  (root / RECORD).unlink(missing_ok=True)
  return {
    name: _zeros(os.fspath(root / f"{name}.npy"), shape) for name, shape in shapes.items()
  }


def _zeros(path: str, shape: tuple[int, ...]) -> np.memmap:
  """A memory map of zeros whose disk is reserved.

  Writing to a map for which the disk has no room would kill the process (SIGBUS).
  """
  array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
  if hasattr(os, "posix_fallocate"):
    with atomic_io.naming(path), open(path, "r+b") as file:
      os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
  return array


def finish(
  folder: str | epath.PathLike,
  arrays: Mapping[str, np.memmap],
  identity: Mapping[str, Any],
) -> None:
  """Makes arrays durable, and then writes the record.

  Args:
    folder: where `create` has made them.
    arrays: all of them, filled.
    identity: what they depend on; JSON values.
  """
  root, about = atomic_io.as_path(folder), {}
  for name, array in arrays.items():
    array.flush()
    path = root / f"{name}.npy"
    with path.open("rb") as file:
      os.fsync(file.fileno())
    about[name] = {**_header(array), "digest": checksummed_json.file_digest(path)}
  content = {
    "identity": dict(identity),
    "arrays": about,
    "made_by": identity_lib.made_by(),
  }
  checksummed_json.write(root / RECORD, content)


def _header(array: np.ndarray) -> dict[str, Any]:
  """Type and shape of an array, as JSON values."""
  return {"dtype": str(array.dtype), "shape": list(array.shape)}


def exists(folder: str | epath.PathLike, identity: Mapping[str, Any]) -> bool:
  """Whether a folder has a record, and a file for each array that the record lists.

  Args:
    folder: that `finish` may have written.
    identity: what the arrays must depend on, JSON values; others do not count.

  Raises:
    StoreError: if the record is damaged.
  """
  root = atomic_io.as_path(folder)
  if not atomic_io.exists(root / RECORD):
    return False
  try:
    arrays = ArrayFolder(root, identity)
  except OtherArraysError:
    return False
  return all(atomic_io.exists(root / f"{name}.npy") for name in arrays)


class ArrayFolder(Mapping[str, np.ndarray]):
  """The arrays of a folder by name; each is opened when it is indexed.

  The arrays are read-only memory maps: indexing reads only the pages that it needs.
  """

  def __init__(self, folder: str | epath.PathLike, identity: Mapping[str, Any]):
    """Reads the record.

    Args:
      folder: that `finish` has written.
      identity: what the arrays must depend on; JSON values.

    Raises:
      DamageError: if the record is missing or damaged.
      OtherArraysError: if it names another identity.
    """
    self._folder = atomic_io.as_path(folder)
    if not atomic_io.exists(self._folder / RECORD):
      raise DamageError(self._folder / RECORD, "is missing: no array is finished")
    record = checksummed_json.read(self._folder / RECORD)
    self._arrays: dict[str, dict[str, Any]] = record["arrays"]
    requested = json.loads(json.dumps(identity))
    if wrong := checksummed_json.differences(record["identity"], requested):
      raise OtherArraysError(
        None, f"{self._folder} holds other arrays: {'; '.join(wrong)}"
      )

  def __getitem__(self, name: str) -> np.ndarray:
    """One array, whose bytes are compared with the record once in a process.

    Raises:
      KeyError: if there is none of that name.
      DamageError: if its file is missing or not what was written.
      UnreadableError: if it cannot be read, as all methods that read.
    """
    array, path = self._open(name), self._folder / f"{name}.npy"
    self._check_digest(name, checksummed_json.file_digest_once(path))
    return array

  def _open(self, name: str) -> np.ndarray:
    """One array, if its file has the type, shape and size of the record."""
    expected, path = self._arrays[name], self._folder / f"{name}.npy"
    try:
      with checksummed_json.reading(path):
        array = np.load(os.fspath(path), mmap_mode="r")
        size = os.path.getsize(path)
    except StoreError:
      raise
    except Exception as error:  # NumPy raises many kinds on a damaged header.
      raise DamageError(path, f"is damaged: {error}") from error
    actual = {**_header(array), "bytes": size}
    expected = {key: expected[key] for key in ("dtype", "shape")}
    expected["bytes"] = array.offset + array.nbytes
    if wrong := checksummed_json.differences(expected, actual):
      raise DamageError(path, f"is damaged: {'; '.join(wrong)}")
    return np.asarray(array)

  def __iter__(self) -> Iterator[str]:
    return iter(self._arrays)

  def __len__(self) -> int:
    return len(self._arrays)

  def identity(self) -> dict[str, Any]:
    """For `identity.digest`: type, shape and digest of each array, from the record."""
    return dict(self._arrays)

  def read_verified(self, name: str) -> np.ndarray:
    """One array, after its bytes have been compared with the record now.

    Raises:
      DamageError: if they differ.
    """
    array, path = self._open(name), self._folder / f"{name}.npy"
    self._check_digest(name, checksummed_json.file_digest(path))
    return array

  def _check_digest(self, name: str, digest: str) -> None:
    """Raises DamageError if a file's digest is not the recorded one."""
    if digest != self._arrays[name]["digest"]:
      path = self._folder / f"{name}.npy"
      raise DamageError(path, "is damaged: its digest is not the recorded one")


def damage(
  folder: str | epath.PathLike, identity: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
  """Compares every byte of a folder with its record.

  Args:
    folder: that `finish` has written.
    identity: what the arrays must depend on; JSON values.

  Yields:
    File name and fault of each file that is not what was written.

  Raises:
    UnreadableError: if a file cannot be read, which says nothing of what is in it.
  """
  try:
    arrays = ArrayFolder(folder, identity)
  except (DamageError, OtherArraysError) as error:
    yield RECORD, str(error)
    return
  for name in arrays:
    try:
      arrays.read_verified(name)
    except DamageError as error:
      yield f"{name}.npy", str(error)
