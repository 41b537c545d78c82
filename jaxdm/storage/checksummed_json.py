"""JSON files that carry a digest of their own content, so that no byte changes unseen."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from jaxdm.errors import UserError
from jaxdm.storage import atomic_io

_PART_BYTES = 2**22
_DIGEST = "seal"  # The key in files; existing files stay readable.


class StoreError(UserError):
  """A store that does not match, cannot be read or cannot be written."""


class DamageError(StoreError):
  """A file that is missing, or not what was written.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: str | epath.PathLike, fault: str):
    """Takes the message in two parts.

    Args:
      path: see above. The message begins with it.
      fault: the rest, as in "is missing".
    """
    super().__init__(None, f"{os.fspath(path)} {fault}")
    self.path, self._fault = atomic_io.as_path(path), fault

  def __reduce__(self) -> tuple[Any, ...]:
    """Copies and pickles are made of both parts."""
    return type(self), (self.path, self._fault)


class UnreadableError(StoreError):
  """A file that may be undamaged, and cannot be read now: it must not be replaced."""

  def __init__(self, path: str | epath.PathLike, error: object):
    """Takes the file's path and why it cannot be read."""
    super().__init__(None, f"{os.fspath(path)} cannot be read: {error}")
    self._path, self._error = path, error

  def __reduce__(self) -> tuple[Any, ...]:
    """Copies and pickles are made of both parts."""
    return type(self), (self._path, self._error)


@contextlib.contextmanager
def reading(path: str | epath.PathLike) -> Iterator[None]:
  """Tells a file that is missing from one that cannot be read.

  Raises:
    DamageError: if there is no file.
    UnreadableError: on other errors of the system, as of permissions or of a disk.
  """
  try:
    yield
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
    raise DamageError(path, "is missing") from error
  except OSError as error:
    if error.errno is None:  # Not of the system, but of a library.
      raise
    raise UnreadableError(path, error) from error


def digest(content: bytes) -> str:
  """128 bits of a file's content, in hex."""
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: epath.Path) -> str:
  """`digest` of a file, which is read in parts; raises as `reading`."""
  hasher = hashlib.blake2b(digest_size=16)
  with reading(path), path.open("rb") as file:
    while content := file.read(_PART_BYTES):
      hasher.update(content)
  return hasher.hexdigest()


def file_digest_once(path: epath.Path) -> str:
  """`file_digest`, once in a process for as long as the file is not written to.

  In a bucket, where no inode tells one file from another, it is read each time. Raises
  as `reading`.
  """
  if atomic_io.is_remote(path):
    return file_digest(path)
  with reading(path):
    about = os.stat(path)
  key = os.fspath(path), about.st_size, about.st_mtime_ns, about.st_ino
  return _digest_once(*key)


@functools.lru_cache(maxsize=2**18)
def _digest_once(path: str, size: int, modified_ns: int, inode: int) -> str:
  """The digest of a file, read in parts."""
  del size, modified_ns, inode  # They tell a file from what it was before.
  return file_digest(atomic_io.as_path(path))


def write(path: epath.Path, value: Mapping[str, Any], *, new: bool = False) -> None:
  """Writes a JSON object together with a digest of itself.

  Args:
    path: of the file.
    value: JSON values.
    new: leave a file that is there.
  """
  content = {**value, _DIGEST: _digest_of(value)}
  if new:
    atomic_io.write_new(path, json.dumps(content, indent=1).encode())
  else:
    atomic_io.write_json(path, content)


def read(path: epath.Path) -> dict[str, Any]:
  """What `write` wrote, without the digest.

  Raises:
    DamageError: if any byte has changed, or there is no file.
    UnreadableError: if the file cannot be read.
  """
  text = _read_text(path)
  try:
    value = json.loads(text)
    if json.dumps(value, indent=1) != text or value.pop(_DIGEST) != _digest_of(value):
      raise ValueError("it has changed since it was written")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise DamageError(path, f"is damaged: {error}") from error
  return value


def read_without_digest(path: epath.Path) -> Any:
  """The value in a JSON file that `atomic_io.write_json` wrote.

  Raises:
    DamageError: if it is no JSON, or there is no file.
    UnreadableError: if the file cannot be read.
  """
  try:
    return json.loads(_read_text(path))
  except ValueError as error:
    if isinstance(error, StoreError):
      raise
    raise DamageError(path, f"is damaged: {error}") from error


def _read_text(path: epath.Path) -> str:
  """A file's text; see `read`."""
  try:
    with reading(path):
      return path.read_text()
  except UnicodeDecodeError as error:
    raise DamageError(path, f"is damaged: {error}") from error


def _digest_of(value: Mapping[str, Any]) -> str:
  """128 bits of a JSON object, in hex."""
  return digest(json.dumps(value).encode())


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
  """One phrase per setting in which two mappings differ."""
  keys = sorted(stored.keys() | requested.keys())
  return [
    f"{key}: stored {stored.get(key)!r}, asked {requested.get(key)!r}"
    for key in keys
    if stored.get(key) != requested.get(key)
  ]
