"""Files that are either whole or what they were before, also after a crash."""

import contextlib
import io
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath


@contextlib.contextmanager
def writing(path: epath.Path, mode: str = "wb") -> Iterator[IO[Any]]:
  """A file to write to, which takes the place of `path` once it is closed and durable.

  An object in a bucket is there when all of it is, and has no other name before.
  """
  if is_remote(path):
    buffer = io.StringIO() if mode == "w" else io.BytesIO()
    yield buffer
    with path.open(mode) as file:
      file.write(buffer.getvalue())
    return
  partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
  try:
    with partial.open(mode) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  _sync(path.parent)  # Else a later file may outlive a crash that this one does not.


def make_folder(path: epath.Path) -> None:
  """Makes a folder, and those above it, so that they outlive a crash."""
  if path.exists():
    return
  if is_remote(path):
    path.mkdir(parents=True, exist_ok=True)
    return
  make_folder(path.parent)
  with contextlib.suppress(FileExistsError):  # Another process was faster.
    os.mkdir(path)
  _sync(path.parent)


def _sync(folder: epath.Path) -> None:
  """Makes the names in a folder durable."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_new(path: epath.Path, content: bytes) -> None:
  """Writes a file unless there is one; of several at once, one wins.

  In a bucket the last one may.
  """
  if is_remote(path):
    if not path.exists():
      path.write_bytes(content)
    return
  mine = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
  with writing(mine) as file:
    file.write(content)
  try:
    os.link(mine, path)
  except FileExistsError:
    pass
  finally:
    mine.unlink()


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a JSON file."""
  with writing(path, "w") as file:
    file.write(json.dumps(value, indent=1))


def find(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """Paths below a folder that match a pattern, in order.

  Only `pattern` may hold wildcards: brackets, stars and question marks in the folder's
  own path stand for themselves.
  """
  if is_remote(folder):
    return sorted(folder.glob(pattern))
  found = pathlib.Path(os.fspath(folder)).glob(pattern)
  return sorted(epath.Path(path) for path in found)


def is_remote(path: epath.Path) -> bool:
  """Whether a path leads into a bucket."""
  return "://" in os.fspath(path)
