"""Masks and margins of models that others trained, as `.npy` files or imported.

The layout of the files is that of the public CIFAR-10 bank: bool [m, n] masks and float16
[m, t] margins. Everything is checked before anything is fitted. `experiments.ops.bank
--do=import` makes a store of them, an eighth as large and with digests of every byte.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from experiments.config.path_flags import define_path
from experiments.runtime import imported_models, launcher, stages
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm import identity, training_sets
from jaxdm import margins as margins_lib
from jaxdm.datamodels.config import FitConfig
from jaxdm.errors import UserError, first_few
from jaxdm.margins import Margins
from jaxdm.storage import bank, checksummed_json
from jaxdm.storage.matrix_view import MatrixView

MASKS = define_path(
  "masks",
  None,
  "Instead of models of one's own: an .npy of bool [m, n] training masks to fit to.",
)
MARGINS = define_path("margins", None, "With --masks: an .npy of float [m, t].")
TARGETS = flags.DEFINE_string("targets", None, "Fit only targets a:b of such models.")
DROP_NONFINITE = flags.DEFINE_bool(
  "drop_nonfinite", False, "Leave out such models whose margins are not finite."
)
# Of the settings, what a fit to them depends on.
_USED = {field.name for field in dataclasses.fields(FitConfig)} | {"num_held_out"}
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Files:
  """Checked files and the settings to fit them with.

  Attributes:
    workdir: for the results.
    experiment: whose fit and num_held_out count.
    masks: of the models to fit to and, behind them, those to judge on.
    margins_mt: float, theirs.
    settings: what the result depends on.
  """

  workdir: Workdir
  experiment: settings_lib.Experiment
  masks: training_sets.PackedMasks
  margins_mt: Margins
  settings: dict[str, dict[str, Any]]

  @property
  def num_fit(self) -> int:
    """Models that are fitted to; the others are held out."""
    return len(self.margins_mt) - self.experiment.collect.num_held_out

  @property
  def fit_data(self) -> tuple[training_sets.PackedMasks, Margins]:
    """Masks and margins to fit to; those in a store stay there."""
    rows = np.arange(self.num_fit)
    return self.masks.take(rows), _take(self.margins_mt, rows)

  @property
  def held_out(self) -> tuple[training_sets.PackedMasks, np.ndarray]:
    """Masks and margins to judge on."""
    rows = np.arange(self.num_fit, len(self.margins_mt))
    return self.masks.take(rows), self.margins_mt[rows]


def are_requested() -> bool:
  """Whether flags or workdir ask for somebody else's models, without their images."""
  if any((MASKS.value, MARGINS.value, TARGETS.value, DROP_NONFINITE.value)):
    return True
  workdir = launcher.open_workdir()
  return imported_models.without_images(workdir, stages.stored_settings(workdir))


class _Models(NamedTuple):
  """Models that others trained.

  Attributes:
    masks: bool[m, n].
    margins_mt: float, of the targets that the flags name.
    first: index of the first of these targets.
    num_targets: all that there are margins of.
  """

  masks: training_sets.PackedMasks
  margins_mt: Margins
  first: int
  num_targets: int


def open_files(*, to_import: bool = False) -> Files:
  """Reads and checks what flags or workdir name, and says what it holds.

  Args:
    to_import: whether a store is made of them. It may be made again in a workdir whose
      models were imported from the same files, whatever has been done with them since,
      and also if the record of the import is lost.

  Raises:
    UserError: on anything in flags, files or store that cannot be fitted.
  """
  for flag in (experiment_flags.ARRAYS, experiment_flags.DATA_DIR):
    if flag.value:
      raise UserError(flag.name, "has no effect on models that others trained")
  workdir = launcher.open_workdir()
  stored = stages.stored_settings(workdir)
  before = stored.pop("files", {})
  imported = stored.pop("imported", {})
  if to_import and (imported or imported_models.has_store(workdir)):
    before, stored = imported, {}  # Nothing of what was done since is needed.
  elif "data" in stored:
    raise WorkdirError(
      "workdir", f"={workdir.path} is an experiment on images; name a new --workdir"
    )
  if bool(MASKS.value) != bool(MARGINS.value):
    raise UserError("masks", "and --margins are needed together")
  experiment = experiment_flags.experiment(stored)
  targets = TARGETS.value or "{}:{}".format(*before.get("targets", ("", "")))
  drop = DROP_NONFINITE.value or before.get("drop_nonfinite", False)
  models = _find_models(workdir, targets)
  print(_description(models))
  if unused := experiment_flags.flag_fields() - _USED:
    name = min(unused)
    raise UserError(name, "has no effect on models that others trained")
  masks, margins_mt = _finite(models, drop=drop)
  now: dict[str, Any] = {
    "masks": [*masks.shape],
    "digest": identity.digest([masks, margins_mt]),
    "targets": [models.first, models.first + margins_mt.shape[1]],
    "drop_nonfinite": drop,
  }
  _check_same(workdir, before, now, every_setting=bool(imported))
  return Files(workdir, experiment, masks, margins_mt, {"files": now})


def _check_same(
  workdir: Workdir,
  before: Mapping[str, Any],
  now: Mapping[str, Any],
  *,
  every_setting: bool,
) -> None:
  """Raises WorkdirError on models of other files than those that a workdir began with.

  Args:
    workdir: for the message.
    before: the settings of the files so far; empty if there are none.
    now: of the files that are read now.
    every_setting: whether targets and dropped models must be the same, too.
  """
  if not before:
    return
  names = ("targets", "drop_nonfinite")
  same_request = every_setting or all(now[name] == before.get(name) for name in names)
  same_width = now["masks"][1] == before["masks"][1]
  if same_width and (now == before or not same_request):
    return
  wrong = checksummed_json.differences(before, now)
  raise WorkdirError(
    "workdir",
    f"={workdir.path} was begun with other files ({'; '.join(wrong)}); give the same "
    "files and flags, or name a new --workdir",
  )


def _find_models(workdir: Workdir, targets: str) -> _Models:
  """The models of the files that flags or workdir name, or else those imported."""
  where = workdir.places.find(masks=MASKS.value, margins=MARGINS.value)
  if imported_models.exist(workdir) and not (MASKS.value or MARGINS.value):
    return _from_store(workdir, targets)
  workdir.places.check_exist("masks", "margins")
  if where["masks"] and where["margins"]:
    masks, margins = MASKS.value or where["masks"], MARGINS.value or where["margins"]
    return _from_files(masks, margins, targets)
  raise UserError("masks", "and --margins are needed together")


def _description(models: _Models) -> str:
  """How many models there are, on which sets, and of which targets."""
  bits, (m, n) = models.masks.bits, models.masks.shape
  sizes = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
  distinct = len(np.unique(bits, axis=0))
  stop = models.first + models.margins_mt.shape[1]
  return (
    f"{m:,} models on {sizes.min():,} to {sizes.max():,} of {n:,} examples, "
    f"{m - distinct:,} on a subset seen before; targets {models.first}:{stop} of "
    f"{models.num_targets:,}"
  )


def _finite(models: _Models, *, drop: bool) -> tuple[training_sets.PackedMasks, Margins]:
  """Masks and margins of the models whose margins are finite.

  Raises:
    UserError: if the margins of some are not, unless these models are to be dropped.
  """
  masks, margins_mt = models.masks, models.margins_mt
  rows, with_margins = margins_lib.usable(margins_mt)
  bad = np.setdiff1d(np.arange(len(margins_mt)), rows)
  if num_unusable := margins_mt.shape[1] - len(with_margins):
    print(
      f"{num_unusable} targets without margins, or with those of few models, are left out"
    )
  if bad.size and not drop:
    raise UserError(
      "margins",
      f"of {bad.size} models are not finite: rows {first_few(bad)}; "
      "--drop_nonfinite leaves them out",
    )
  if not bad.size:
    return masks, margins_mt
  print(f"{bad.size} models left out: their margins are not finite")
  return masks.take(rows), _take(margins_mt, rows)


def _from_files(masks: str, margins: str, targets: str) -> _Models:
  """The models of two files."""
  masks_mn, margins_mt = read_matrix("masks", masks), read_matrix("margins", margins)
  if len(margins_mt) != len(masks_mn):
    rows = len(margins_mt), len(masks_mn)
    raise UserError("margins", f"has {rows[0]} rows but --masks has {rows[1]}")
  if margins_mt.dtype.kind != "f":
    raise UserError("margins", f"must hold floats, got {margins_mt.dtype}")
  start, stop = _slice(targets, margins_mt.shape[1])
  packed_masks = training_sets.PackedMasks.of(check_blocks(masks_mn))
  return _Models(packed_masks, margins_mt[:, start:stop], start, margins_mt.shape[1])


def _from_store(workdir: Workdir, targets: str) -> _Models:
  """The models that were imported."""
  collection = imported_models.collection(workdir)
  models, count = collection.store, collection.models
  num_targets = int(models.settings["num_targets"])
  start, stop = _slice(targets, num_targets)
  rows = np.arange(count)
  margins_mt = MatrixView(models, "margins", rows, range(start, stop))
  return _Models(bank.packed_masks(models, rows), margins_mt, start, num_targets)


def _take(margins_mt: Margins, rows: np.ndarray) -> Margins:
  """Some models' margins."""
  return margins_mt[rows] if isinstance(margins_mt, np.ndarray) else margins_mt.take(rows)


def read_matrix(name: str, path: str) -> np.ndarray:
  """A matrix in a file, mapped into memory; never a pickle."""
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except Exception as error:  # NumPy parses the header as Python, and so fails.
    raise UserError(name, f"={path} is not a whole .npy file: {error}") from error
  if not isinstance(array, np.ndarray) or array.ndim != 2 or not array.size:
    raise UserError(name, f"={path} must hold one matrix that is not empty")
  return array


def check_blocks(masks_mn: np.ndarray) -> Iterator[np.ndarray]:
  """Blocks of rows as bool; UserError where one is not of zeros and ones."""
  for start in range(0, len(masks_mn), _BLOCK_ROWS):
    block = np.asarray(masks_mn[start : start + _BLOCK_ROWS])
    # A bool in a file may be a byte other than 0 and 1.
    numbers = block.view(np.uint8) if block.dtype == bool else block
    yield training_sets.rows_of_masks(numbers, start)


def _slice(text: str, num_targets: int) -> tuple[int, int]:
  """The targets a:b that are asked for."""
  match = re.fullmatch(r"(\d*):(\d*)", text)
  if not match:
    raise UserError("targets", f"must be a:b, got {text!r}")
  start, stop = int(match[1] or 0), int(match[2] or num_targets)
  if not start < stop <= num_targets:
    raise UserError("targets", f"must lie in 0:{num_targets}, got {text!r}")
  return start, stop
