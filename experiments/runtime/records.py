"""The files in which a workdir's stages are recorded, and what is wrong with others."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from experiments.config import settings as settings_lib
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.storage import atomic_io, checksummed_json

# Names files that a stage has written beside those that `run` is told of, in its summary;
# of all of them, in its record.
FILES = "files"
# Names the digests of these files in its record, by name; earlier versions wrote none.
DIGESTS = "digests"
# Names the place of a record among all starts of stages in a workdir, which no clock
# decides. Records of earlier versions have none, and come first, by their time.
NUMBER = "number"
# Ends the names of files that no program reads.
_UNREAD = ".columns.md"
# What may be wrong with a file.
MISSING, CHANGED = "is missing", "has changed since it was written"
FORMAT = 2


def paths(workdir: Workdir) -> list[epath.Path]:
  """The records of all stages that were begun."""
  return atomic_io.find(workdir.stages, "*.json")


def read_all(workdir: Workdir) -> list[dict[str, Any]]:
  """Those of all stages that were begun."""
  return [read(workdir, path.stem) for path in paths(workdir)]


def path_of(workdir: Workdir, stage: str) -> epath.Path:
  """Where the record of a stage is."""
  return workdir.stages / f"{stage}.json"


def read(workdir: Workdir, stage: str) -> dict[str, Any]:
  """A stage's record, empty before it was begun."""
  path = path_of(workdir, stage)
  # A link to nothing is a damaged record.
  if not atomic_io.exists(path) and not os.path.islink(path):
    return {}
  record = checksummed_json.read(path)
  if record.get("format") != FORMAT:
    raise WorkdirError(
      "workdir",
      f"={workdir.path} was begun by a version of jaxdm with other records "
      "than this one reads; go on with that version, or name a new --workdir",
    )
  return record


def check_files(workdir: Workdir, stage: str, names: Iterable[str]) -> None:
  """Raises WorkdirError unless files of a stage are there, and as it wrote them."""
  faults = faults_of(workdir, read(workdir, stage), names)
  by_fault: dict[str, list[str]] = {}
  for name, fault in faults.items():
    by_fault.setdefault(fault, []).append(name)
  if missing := by_fault.get(MISSING):
    raise missing_error(workdir, f"{', '.join(missing)} of {stage}", stage)
  if changed := by_fault.get(CHANGED):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds another {', '.join(changed)} than {stage} has written; run "
      f"python -m experiments.{stage} --workdir={workdir.path}, which writes "
      "it again, first",
    )


def missing_error(workdir: Workdir, what: str, launcher: str) -> WorkdirError:
  """The error of what is not there, with what makes it."""
  return WorkdirError(
    "workdir",
    f"={workdir.path} lacks {what}; "
    f"run python -m experiments.{launcher} --workdir={workdir.path} first",
  )


def check_no_folders(workdir: Workdir, stage: str, names: Iterable[str]) -> None:
  """Raises WorkdirError if a folder is where a stage will write a file."""
  for name in names:
    path = workdir.path / name
    if path.suffix and path.is_dir():
      raise WorkdirError(
        "workdir",
        f"={workdir.path} holds a folder {name}, where {stage} writes a file; move it "
        "elsewhere",
      )


def faults_of(
  workdir: Workdir, record: Mapping[str, Any], names: Iterable[str]
) -> dict[str, str]:
  """What is wrong with files of a stage, by name, of those that are at fault.

  Files and folders are missing if they are empty, too. What has no digest, as in records
  of earlier versions, counts as unchanged.
  """
  recorded: Mapping[str, str] = record.get(DIGESTS, {})
  faults: dict[str, str] = {}
  for name in names:
    if not _holds_something(workdir.path / name):
      faults[name] = MISSING
    elif name in recorded and digests(workdir, [name]).get(name) != recorded[name]:
      faults[name] = CHANGED
  return faults


def changed_files(workdir: Workdir, record: Mapping[str, Any]) -> list[str]:
  """Those of a stage's files that are there, and not as it has written them."""
  faults = faults_of(workdir, record, record.get(DIGESTS, ()))
  return [name for name, fault in faults.items() if fault == CHANGED]


def digests(workdir: Workdir, names: Iterable[str]) -> dict[str, str]:
  """Digests of those of a workdir's files that programs read; of no folders."""
  paths = {name: workdir.path / name for name in names if not name.endswith(_UNREAD)}
  return {
    name: checksummed_json.file_digest(path)
    for name, path in paths.items()
    if atomic_io.exists(path) and not path.is_dir()
  }


def _holds_something(path: epath.Path) -> bool:
  """Whether a file has a byte, or a folder a file."""
  if path.is_dir():
    return any(path.iterdir())
  return atomic_io.exists(path) and path.stat().length > 0


def restore(path: epath.Path, record: Mapping[str, Any]) -> None:
  """Makes a record what it was."""
  if record:
    checksummed_json.write(path, record)
  else:
    path.unlink(missing_ok=True)


def changes(record: Mapping[str, Any], depends_on: Mapping[str, Any]) -> list[str]:
  """In which settings and inputs a stage differs from its record, a phrase each."""
  stored, requested = record["settings"], depends_on["settings"]
  differences = [
    difference
    for group, values in requested.items()
    for difference in checksummed_json.differences(stored.get(group, {}), values)
  ]
  before, now = record["inputs"], depends_on["inputs"]
  names = sorted(before.keys() | now.keys())
  return differences + [
    f"new {name}" for name in names if before.get(name) != now.get(name)
  ]


def result_of(record: Mapping[str, Any]) -> dict[str, Any]:
  """What tells a stage's result from others, to which further models may be added."""
  settings = {
    group: {k: v for k, v in values.items() if k not in settings_lib.GROWING}
    for group, values in record["settings"].items()
    if values  # Of no scores; earlier records lack the group.
  }
  settings.pop("audit", None)  # All of it may be added later.
  return {"settings": settings, "inputs": record["inputs"]}
