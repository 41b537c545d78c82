"""Files and folders outside of a workdir that its programs read; named only once."""

import os
from collections.abc import Mapping

from etils import epath

from jaxdm.storage import atomic_io, checksummed_json

_FILE = "places.json"


class Places:
  """Paths by the names of flags: those of earlier runs, and those given to this run."""

  def __init__(self, folder: epath.Path):
    """Reads and writes nothing yet.

    Args:
      folder: the workdir, which remembers the paths.
    """
    self._file = folder / _FILE
    self._given: dict[str, str] = {}
    self._left_out: set[str] = set()

  def find(self, **given: str | None) -> dict[str, str | None]:
    """Paths by name.

    Args:
      **given: a path, or None: the one that an earlier run was given. A path is
        remembered when a stage runs, or is found finished (`save`).
    """
    self._given |= _absolute(given)
    paths = self._all()
    return {name: paths.get(name) for name in given}

  def leave_out(self, name: str) -> None:
    """Does without the path of an earlier run, which is forgotten when a stage runs."""
    self._left_out.add(name)

  def find_all(self, prefix: str, given: Mapping[str, str]) -> dict[str, str]:
    """All paths whose names have a prefix; see `find`.

    Args:
      prefix: of all of them, in the workdir's notes.
      given: paths by name, without the prefix, in this run.

    Returns:
      Paths by name, those of earlier runs included.
    """
    self.find(**{prefix + name: path for name, path in given.items()})
    paths = self._all()
    return {
      name.removeprefix(prefix): path
      for name, path in paths.items()
      if name.startswith(prefix)
    }

  def _all(self) -> dict[str, str]:
    """Paths by name, of all runs."""
    paths = self.stored() | self._given
    return {name: path for name, path in paths.items() if name not in self._left_out}

  def stored(self) -> dict[str, str]:
    """The paths that earlier runs were given."""
    return checksummed_json.read(self._file) if self._file.exists() else {}

  def save(self) -> None:
    """Remembers the paths that this run was given."""
    paths = self._all()
    if paths != self.stored():
      self._write(paths)

  def restore(self, paths: Mapping[str, str]) -> None:
    """Remembers these paths and no others, as before a stage that failed."""
    self._write(paths)

  def _write(self, paths: Mapping[str, str]) -> None:
    """Replaces the file."""
    if paths:
      checksummed_json.write(self._file, paths)
    else:
      self._file.unlink(missing_ok=True)


def _absolute(paths: Mapping[str, str | None]) -> dict[str, str]:
  """The paths that are given, as they are called from any folder."""
  return {
    name: path.rstrip("/")
    if atomic_io.is_remote(path)
    else os.path.abspath(os.path.expanduser(path))
    for name, path in paths.items()
    if path
  }
