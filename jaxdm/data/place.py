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
  return epath.Path(text) if atomic_io.is_remote(text) else pathlib.Path(text).absolute()
