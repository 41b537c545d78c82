"""Arrays on disk through Orbax: the one place that knows its API."""

import os
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, removal, tensorstore_errors

# Added to a checkpoint's name while it is replaced.
_INCOMPLETE, _NEXT, _PREVIOUS = ".jaxdm-incomplete", ".jaxdm-next", ".jaxdm-previous"
# Files that Orbax puts into every checkpoint.
_MARKERS = {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}
# All that Orbax puts into one. A removal ends with a marker, so that it can be continued.
_is_own = removal.matching(
  *map(re.escape, _MARKERS),
  r"_sharding|commit_success\.txt",
  r"(?:d|array_metadatas|descriptor|ocdbt\.process_\d+)/.*",
)


def save(
  path: str | epath.PathLike, arrays: dict[str, np.ndarray], *, overwrite: bool = False
) -> None:
  """Writes named arrays as an Orbax checkpoint, whole or not at all.

  Every process of a job writes for itself. On a disk an earlier checkpoint stays until
  the new one is complete: whenever the process is killed, `load` reads one of the two.
  In a bucket, where folders have no names to exchange, the earlier one is removed first.

  Raises:
    UserError: if there is something already and `overwrite` is not set, or it is neither
      a checkpoint nor an empty folder.
    OSError: if the disk fails or is full.
  """
  place = _place(path)
  if atomic_io.is_remote(place):
    if place.exists():
      _check_replaceable(path, place, overwrite)
      removal.remove_own(place, _is_own)
    _write(place, arrays, path)
    return
  # Orbax's threads may never end after an error of the disk.
  atomic_io.check_writable(place.parent)
  _finish_replacing(place)
  if atomic_io.exists(place):
    _check_replaceable(path, place, overwrite)
  _remove_incomplete(place)
  try:
    _write(_beside(place, _INCOMPLETE), arrays, path)
  except BaseException:
    _remove_incomplete(place)
    raise
  if atomic_io.exists(place):
    atomic_io.rename_folder(_beside(place, _INCOMPLETE), _beside(place, _NEXT))
    _finish_replacing(place)
  else:
    atomic_io.rename_folder(_beside(place, _INCOMPLETE), place)


def _write(
  place: epath.Path, arrays: dict[str, np.ndarray], path: str | epath.PathLike
) -> None:
  """Writes a checkpoint where there is none; `path` is its name in errors."""
  try:
    with _checkpointer() as checkpointer:
      checkpointer.save(place, arrays)
  except ValueError as error:
    if (os_error := tensorstore_errors.system_error(error, path)) is None:
      raise
    raise os_error from error


def _beside(place: epath.Path, suffix: str) -> epath.Path:
  """A folder beside a checkpoint, while it is replaced."""
  return place.with_name(place.name + suffix)


def _finish_replacing(place: epath.Path) -> None:
  """Exchanges a checkpoint for the next one, which is complete, if there is one.

  It can be killed anywhere, and called again. Of next, current and previous one, the
  first that is there is the newest.
  """
  new, old = _beside(place, _NEXT), _beside(place, _PREVIOUS)
  if atomic_io.exists(new):
    if atomic_io.exists(place):
      removal.remove_own(old, _is_own)
      atomic_io.rename_folder(place, old)
    atomic_io.rename_folder(new, place)
  if atomic_io.exists(place):
    removal.remove_own(old, _is_own)
  elif atomic_io.exists(old):
    atomic_io.rename_folder(old, place)


def _remove_incomplete(place: epath.Path) -> None:
  """Removes what killed or failed writers have left; Orbax adds to their names."""
  for path in atomic_io.find(place.parent, "*"):
    if path.name.startswith(place.name + _INCOMPLETE):
      removal.remove_own(path, _is_own)


def exists(path: str | epath.PathLike) -> bool:
  """Whether there is something for `load` to read."""
  return bool(_candidates(_place(path)))


def remove(path: str | epath.PathLike) -> None:
  """Removes a checkpoint, if there is one, and what killed writers have left of it."""
  place = _place(path)
  for candidate in _candidates(place):
    removal.remove_own(candidate, _is_own)
  if not atomic_io.is_remote(place):
    _remove_incomplete(place)


def _candidates(place: epath.Path) -> list[epath.Path]:
  """The checkpoints that are there, the newest first; one, unless a writer was killed."""
  if atomic_io.is_remote(place):
    return [place] if place.exists() else []
  paths = [_beside(place, _NEXT), place, _beside(place, _PREVIOUS)]
  return [path for path in paths if atomic_io.exists(path)]


def load(path: str | epath.PathLike) -> dict[str, np.ndarray]:
  """Reads what `save` wrote, as host arrays: the writer's devices do not matter.

  Where a writer was killed, it reads the newest checkpoint that is undamaged.

  Raises:
    FileNotFoundError: if there is none.
    UserError: if it is something else, or damaged.
    OSError: if it cannot be read.
  """
  errors = []
  for place in _candidates(_place(path)):
    try:
      return _read(place, path)
    except UserError as error:
      errors.append(error)
  if errors:
    raise errors[0]
  raise FileNotFoundError(f"no checkpoint at {path}")


def _read(place: epath.Path, path: str | epath.PathLike) -> dict[str, np.ndarray]:
  """Reads one checkpoint; `path` is its name in errors."""
  try:
    with _checkpointer() as checkpointer:
      meta = dict(checkpointer.metadata(place).item_metadata)
      template = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in meta.items()}
      tree = checkpointer.restore(place, template)
  except Exception as error:  # Orbax and TensorStore raise many kinds.
    if os_error := tensorstore_errors.unreadable(error, path):
      raise os_error from error
    why = "it is damaged" if _is_checkpoint(place) else "it is no checkpoint"
    raise UserError(None, f"{path} cannot be read: {why}; save it again") from error
  return {name: np.asarray(value) for name, value in tree.items()}


def _check_replaceable(
  path: str | epath.PathLike, place: epath.Path, overwrite: bool
) -> None:
  """Raises UserError unless what is there may be overwritten, and can be."""
  if not overwrite:
    raise UserError(
      None, f"{path} exists already; name another folder, or set overwrite=True"
    )
  if not place.is_dir():
    raise UserError(
      None, f"{path} is a file and cannot be overwritten; name a folder to save to"
    )
  names = sorted(child.name for child in place.iterdir())
  if names and not _is_checkpoint(place):
    raise UserError(
      None,
      f"{path} is not overwritten: it is no checkpoint, but a folder that holds "
      f"{', '.join(names[:5])}; name another folder, or remove it",
    )
  if others := removal.foreign_paths(place, _is_own):
    raise UserError(
      None,
      f"{path} is not overwritten: it holds {others[0]} beside a checkpoint; name "
      "another folder, or move this away",
    )


def _is_checkpoint(place: epath.Path) -> bool:
  """Whether a folder is a checkpoint, also one that lacks some files."""
  return any((place / marker).exists() for marker in _MARKERS)


def _place(path: str | epath.PathLike) -> epath.Path:
  """An absolute path as Orbax takes it; of a symbolic link, the folder it leads to."""
  place = atomic_io.as_path(path).absolute()
  if atomic_io.is_remote(place):
    return place
  if os.path.islink(place):
    place = atomic_io.as_path(os.path.realpath(place))
  return atomic_io.as_path(atomic_io.plain_path(place.parent)) / place.name


def _checkpointer() -> ocp.StandardCheckpointer:
  """Orbax's, which does not wait for other processes."""
  if jax.process_count() == 1:
    return ocp.StandardCheckpointer()
  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index},
    barrier_sync_key_prefix=f"process-{index}",
  )
  return ocp.StandardCheckpointer(multiprocessing_options=alone)
