"""Atomic writes: after a crash a file is either complete or what it was before."""

import contextlib
import errno
import fcntl
import fnmatch
import functools
import hashlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Any

import fsspec.config
from etils import epath

_BUCKETS = ("gs://", "s3://", "az://", "hf://")  # What epath reads.
# How file systems say that they lack an operation, such as FAT hard links.
_LACKING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
# Else what other processes have written since a bucket was listed would not be there.
for _protocol in ("gs", "s3", "abfs", "hf"):
  fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


@contextlib.contextmanager
def writing(path: epath.Path, mode: str = "wb") -> Iterator[IO[Any]]:
  """A file to write to, which takes the place of `path` once it is closed and durable.

  Text is UTF-8 whatever the locale, and keeps its line ends. An object in a bucket is
  there when all of it is, and has no other name before.
  """
  as_text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
  if is_remote(path):
    content = io.BytesIO()
    buffer = io.TextIOWrapper(content, **as_text) if as_text else content
    yield buffer
    buffer.flush()
    path.write_bytes(content.getvalue())
    return
  partial = _partial(path)
  try:
    with naming(path), open(partial, mode, **as_text) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  _sync(path.parent)  # Else a later file may outlive a crash that this one does not.


@contextlib.contextmanager
def replacing(contents: Mapping[epath.Path, bytes]) -> Iterator[None]:
  """Files that are durable when the context begins, and take their places when it ends.

  So a full disk is known before anything is changed. In a bucket they are written when
  the context ends.
  """
  if any(map(is_remote, contents)):
    yield
    for path, content in contents.items():
      path.write_bytes(content)
    return
  partials = {path: _partial(path) for path in contents}
  try:
    for path, partial in partials.items():
      make_folder(path.parent)
      with naming(path), open(partial, "wb") as file:
        file.write(contents[path])
        file.flush()
        os.fsync(file.fileno())
    yield
    for path, partial in partials.items():
      partial.replace(path)
  except BaseException:
    for partial in partials.values():
      partial.unlink(missing_ok=True)
    raise
  for folder in {path.parent for path in contents}:
    _sync(folder)


def _partial(path: epath.Path) -> epath.Path:
  """A name beside a file for what is to take its place; no other process has it."""
  return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")


@contextlib.contextmanager
def naming(path: str | epath.PathLike) -> Iterator[None]:
  """Adds the path to an error of writing that names no file, as of a full disk."""
  try:
    yield
  except OSError as error:
    if error.filename is None and error.errno is not None:
      error.filename = os.fspath(path)
    raise


def make_folder(path: epath.Path) -> None:
  """Makes a folder, and those above it, so that they outlive a crash.

  Raises:
    OSError: if it cannot be made; NotADirectoryError, if it or one above it is a file.
  """
  if path.exists():
    if not is_remote(path) and not path.is_dir():
      text = "it is a file; name a folder"
      raise NotADirectoryError(errno.ENOTDIR, text, os.fspath(path))
    return
  if is_remote(path):
    path.mkdir(parents=True, exist_ok=True)
    return
  make_folder(path.parent)
  with contextlib.suppress(FileExistsError):  # Another process was faster.
    os.mkdir(path)
  _sync(path.parent)


def _sync(folder: epath.Path) -> None:
  """Makes the names in a folder durable, where the file system can."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _LACKING:
      raise
  finally:
    os.close(descriptor)


def check_writable(folder: epath.Path) -> None:
  """Makes a folder, and a file in it that is removed again.

  Raises:
    Exception: of many kinds in a bucket, else OSError, where that cannot be done.
  """
  make_folder(folder)
  trial = folder / f".{uuid.uuid4().hex[:12]}.trial"
  trial.write_bytes(b"")
  trial.unlink()


def write_new(path: epath.Path, content: bytes) -> None:
  """Writes a file unless there is one; of several at once, one wins.

  In a bucket the last one may. A file system without hard links needs locks instead,
  which few keep between machines.
  """
  if is_remote(path):
    if not path.exists():
      path.write_bytes(content)
    return
  mine = _partial(path)
  with writing(mine) as file:
    file.write(content)
  try:
    os.link(mine, path)
  except FileExistsError:
    pass
  except OSError as error:
    if error.errno not in _LACKING:
      raise
    _rename_new(mine, path)
  finally:
    mine.unlink(missing_ok=True)
  _sync(path.parent)


def _rename_new(source: epath.Path, path: epath.Path) -> None:
  """Renames a file unless there is one of that name; of several at once, one wins."""
  descriptor = os.open(path.parent, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # The last one wins where there are no locks.
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not path.exists():
      os.rename(source, path)
  finally:
    os.close(descriptor)


def rename_folder(source: epath.Path, path: epath.Path) -> None:
  """Gives a local folder a name that none has, so that it outlives a crash."""
  os.rename(source, path)
  _sync(path.parent)


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a JSON file."""
  with writing(path, "w") as file:
    file.write(json.dumps(value, indent=1))


def find(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """Paths below a folder that match a pattern, in order.

  Only `pattern` may hold wildcards: brackets, stars and question marks in the folder's
  own path stand for themselves.

  Raises:
    OSError: if a folder cannot be listed. One that is not there holds nothing.
  """
  if is_remote(folder) and "/" in pattern:
    return sorted(folder.glob(pattern))
  if is_remote(folder):  # A glob would list all that is below, too.
    children = folder.iterdir() if folder.exists() else ()
    return sorted(path for path in children if fnmatch.fnmatchcase(path.name, pattern))
  paths = [os.fspath(folder)]
  for part in pattern.split("/"):
    paths = [child for path in paths for child in _children(path, part)]
  return sorted(epath.Path(path) for path in paths)


def _children(folder: str, pattern: str) -> list[str]:
  """Paths in a folder whose names match a pattern."""
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return []
  return [
    os.path.join(folder, name) for name in names if fnmatch.fnmatchcase(name, pattern)
  ]


def exists(path: epath.Path) -> bool:
  """Whether there is a file or folder.

  Raises:
    OSError: if that cannot be known, where `path.exists()` would return False.
  """
  if is_remote(path):
    return path.exists()
  try:
    os.stat(path)
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True


def as_path(path: str | epath.PathLike) -> epath.Path:
  """A path that a user gives, with `~` expanded to a home directory.

  All paths become an `epath.Path` here. A second call changes nothing: the folder ./~x,
  which `epath.Path` writes as ~x, becomes an absolute path.
  """
  if os.fspath(path).startswith("~"):
    path = os.path.expanduser(path)
  expanded = epath.Path(path)
  return expanded.absolute() if os.fspath(expanded).startswith("~") else expanded


def plain_path(folder: epath.Path) -> str:
  """An absolute path of a local folder that TensorStore and Orbax take for what it is.

  They know paths in UTF-8 only, and take backslashes for slashes and stars and brackets
  for wildcards. Such a folder gets a symbolic link, as long as this process lives.
  """
  text = os.path.abspath(folder)
  name = os.fsencode(text)
  if name == text.encode("utf-8", "surrogatepass") and not set("*?[\\") & set(text):
    return text
  link = os.path.join(_links().name, hashlib.sha256(name).hexdigest()[:32])
  with contextlib.suppress(FileExistsError):
    os.symlink(text, link)
  return link


@functools.cache
def _links() -> "tempfile.TemporaryDirectory[str]":
  """The folder for `plain_path`, which is removed when the process ends."""
  return tempfile.TemporaryDirectory(prefix="jaxdm-")


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path leads into a bucket: /s3/x and ./gs://x are folders."""
  return os.fspath(path).startswith(_BUCKETS)
