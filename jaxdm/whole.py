"""Files that are either whole or what they were before, also after a crash."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath


@contextlib.contextmanager
def writing(path: epath.Path, mode: str = "wb") -> Iterator[IO[Any]]:
  """A file to write to, which takes the place of `path` once it is closed and durable."""
  partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
  with partial.open(mode) as file:
    yield file
    file.flush()
    with contextlib.suppress(OSError, AttributeError):
      os.fsync(file.fileno())  # Objects in a bucket have none, and need none.
  partial.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a JSON file."""
  with writing(path, "w") as file:
    file.write(json.dumps(value, indent=1))
