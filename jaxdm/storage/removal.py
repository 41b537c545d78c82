"""The one place that removes folders: only paths that this project can have written.

A folder that a user names, or replaces by a symbolic link, may hold anything. So every
caller describes the paths that it writes, and all others stay.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator

from etils import epath

from jaxdm.storage import atomic_io

# Whether a path, relative to a folder, is one that is written there. The paths of folders
# end with a slash.
IsOwn = Callable[[str], bool]
# What `atomic_io.writing` and TensorStore add to the name of a file that they write.
TEMPORARY = r"(\.[0-9a-f]{12}\.partial|\.__lock)?"


def matching(*patterns: str) -> IsOwn:
  """The paths that match one of some regular expressions, or are being written to."""
  joined = re.compile(f"(?:{'|'.join(patterns)}){TEMPORARY}", re.S)
  return lambda path: joined.fullmatch(path) is not None


def foreign_paths(folder: epath.Path, is_own: IsOwn) -> list[str]:
  """Paths below a folder that are not its own; symbolic links are never its own.

  Raises:
    OSError: if a folder cannot be listed.
  """
  return [path for path, is_known in _paths(folder, is_own) if not is_known]


def remove_own(folder: epath.Path, is_own: IsOwn) -> bool:
  """Removes what is a folder's own, and then the folder itself if it is empty.

  Symbolic links are neither followed nor removed. If `folder` itself is one, it stays,
  and so does the folder that it leads to. Files go before the folder that they are in,
  subfolders before files.

  Args:
    folder: there may be none.
    is_own: see `IsOwn`.

  Returns:
    Whether the folder is gone.

  Raises:
    OSError: if something cannot be listed or removed.
  """
  paths = list(_paths(folder, is_own))
  own = [path for path, is_known in paths if is_known]
  if atomic_io.is_remote(folder):
    for path in own:
      if not path.endswith("/"):
        (folder / path).unlink()
    if len(own) == len(paths) and folder.exists():
      folder.rmtree()  # Names of folders, which some buckets have.
    return not folder.exists()
  for path in own:
    _remove(os.path.join(folder, path))
  if os.path.isdir(folder) and not os.path.islink(folder):
    _remove(f"{os.fspath(folder)}/")
  return not os.path.lexists(folder)


def _remove(path: str) -> None:
  """Removes a file, or a folder if it is empty; other processes may do the same."""
  with contextlib.suppress(FileNotFoundError):
    if not path.endswith("/"):
      os.unlink(path)
    elif not os.listdir(path):
      os.rmdir(path.rstrip("/"))


def _paths(folder: epath.Path, is_own: IsOwn) -> Iterator[tuple[str, bool]]:
  """Every path below a folder, inner ones first, and whether it is the folder's own."""
  if not atomic_io.is_remote(folder):
    for path, is_link in _local_paths(os.fspath(folder), ""):
      yield path, not is_link and is_own(path)
  elif folder.exists():
    for path in _remote_paths(folder, ""):
      yield path, is_own(path)


def _local_paths(root: str, below: str) -> Iterator[tuple[str, bool]]:
  """Every path, and whether it is a symbolic link."""
  try:
    with os.scandir(os.path.join(root, below)) as entries:
      children = sorted(entries, key=lambda entry: entry.name)
  except (FileNotFoundError, NotADirectoryError):
    return
  for child in children:
    if child.is_dir(follow_symlinks=False):
      path = f"{below}{child.name}/"
      yield from _local_paths(root, path)
      yield path, False
  for child in children:
    if not child.is_dir(follow_symlinks=False):
      yield below + child.name, child.is_symlink()


def _remote_paths(folder: epath.Path, below: str) -> Iterator[str]:
  """Every path in a bucket."""
  for child in sorted(folder.iterdir()):
    if child.is_dir():
      yield from _remote_paths(child, f"{below}{child.name}/")
      yield f"{below}{child.name}/"
    else:
      yield below + child.name
