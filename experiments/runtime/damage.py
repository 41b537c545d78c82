"""What to do about a file of a workdir that is damaged or missing."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from experiments.config import experiment_flags
from experiments.runtime import imported_models
from experiments.runtime.workdir import Workdir
from experiments.runtime.workdir_models import BASE_MODELS
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io
from jaxdm.storage.checksummed_json import DamageError

# Stages with programs of other names than their files.
_STAGE_OF = {"targets": "train_subsets", "examples": "train_subsets"}
_STAGE_OF |= {"datamodels": "fit_datamodels"}


@contextlib.contextmanager
def with_remedies() -> Iterator[None]:
  """Adds to the error of a damaged file in the workdir of the flags what to do about it.

  Raises:
    UserError: in place of such a DamageError.
  """
  try:
    yield
  except DamageError as error:
    workdir = experiment_flags.WORKDIR.value
    text = remedy(workdir, str(error.path)) if workdir else ""
    raise UserError(None, f"{error}; {text}" if text else str(error)) from error


def remedy(workdir: str, path: str) -> str:
  """How to go on where a file is damaged; empty where that is not known.

  Args:
    workdir: the folder, as the flag names it.
    path: of the file, in the workdir or its bank.
  """
  if _below(_bank(workdir), path):
    return _by_repair(workdir)
  parts = _below(workdir, path)
  if not parts:
    return ""
  first, stem = parts[0], parts[0].partition(".")[0]
  if stem == BASE_MODELS:
    return _by_repair(workdir)
  if first == "stages":
    stage = pathlib.PurePath(path).stem
    if stage == imported_models.STAGE:
      return f"remove it, and {imported_models.RESTORE} writes it again"
    return (
      f"remove it, and run {stage} again with the settings that it had (summary.json, if "
      "there is one, lists those of all stages): what is stored is not made again"
    )
  if first == "places.json":
    return (
      "remove it, and name the files outside of the workdir again in the next command, "
      "by --data_dir, --arrays, --bank_dir, --scores or whichever flags named them"
    )
  if len(parts) > 1 and first.endswith(".parts"):
    folder = os.path.join(workdir, *parts[:-1])
    return f"remove {folder}, and the same command makes it again"
  stage = _STAGE_OF.get(stem, stem)
  return (
    f"remove it if it is there, and python -m experiments.{stage} --workdir={workdir} "
    "makes it again"
  )


def _by_repair(workdir: str) -> str:
  """For what models left: other models of the same store may be undamaged."""
  return (
    f"python -m experiments.ops.bank --do=repair --workdir={workdir} removes what is "
    "damaged, and says what makes it again"
  )


def _bank(workdir: str) -> str:
  """Where the stores are; inside the workdir if its note of the place is damaged."""
  with contextlib.suppress(UserError):
    return os.fspath(Workdir(workdir, experiment_flags.BANK_DIR.value).bank)
  return os.path.join(workdir, "bank")


def _below(folder: str, path: str) -> tuple[str, ...]:
  """The parts of a path inside a folder; none if it is not inside."""
  if not atomic_io.is_remote(folder):
    folder, path = os.path.abspath(folder), os.path.abspath(path)
  try:
    return pathlib.PurePath(path).relative_to(folder).parts
  except ValueError:
    return ()
