"""Where a user's own data is: on a disk, or in a bucket."""

import os
import pathlib
from typing import TypeAlias

from etils import epath

Place: TypeAlias = epath.Path | pathlib.Path


def place(path: str | os.PathLike[str]) -> Place:
  """A path from the root, with `~` looked up.

  Only one with :// leads into a bucket: /s3/x is in a folder.
  """
  text = os.path.expanduser(os.fspath(path))
  return epath.Path(text) if "://" in text else pathlib.Path(text).absolute()
