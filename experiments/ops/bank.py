"""Looks after a workdir's stores of trained models.

  python -m experiments.ops.bank --workdir=runs/fashion --do=show
  python -m experiments.ops.bank --workdir=runs/fashion --do=verify

What --do can be:

  show    what every store holds, and what made it
  verify  every byte against the digests that were written with it, every random subset
          against its seed, and every changed set and its labels against the model's id;
          exits with 1 if something is wrong
  repair  the same, and forgets what is damaged, so that train_subsets trains it again;
          removes what killed processes were in the middle of writing; where all stores
          are lost, has train_subsets train all models again
  merge   takes over what another workdir of the same experiment has (--other); nothing
          is written if its models are others, and what is damaged there is left out
  export  masks.npy and margins.npy in the layout of the public CIFAR-10 bank (--other),
          and logits.npy if there are any
  import  the other way round: a store of --masks and --margins, which others left, in a
          new workdir, for fit_datamodels
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import flags
from etils import epath

from experiments import train_subsets
from experiments.config.path_flags import define_path
from experiments.ops import bank_files
from experiments.runtime import (
  bank_folder,
  base_models,
  imported_models,
  launcher,
  margin_files,
  provenance,
  stages,
  workdir_models,
)
from experiments.runtime.run import Run
from experiments.runtime.subset_models import ImportedModels, SubsetModels, TrainedModels
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, bank, maintenance, store_layout
from jaxdm.storage.checksummed_json import StoreError
from jaxdm.training.base_trainer import CHANGES, TRAINING, BaseTrainer
from jaxdm.training.collection import Collection


class ImportedWorkdir(NamedTuple):
  """A workdir of models that others trained, without images or with a store to mend."""

  workdir: Workdir


Source = Run | margin_files.Files | ImportedWorkdir

_DOINGS = ("show", "verify", "repair", "merge", "export", "import")
DO = flags.DEFINE_enum("do", "show", _DOINGS, "What to do; see above.")
OTHER = define_path(
  "other", None, "merge: the workdir to take models from; export: the folder to write."
)


def show(workdir: Workdir, subsets: SubsetModels | None) -> None:
  """Prints a line a store, and one for each that the settings name and does not exist.

  Args:
    workdir: that has the stores.
    subsets: the models that the settings ask for; None: models that others trained.
  """
  sizes = {}
  if subsets:
    subsets.existing_collections()  # Raises StoreError where they are other models.
    sizes = subsets.sizes()
  print(f"{'store':<24}{'models':>12}{'of':>12}{'diverged':>10}{'chunks':>9}  made by")
  counts = {name: f"{models:,}" for name, models in sizes.items()}
  paths = _stores(workdir)
  for path in paths:
    summary = maintenance.summary(path)
    makers = [
      ", ".join(f"{name} {version[:12]}" for name, version in maker.items())
      for maker in summary.made_by
    ]
    made_by = "; and ".join(makers)
    of, diverged = counts.get(path.name, ""), summary.totals.get("diverged", 0)
    cells = f"{summary.rows:>12,}{of:>12}{diverged:>10,}{summary.chunks:>9,}"
    print(f"{path.name:<24}{cells}  {made_by}")
  for name in sorted(counts.keys() - {path.name for path in paths}):
    print(f"{name:<24}{0:>12,}{counts[name]:>12}{0:>10,}{0:>9,}")


def problems(source: Source) -> Iterator[tuple[epath.Path, maintenance.Damage]]:
  """What is not as it was written, or not what its seed says."""
  paths = _stores(source.workdir)
  faults = [(path, fault) for path in paths for fault in maintenance.damage(path)]
  if isinstance(source, Run):
    root = source.workdir.path
    fault = base_models.damage(source, complete=_trained(source.workdir))
    faults += [(root, maintenance.Damage(None, file, why)) for file, why in fault]
  yield from faults
  if faults or not isinstance(source, Run):
    return  # What is damaged may not be readable; after a repair it is looked at.
  if isinstance(source.subsets, TrainedModels):
    for collection in source.subsets.existing_collections():
      path = collection.store.path
      yield from ((path, fault) for fault in _wrong_masks(source.trainer, collection))
  if any(path.name == CHANGES for path in paths):
    changes = source.trainer.changes
    for chunk, why in changes.wrong_chunks():
      yield changes.path, maintenance.Damage(chunk, f"masks/c/{chunk}/0", why)


def _trained(workdir: Workdir) -> bool:
  """Whether the workdir's models are recorded as complete."""
  return stages.is_recorded(workdir, train_subsets.STAGE)


def _wrong_masks(
  trainer: BaseTrainer, collection: Collection
) -> Iterator[maintenance.Damage]:
  """Chunks whose training sets do not follow from seed and number."""
  for chunk, rows in collection.store.chunks().items():
    numbers = chunk * collection.store.rows_per_chunk + np.arange(rows)
    masks_mn = collection.subsets.masks(trainer.seed, len(trainer.labels), numbers)
    stored = bank.packed_masks(collection.store, numbers)
    if (stored.bits != np.packbits(masks_mn, axis=1)).any():
      yield maintenance.Damage(chunk, f"masks/c/{chunk}/0", "not the subsets of its seed")


def check(source: Source, *, repair: bool) -> None:
  """Prints what is wrong, and forgets it if asked to; exits with 1 if it stays wrong."""
  faults = list(problems(source))
  if not faults:  # Else what tells the versions may be damaged.
    for line in stages.mixtures(source.workdir):
      print(f"note: {line}")
  if repair:
    for path in _stores(source.workdir):
      maintenance.sweep(path)
  for path, damage in faults:
    print(f"{path.name}/{damage.file}: {damage.why}")
  if not faults:
    more = (
      "; every subset is its seed's, and every changed set and its labels are their id's"
    )
    print(f"every byte is as it was written{more if isinstance(source, Run) else ''}")
    return
  if not repair:
    sys.exit(1)
  for path, damage in faults:
    maintenance.forget(path, damage)
  train = f"python -m experiments.{train_subsets.STAGE} --workdir={source.workdir.path}"
  imported = [path for path, _ in faults if path.name == imported_models.NAME]
  for stage, count, how in (
    (imported_models.STAGE, len(imported), f"{imported_models.RESTORE} brings back"),
    (train_subsets.STAGE, len(faults) - len(imported), f"{train} trains again"),
  ):
    if count:
      stages.reopen(source.workdir, stage)
      print(f"{count} damaged files forgotten; {how} what they held")


def _are_lost(source: Source) -> bool:
  """Whether all stores of an experiment are gone whose models are recorded as stored."""
  return isinstance(source, Run) and workdir_models.are_lost(source.workdir)


def forget_models(workdir: Workdir) -> None:
  """Records that the models are missing, where all of their stores are gone."""
  stages.reopen(workdir, train_subsets.STAGE)
  print(
    f"{workdir.bank} holds no store; python -m experiments.{train_subsets.STAGE} "
    f"--workdir={workdir.path} trains all models again"
  )


def merge(run: Run, other: epath.Path) -> None:
  """Copies the chunks that only the other workdir has, each checked.

  Raises:
    UserError: if the other workdir holds other models; nothing is written then.
  """
  with _naming_other():
    folders = _stores_to_merge(run, Workdir(os.fspath(other)))
  train_subsets.open_stores(run)
  for folder in folders:
    num_copied, incomplete = maintenance.merge(run.workdir.bank / folder.name, folder)
    print(f"{folder.name}: {num_copied} chunks taken over")
    if incomplete:
      print(
        f"{incomplete} chunks are incomplete or damaged in {folder}; copy it again, or "
        "repair it by --do=repair, to have them"
      )
  train_subsets.begin(run)
  provenance.take_over(run.workdir.path, other)
  num_missing = train_subsets.count_missing(run)
  print(f"{num_missing} models are missing" if num_missing else "no model is missing")


def _stores_to_merge(run: Run, other: Workdir) -> list[epath.Path]:
  """The other workdir's stores that hold something; raises UserError if one is another's.

  Nothing is written.
  """
  folders = [path for path in _stores(other) if store_layout.markers(path)]
  stores = [path for path in folders if store_layout.exists(path)]
  for path in folders:
    if path not in stores:
      print(f"{path} has no manifest.json, and is left out; copy it again")
  try:
    _check_names(run, other, [path.name for path in stores])
    assert isinstance(run.subsets, TrainedModels)  # Imported ones are not merged.
    trainer = run.trainer.in_folder(other.bank)
    subsets = dataclasses.replace(run.subsets, trainer=trainer)
    train_subsets.check_stores(trainer, subsets)
    for path in stores:
      if run.trainer.has_store(path.name):
        maintenance.check_merge(run.workdir.bank / path.name, path)
  except UserError:
    # Names the settings as flags, where it knows them.
    workdir_models.check(other, run.settings(*workdir_models.BINDING))
    raise
  return stores


def _check_names(run: Run, other: Workdir, names: list[str]) -> None:
  """Raises WorkdirError on names of stores that this experiment does not have."""
  own_names = {CHANGES, *run.subsets.sizes()}
  unknown = [n for n in names if n not in own_names and not run.trainer.has_store(n)]
  if not unknown:
    return
  held_out = [re.fullmatch(r"held-out-(\d+)-(\d+)", name) for name in unknown]
  repeats = [(int(match[1]), int(match[2])) for match in held_out if match]
  options = []
  if repeats:
    first, most = max(repeats, key=lambda pair: pair[1])
    options += [f"--held_out_from={first}", f"--held_out_seeds={most + 1}"]
  if any(name.endswith(TRAINING) for name in unknown):
    options.append("--audit")
  how = f"; {' '.join(options)} adds them to this experiment" if options else ""
  raise WorkdirError(
    "workdir",
    f"={other.path} has models in {', '.join(unknown)}, which this experiment has not"
    + how,
  )


@contextlib.contextmanager
def _naming_other() -> Iterator[None]:
  """Names --other in errors on the workdir that it leads to."""
  try:
    yield
  except StoreError as error:
    raise UserError("other", f": {error}") from error
  except UserError as error:
    if error.setting != "workdir":
      raise
    raise UserError("other", error.args[1]) from error


def _stores(workdir: Workdir) -> list[epath.Path]:
  """Folders of stores."""
  folders = bank_folder.stores(workdir.bank)
  if imported_models.exist(workdir):
    imported_models.check_store(workdir)
  if not folders:
    raise UserError("workdir", f"={workdir.path} holds no models yet")
  return folders


def open_any() -> Source:
  """An experiment, a workdir of imported models, or the files that are to be imported."""
  if DO.value == "import":
    if not margin_files.MASKS.value:
      raise UserError("masks", "and --margins are needed for --do=import")
    return margin_files.open_files(to_import=True)
  workdir = launcher.open_workdir()
  if not imported_models.exist(workdir):
    return launcher.open_run()
  if imported_models.without_images(workdir, stages.stored_settings(workdir)):
    return ImportedWorkdir(workdir)
  try:
    imported_models.collection(workdir)
  except (StoreError, UserError):  # They are mended first, and the rest afterwards.
    return ImportedWorkdir(workdir)
  return launcher.open_run()


def _hold() -> launcher.Hold:
  """What only reads must work where nothing can be written."""
  return "reading" if DO.value in ("show", "verify", "export") else "alone"


def main(source: Source) -> None:
  """Does what --do says."""
  if (OTHER.value is None) != (DO.value not in ("merge", "export")):
    raise UserError(
      "other", f"is for --do=merge and --do=export, which need it; got --do={DO.value}"
    )
  if isinstance(source, Run) and DO.value in ("show", "verify", "export"):
    workdir_models.check_stores(source.workdir)
    _stores(source.workdir)
  if isinstance(source, margin_files.Files):
    bank_files.take_in(source)
  elif DO.value == "show":
    show(source.workdir, source.subsets if isinstance(source, Run) else None)
  elif DO.value == "repair" and _are_lost(source):
    forget_models(source.workdir)
  elif DO.value in ("verify", "repair"):
    check(source, repair=DO.value == "repair")
  elif isinstance(source, ImportedWorkdir) or isinstance(source.subsets, ImportedModels):
    raise UserError("do", f"={DO.value} is for models of one's own, not imported ones")
  elif DO.value == "merge":
    merge(source, atomic_io.as_path(OTHER.value))
  else:
    bank_files.export(source, atomic_io.as_path(OTHER.value))


PROGRAM = launcher.Program(main, open_any, _hold, flag_modules=(margin_files,))

if __name__ == "__main__":
  PROGRAM.run()
