"""Files and folders that a workdir's programs read; named only once.

Most are outside of it. The paths of those inside are stored relative to it, so that they
hold wherever it is moved or copied.
"""

import os
from collections.abc import Mapping

from etils import epath

from jaxdm.errors import UserError
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
    self._folder = os.path.abspath(folder)
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

  def check_exist(self, *names: str) -> None:
    """Raises UserError if what an earlier run was given is not there.

    What this run was given is left to whoever reads it.

    Args:
      *names: of paths; see `find`.
    """
    for name, path in self._all().items():
      if name not in names or name in self._given or atomic_io.is_remote(path):
        continue
      if not atomic_io.exists(atomic_io.as_path(path)):
        raise UserError(
          name,
          f"={path}, which an earlier command named, is not there; give "
          f"--{name}=NEW with its new place",
        )

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
    paths = checksummed_json.read(self._file) if atomic_io.exists(self._file) else {}
    return {
      name: path if atomic_io.is_remote(path) else os.path.join(self._folder, path)
      for name, path in paths.items()
    }

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
      stored = {name: self._relative(path) for name, path in paths.items()}
      checksummed_json.write(self._file, stored)
    else:
      self._file.unlink(missing_ok=True)

  def _relative(self, path: str) -> str:
    """A path inside the folder, relative to it; others as they are."""
    is_inside = path.startswith(self._folder + os.sep)
    return os.path.relpath(path, self._folder) if is_inside else path


def _absolute(paths: Mapping[str, str | None]) -> dict[str, str]:
  """The paths that are given, as they are called from any folder."""
  return {
    name: path.rstrip("/")
    if atomic_io.is_remote(path)
    else os.path.abspath(os.path.expanduser(path))
    for name, path in paths.items()
    if path
  }
