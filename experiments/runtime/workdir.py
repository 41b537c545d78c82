"""A folder that one experiment owns: its stages, their settings, what is finished."""

import contextlib
import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from etils import epath

from experiments.config import settings as settings_lib
from experiments.runtime import processes, provenance
from jaxdm import devices, progress
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, checksummed_json, verify

# Names the number of a stage's parts that are still to be done, in its summary.
UNFINISHED = "unfinished"
# Names the digests of what a stage leaves for others, in its summary.
OUTPUTS = "outputs"
_FORMAT = 2
_LOG_SECONDS = 10.0
_PLACES = "places.json"

# Tables, which a stage prints in its own way.
_LONG = ("methods", "removals", "curves", "caption", OUTPUTS)


class WorkdirError(UserError):
  """A workdir that cannot serve this call; nothing in it was changed."""


class Workdir:
  """Records which stage ran with which settings, and never runs one twice.

  Attributes:
    path: the folder.
    bank: the folder, or the place in a bucket, of its stores.
  """

  def __init__(self, path: str | None, bank_dir: str | None = None):
    """Names the folder; it is not made before `locked`.

    Args:
      path: the folder.
      bank_dir: of its stores, if it is not to be inside; the workdir remembers it.

    Raises:
      WorkdirError: if it holds something else, or has its stores somewhere else.
    """
    if not path:
      raise WorkdirError("workdir", "is needed: a folder for the experiment's results")
    self.path = epath.Path(path)
    self._stages = self.path / "stages"
    try:
      with contextlib.suppress(FileNotFoundError):
        os.stat(self.path)  # `exists` hides why a path cannot be looked at.
      foreign = (
        not self._stages.exists() and self.path.exists() and any(self.path.iterdir())
      )
    except OSError as error:
      raise WorkdirError("workdir", f"={path} cannot be read: {error}") from error
    if foreign:
      raise WorkdirError(
        "workdir", f"={path} is not empty and holds no experiment; name a new folder"
      )
    self._given = _absolute({"bank_dir": bank_dir})
    kept = self._kept_places().get("bank_dir") or os.path.abspath(self.path / "bank")
    self.bank = epath.Path(self._given.get("bank_dir") or kept)
    if os.fspath(self.bank) != kept and atomic_io.find(
      epath.Path(kept), "*/manifest.json"
    ):
      raise WorkdirError(
        "bank_dir", f": the stores of --workdir={path} are in {kept}, not in {bank_dir}"
      )

  def places(self, **given: str | None) -> dict[str, str | None]:
    """Files and folders outside of this one, by the names of flags.

    Args:
      **given: a path, or None: the one that an earlier run was given. Paths are
        remembered once a stage runs.
    """
    self._given |= _absolute(given)
    found = self._kept_places() | self._given
    return {name: found.get(name) for name in given}

  def places_of(self, prefix: str, given: Mapping[str, str]) -> dict[str, str]:
    """Files outside of this folder that have names of their own; see `places`.

    Args:
      prefix: of all of them, in the workdir's notes.
      given: paths by name, in this run.

    Returns:
      Paths by name, those of earlier runs included.
    """
    self.places(**{prefix + name: path for name, path in given.items()})
    found = self._kept_places() | self._given
    return {
      name.removeprefix(prefix): path
      for name, path in found.items()
      if name.startswith(prefix)
    }

  def _check_bank(self) -> None:
    """Raises WorkdirError if stores cannot be written where they are to be."""
    begun = bool(atomic_io.find(self._stages, "*.json"))
    try:
      if begun and not atomic_io.is_remote(self.bank) and not self.bank.exists():
        raise OSError("the stores of this workdir were there, and are not now")
      atomic_io.check_writable(self.bank)
    except Exception as error:  # Buckets raise many kinds.
      own = os.fspath(self.bank) == os.path.abspath(self.path / "bank")
      setting, mark = ("workdir", ": ") if own else ("bank_dir", "=")
      raise WorkdirError(setting, f"{mark}{self.bank} cannot be used: {error}") from error

  def _kept_places(self) -> dict[str, str]:
    """What earlier runs were given."""
    note = self.path / _PLACES
    return checksummed_json.read(note) if note.exists() else {}

  @contextlib.contextmanager
  def locked(self, index: int = 0, count: int = 1) -> Iterator[None]:
    """Makes the folder, and holds it against other processes on this machine.

    Args:
      index: which of `count` processes this is that may use it together.
      count: how many.

    Raises:
      WorkdirError: if it cannot be written, or another process holds it.
    """
    wanted = {".lock": fcntl.LOCK_EX}
    if count > 1:
      wanted = {".lock": fcntl.LOCK_SH, f".lock-{index}-of-{count}": fcntl.LOCK_EX}
    with contextlib.ExitStack() as stack:
      for name, kind in wanted.items():
        try:
          self._stages.mkdir(parents=True, exist_ok=True)
          file = stack.enter_context(open(self.path / name, "ab"))
        except OSError as error:
          raise WorkdirError(
            "workdir", f"={self.path} cannot be written: {error}"
          ) from error
        self._lock(file, kind)
      if count == 1:
        verify.sweep(self.path)
      yield

  @contextlib.contextmanager
  def locked_for_reading(self) -> Iterator[None]:
    """Holds the folder like `locked`, and neither makes nor changes anything.

    One that was never written by a process has no lock, and is not held.

    Raises:
      WorkdirError: if another process holds it.
    """
    lock = self.path / ".lock"
    with contextlib.ExitStack() as stack:
      with contextlib.suppress(OSError):
        # Some network disks lock only what is open for writing.
        mode = "r+" if os.access(lock, os.W_OK) else "r"
        self._lock(stack.enter_context(open(lock, mode)), fcntl.LOCK_EX)
      yield

  def _lock(self, file: IO[Any], kind: int) -> None:
    """Locks an open file, where the disk has locks."""
    try:
      fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise WorkdirError(
        "workdir", f"={self.path} is in use by another process; wait for it to end"
      ) from error
    except OSError as error:
      warnings.warn(
        f"the disk of {self.path} has no locks ({error}): nothing keeps a second run out "
        "of it",
        stacklevel=3,
      )

  def log(self, name: str, diverged: Callable[[], int] = lambda: 0) -> progress.Progress:
    """Keeps a JSON line every few seconds of how far this process is, for `status`.

    Args:
      name: of what it does.
      diverged: says how many models that it has trained diverged.
    """
    index, count = processes.mine()
    path = self.path / "logs" / f"host-{index}-of-{count}.jsonl"
    start, last = time.monotonic(), -_LOG_SECONDS
    first: int | None = None

    def update(done: int, total: int) -> None:
      nonlocal last, first
      now = time.monotonic() - start
      first = done if first is None else first
      if now - last < _LOG_SECONDS and done < total:
        return
      last, speed = now, (done - first) / max(now, 1e-9)
      line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": f"{index}/{count}",
        "pid": os.getpid(),
        "what": name,
        "done": done,
        "total": total,
        "per_second": round(speed, 3),
        "seconds_left": round((total - done) / speed, 1) if speed else None,
        "diverged": diverged(),
        "memory_bytes": devices.peak_bytes(),
      }
      path.parent.mkdir(exist_ok=True)
      with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

    return update

  def settings(self) -> dict[str, dict[str, Any]]:
    """The settings of all stages begun here, by group; the last that were asked for."""
    records = [self._record(path.stem) for path in atomic_io.find(self._stages, "*.json")]
    records.sort(key=lambda record: record.get("asked", ""))
    return {k: v for record in records for k, v in record["settings"].items()}

  def stage_settings(self, stage: str) -> dict[str, dict[str, Any]]:
    """The settings that a stage was begun with, by group; none if it was not."""
    return dict(self._record(stage).get("settings", {}))

  def summary(
    self, stage: str, launcher: str = "", *, partial: bool = False
  ) -> dict[str, Any]:
    """What a finished stage reported.

    Args:
      stage: its name.
      launcher: and flags that run it, if that is not its name.
      partial: one that has ended before it was finished will do.

    Raises:
      WorkdirError: if it is not finished.
    """
    record = self._record(stage)
    if not record.get("complete") and not (partial and "summary" in record):
      raise WorkdirError(
        "workdir",
        f"={self.path} lacks a finished {stage}; "
        f"run python -m experiments.{launcher or stage} --workdir={self.path} first",
      )
    return record["summary"]

  def outputs(self, stage: str) -> dict[str, str]:
    """Digests of what a finished stage left for others, by name.

    Raises:
      WorkdirError: if it is not finished.
    """
    return dict(self.summary(stage).get(OUTPUTS, {}))

  def is_finished(self, stage: str) -> bool:
    """Whether a stage has been done to its end."""
    return bool(self._record(stage).get("complete"))

  def check_inputs(
    self, stage: str, inputs: Mapping[str, str], *, partial: bool = False
  ) -> None:
    """Raises WorkdirError unless a stage is finished and has read what is there now.

    Args:
      stage: its name.
      inputs: digests of what is there, by name; those that the stage has not read do
        not count.
      partial: one that has ended before it was finished will do.
    """
    self.summary(stage, partial=partial)
    recorded = self._record(stage)["inputs"]
    both = recorded.keys() & inputs.keys()
    wrong = [name for name in sorted(both) if recorded[name] != inputs[name]]
    if wrong:
      raise WorkdirError(
        "workdir",
        f"={self.path} holds other {', '.join(wrong)} than {stage} has read; run "
        f"python -m experiments.{stage} --workdir={self.path} again first",
      )

  def run(
    self,
    stage: str,
    settings: Mapping[str, Mapping[str, Any]],
    work: Callable[[], dict[str, Any]],
    inputs: Mapping[str, str] = {},
    *,
    left_something: Callable[[], bool] = lambda: False,
  ) -> dict[str, Any]:
    """Runs a stage unless it is finished, records it, and prints its summary.

    One that is finished is done again if settings or what it reads have changed. One that
    fails has not happened: the workdir is what it was, and so are its settings.

    Args:
      stage: its name.
      settings: all settings that its result depends on, by group; JSON values.
      work: does it, continuing what a killed run left; returns a summary.
      inputs: digests of what it reads, by name (see `Lab.inputs`).
      left_something: whether a stage that fails has made what others must agree with.

    Returns:
      The summary.
    """
    before = self._record(stage)
    depends_on = {"settings": dict(settings), "inputs": dict(inputs)}
    changed = _changes(before, depends_on) if before else []
    if before.get("complete") and not changed:
      return _told(stage, before["summary"])
    if before.get("complete"):
      print(f"{stage}: done again with what is there, since: {'; '.join(changed)}")
    if processes.follows():
      with provenance.Start(self.path, stage, _result(depends_on)):
        summary = work()
      if not summary.get(UNFINISHED):
        wanted = lambda: self._finished(stage, depends_on)  # noqa: E731
        processes.wait_until(wanted, f"the record of {stage}")
      return summary
    self._check_bank()
    path, note = self._stages / f"{stage}.json", self.path / _PLACES
    places = self._kept_places()
    if places | self._given != places:
      checksummed_json.write(note, places | self._given)
    begun = {"format": _FORMAT, "asked": provenance.now(), **depends_on}
    checksummed_json.write(path, {**begun, "complete": False})
    try:
      with provenance.Start(self.path, stage, _result(depends_on)):
        summary = work()
    except Exception:
      if not left_something():
        for file, content in ((path, before), (note, places)):
          checksummed_json.write(file, content) if content else file.unlink(
            missing_ok=True
          )
      raise
    made = provenance.of_stage(self.path, stage, _result(depends_on))
    summary["seconds"] = made.seconds
    complete = not summary.get(UNFINISHED)
    record = {**begun, "complete": complete, "summary": summary}
    checksummed_json.write(path, record | made._asdict())
    return _told(stage, summary)

  def stage_provenance(self) -> dict[str, provenance.Provenance]:
    """What made the stages that were begun here, by name: all their starts so far."""
    found = {}
    for path in atomic_io.find(self._stages, "*.json"):
      result = _result(self._record(path.stem))
      found[path.stem] = provenance.of_stage(self.path, path.stem, result)
    return found

  def mixtures(self) -> list[str]:
    """A sentence on each store and stage that several versions have made."""
    return provenance.mixtures(self.bank, self.stage_provenance())

  def reopen(self, stage: str) -> None:
    """Makes a stage one that is not finished, so that it looks for what is missing."""
    record = self._record(stage)
    if record:
      checksummed_json.write(self._stages / f"{stage}.json", record | {"complete": False})

  def _record(self, stage: str) -> dict[str, Any]:
    """A stage's record, empty before it was begun."""
    path = self._stages / f"{stage}.json"
    if not path.exists():
      return {}
    record = checksummed_json.read(path)
    if record.get("format") != _FORMAT:
      raise WorkdirError(
        "workdir",
        f"={self.path} was begun by a version of jaxdm with other records "
        "than this one reads; go on with that version, or name a new --workdir",
      )
    return record

  def _finished(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
    """Whether another process has finished a stage that depends on the same."""
    record = self._record(stage)
    return bool(record.get("complete")) and not _changes(record, depends_on)


def _changes(record: Mapping[str, Any], depends_on: Mapping[str, Any]) -> list[str]:
  """In which settings and inputs a stage differs from its record, a phrase each."""
  stored, asked = record["settings"], depends_on["settings"]
  found = [
    difference
    for group, values in asked.items()
    for difference in checksummed_json.differences(stored.get(group, {}), values)
  ]
  before, now = record["inputs"], depends_on["inputs"]
  names = sorted(before.keys() | now.keys())
  return found + [f"new {name}" for name in names if before.get(name) != now.get(name)]


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
  """What tells a stage's result from others, to which further models may be added."""
  settings = {
    group: {k: v for k, v in values.items() if k not in settings_lib.GROWING}
    for group, values in record["settings"].items()
  }
  return {"settings": settings, "inputs": record["inputs"]}


def _absolute(given: Mapping[str, str | None]) -> dict[str, str]:
  """The paths that are given, as they are called from any folder."""
  return {
    name: path.rstrip("/")
    if atomic_io.is_remote(path)
    else os.path.abspath(os.path.expanduser(path))
    for name, path in given.items()
    if path
  }


def _told(stage: str, summary: dict[str, Any]) -> dict[str, Any]:
  """Prints a summary."""
  short = {k: v for k, v in summary.items() if k not in _LONG}
  print(f"{stage}: {json.dumps(short)}", flush=True)
  return summary
