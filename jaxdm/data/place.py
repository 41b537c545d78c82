"""Where a user's own data is: on a disk, or in a bucket."""

import os
import pathlib
from typing import TypeAlias

from etils import epath

from jaxdm.storage import atomic_io

Place: TypeAlias = epath.Path | pathlib.Path


def place(path: str | os.PathLike[str]) -> Place:
  """A path from the root, with `~` looked up; of epath only where it is in a bucket."""
  text = os.path.expanduser(os.fspath(path))
  if atomic_io.is_remote(text):
    return atomic_io.as_path(text)
  return pathlib.Path(text).absolute()
