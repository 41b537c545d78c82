"""The models that a workdir holds, and the settings that they bind."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from experiments.config import settings as settings_lib
from experiments.runtime import bank_folder, stages
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.storage import (
  array_folder,
  atomic_io,
  checksummed_json,
  maintenance,
  store_layout,
)

# In the workdir, logits and scores of the models on all data.
BASE_MODELS = "base_models"
# Of images: a setting that has no flag; others tell why it differs.
_FINGERPRINT = "fingerprint"
# Groups of settings that no model of a workdir may differ in.
BINDING = ("data", "collect", "retrain", "network", "train", "start")


def exist(workdir: Workdir) -> bool:
  """Whether a workdir holds a model that was trained for it."""
  if atomic_io.exists(workdir.path / BASE_MODELS / array_folder.RECORD):
    return True
  return any(store_layout.markers(path) for path in _own_stores(workdir))


def stored(workdir: Workdir) -> frozenset[str]:
  """What tells whether models were stored: their markers, and those on all data."""
  markers = {
    f"{path.name}/{marker.name}"
    for path in _own_stores(workdir)
    for marker in store_layout.markers(path)
  }
  record = workdir.path / BASE_MODELS / array_folder.RECORD
  has_record = atomic_io.exists(record)
  on_all = {checksummed_json.file_digest(record)} if has_record else set()
  return frozenset(markers | on_all)


def forget_empty_stores(workdir: Workdir) -> None:
  """Removes stores of one's own that hold no model; nobody may be writing to them.

  Folders with anything in them that no store has stay.
  """
  for path in _own_stores(workdir):
    maintenance.remove_empty(path)


def check_stores(workdir: Workdir) -> None:
  """Raises WorkdirError if all models are recorded as stored, and no store exists.

  A folder that is there and empty may be where a disk is mounted.
  """
  workdir.check_bank_exists()
  if are_lost(workdir):
    repair = f"python -m experiments.ops.bank --do=repair --workdir={workdir.path}"
    raise workdir.bank_error(
      f"holds no store, and the models of {workdir.path} were stored there; "
      f"{workdir.how_to_find_bank()}; or, if they are lost, run {repair}, after which "
      "train_subsets trains them again"
    )


def are_lost(workdir: Workdir) -> bool:
  """Whether all models are recorded as stored, and no store exists."""
  is_recorded = stages.is_recorded(workdir, "train_subsets")
  return is_recorded and not bank_folder.has_store(workdir.bank)


def _own_stores(workdir: Workdir) -> list[epath.Path]:
  """Folders of models that were trained for this workdir."""
  paths = bank_folder.stores(workdir.bank)
  return [path for path in paths if path.name != bank_folder.IMPORTED]


def check(workdir: Workdir, settings: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises WorkdirError if other settings made a workdir's models, naming those.

  Args:
    workdir: that may hold models.
    settings: of the stage that trains models, by group.
  """
  stored = stages.settings_of(workdir, "train_subsets")
  pairs = [
    (_binding(stored[group], values), _binding(values, values))
    for group, values in settings.items()
    if group in stored and group != "retrain"
  ]
  # Models of networks and of a function never mix.
  pairs.append((dict(stored.get("retrain", {})), dict(settings.get("retrain", {}))))
  wrong = [text for pair in pairs for text in checksummed_json.differences(*pair)]
  by_flags = [f"--{text}" for text in wrong if not text.startswith(f"{_FINGERPRINT}:")]
  what = "; ".join(by_flags) or "of other images"
  if wrong and exist(workdir):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds other models ({what}); give the "
      "stored values, or name another --workdir",
    )


def check_preset(workdir: Workdir, preset: str) -> None:
  """Raises WorkdirError on another preset than made a workdir's models.

  Before its data are read, which may not be there.
  """
  stored = stages.settings_of(workdir, "train_subsets")
  if "start" in stored:
    check(workdir, stored | {"start": stored["start"] | {"preset": preset}})


def _binding(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
  """Some of the values: those that no model of a workdir may differ in."""
  return {
    name: value
    for name, value in values.items()
    if name in names and name not in settings_lib.GROWING
  }
