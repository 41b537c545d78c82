"""Parts of a long computation in a folder, from which a killed run continues."""

import errno
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxdm import identity
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, checksummed_json, polling

MANIFEST = "manifest.json"
# The array of a part that says which part it is, of what; earlier versions lack it.
_IDENTITY = "part_identity"
# What NumPy and zipfile raise. A file of one array is no context (TypeError), and bits of
# a header may say encrypted, or compressed in an unknown way (RuntimeError).
_OF_DAMAGE = (
  ValueError,
  EOFError,
  KeyError,
  TypeError,
  RuntimeError,
  zipfile.BadZipFile,
  zlib.error,
)


def read(path: epath.Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file, each against its checksum.

  Raises:
    UserError: if it is damaged, or no such file.
    OSError: if it cannot be read.
  """
  try:
    with path.open("rb") as file, np.load(file) as arrays:
      return dict(arrays)
  except _OF_DAMAGE as error:
    raise UserError(None, f"{path} is damaged: {error}") from error
  except OSError as error:
    if error.errno != errno.EINVAL:  # Of a place before the file's first byte.
      raise
    raise UserError(None, f"{path} is damaged: {error}") from error


def name_of(depends_on: Any) -> str:
  """Of a folder for parts that lies beside those of computations on something else.

  Args:
    depends_on: what `identity.digest` takes.
  """
  return identity.digest(depends_on)[:16]


class Cache:
  """Arrays by name, which are computed once and stored in a folder if there is one."""

  def __init__(self, folder: str | epath.PathLike | None, settings: Mapping[str, Any]):
    """Opens or makes the folder.

    Args:
      folder: None: nothing is kept.
      settings: all that the arrays depend on; JSON values. Arrays and what else is large
        stand there as `identity.digest`.

    Raises:
      UserError: if the folder holds arrays that depend on other settings, naming them,
        or arrays that may do so, without a manifest.

    Warns:
      UserWarning: if other software, or another kind of device, began the folder.
    """
    self._folder = None if folder is None else atomic_io.as_path(folder)
    if self._folder is None:
      return
    atomic_io.make_folder(self._folder)
    requested, mine = json.loads(json.dumps(settings)), identity.made_by()
    manifest, self._settings = self._folder / MANIFEST, requested
    if not atomic_io.exists(manifest):
      self._check_orphans()
      checksummed_json.write(manifest, {"settings": requested, "made_by": mine}, new=True)
    try:
      content = checksummed_json.read(manifest)
      settings, maker = content["settings"], content["made_by"]
    except (checksummed_json.DamageError, KeyError) as error:
      raise UserError(
        None, f"{self._folder} cannot be continued: {error}; remove it"
      ) from error
    if wrong := checksummed_json.differences(settings, requested):
      raise UserError(
        None, f"{self._folder} holds parts of another fit ({'; '.join(wrong)}); remove it"
      )
    if wrong := checksummed_json.differences(maker, mine):
      warnings.warn(
        f"{self._folder} was begun otherwise ({'; '.join(wrong)}); its parts are kept, "
        "and may differ from new ones; remove it to have all made alike",
        stacklevel=2,
      )

  def _check_orphans(self) -> None:
    """Raises UserError if parts without a manifest may be of other settings."""
    assert self._folder is not None
    for path in atomic_io.find(self._folder, "*.npz"):
      part_identity = read(path).get(_IDENTITY)
      if part_identity is None or str(part_identity) != self._identity(path.stem):
        raise UserError(
          None,
          f"{self._folder} holds parts that may be of another fit, and no {MANIFEST} "
          "that says of which one; remove it",
        )

  def __call__(
    self, name: str, make: Callable[[], dict[str, np.ndarray]]
  ) -> dict[str, np.ndarray]:
    """Reads the arrays of that name, or makes and writes them."""
    if self._folder is None:
      return make()
    path = self._path(name)
    if not atomic_io.exists(path):
      arrays = make()
      arrays = {**arrays, _IDENTITY: np.array(self._identity(name))}
      with atomic_io.writing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return self.wait_for(name)

  def wait_for(self, name: str) -> dict[str, np.ndarray]:
    """Reads the arrays of that name as soon as another process has made them."""
    path = self._path(name)
    polling.until(path.exists, str(path))
    try:
      arrays = read(path)
    except UserError as error:
      raise UserError(None, f"{error}; remove it, and it is made again") from error
    expected = self._identity(name)
    if str(arrays.pop(_IDENTITY, expected)) != expected:
      raise UserError(
        None,
        f"{path} is another part, or of another fit; remove it, and it is made again",
      )
    return arrays

  def _identity(self, name: str) -> str:
    """A digest of what a part depends on, and of its name."""
    return identity.digest({"settings": self._settings, "name": name})

  def _path(self, name: str) -> epath.Path:
    """Where the arrays of that name are kept."""
    assert self._folder is not None
    return self._folder / f"{name}.npz"
