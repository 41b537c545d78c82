"""Files and folders that are there and undamaged, and cannot be read now."""

import builtins
import io
import os
import pathlib
from typing import Any

import pytest

REAL_OPEN, REAL_LISTDIR = open, os.listdir


def make_unreadable(
  monkeypatch: pytest.MonkeyPatch, path: pathlib.Path, number: int
) -> None:
  """Lets each attempt to open a file, or to list a folder, fail; also those of root.

  Args:
    monkeypatch: undoes it.
    path: of the file or folder.
    number: of the system's error.
  """

  def check(given: Any) -> None:
    is_path = isinstance(given, (str, bytes, os.PathLike))
    if is_path and os.path.abspath(os.fsdecode(given)) == os.path.abspath(path):
      raise OSError(number, os.strerror(number), os.fspath(path))

  def failing_open(file: Any, *args: Any, **options: Any) -> Any:
    check(file)
    return REAL_OPEN(file, *args, **options)

  def failing_listdir(folder: Any = ".") -> Any:
    check(folder)
    return REAL_LISTDIR(folder)

  monkeypatch.setattr(builtins, "open", failing_open)
  monkeypatch.setattr(io, "open", failing_open)
  monkeypatch.setattr(os, "listdir", failing_listdir)
