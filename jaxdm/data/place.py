"""Where a user's own data is: on a disk, or in a bucket."""

import os
import pathlib
from typing import TypeAlias

from etils import epath

_BUCKETS = ("gs://", "s3://", "az://", "hf://")  # What epath reads.

Place: TypeAlias = epath.Path | pathlib.Path


def place(path: str | os.PathLike[str]) -> Place:
  """A path from the root, with `~` looked up.

  Only what begins with gs:// or its like is in a bucket: /s3/x and ./gs://x are folders.
  """
  text = os.path.expanduser(os.fspath(path))
  return epath.Path(text) if text.startswith(_BUCKETS) else pathlib.Path(text).absolute()
