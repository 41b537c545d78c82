"""The folder of a workdir's stores, which may hold other things that must stay."""

import re

from etils import epath

from jaxdm.storage import atomic_io, removal, store_layout

# Of the store of models that others trained.
IMPORTED = "imported"
# Of all stores that programs make.
_NAMES = re.compile(rf"subsets(-training)?|held-out-\d+-\d+|changes|{IMPORTED}")
# Nobody has put these into a folder: disks have them, and experiments (`Workdir.lock`).
_UNINTENDED = re.compile(
  r"lost\+found|\.DS_Store|\.[0-9a-f]{12}\.trial|\.lock(-\d+-of-\d+)?"
)


def stores(bank: epath.Path) -> list[epath.Path]:
  """The folders with the names of stores, in order; all others are left alone."""
  paths = atomic_io.find(bank, "*")
  return [path for path in paths if _NAMES.fullmatch(path.name) and path.is_dir()]


def has_store(bank: epath.Path) -> bool:
  """Whether a store exists in a folder; folders with other names are not looked into.

  Raises:
    OSError: if that cannot be known.
  """
  paths = [path for path in atomic_io.find(bank, "*") if _NAMES.fullmatch(path.name)]
  return any(map(store_layout.exists, paths))


def is_foreign(bank: epath.Path) -> bool:
  """Whether a folder holds something, and no store or beginning of one."""
  names = [path.name for path in atomic_io.find(bank, "*")]
  if all(_UNINTENDED.fullmatch(name) for name in names):
    return False
  return not any(map(_is_store, stores(bank)))


def _is_store(path: epath.Path) -> bool:
  """Whether a folder can be a store, also one that some process has just begun.

  In a bucket descriptions of arrays are the first that is there.
  """
  is_begun = store_layout.marker_folder(path).exists()
  if is_begun or store_layout.exists(path):
    return True
  return not removal.foreign_paths(path, store_layout.own_paths(None))
