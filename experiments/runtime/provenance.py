"""What made the results of a workdir: versions, devices, dates and seconds of all starts.

Each start of a process on a stage has a file in `starts`. A thread writes it again every
few seconds, so that a process that is killed counts as well.
"""

import contextlib
import datetime
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.runtime import bank_folder, processes
from jaxdm import devices, identity
from jaxdm.storage import atomic_io, checksummed_json, store, store_layout

_FOLDER = "starts"
_WRITE_SECONDS = 10.0


class Provenance(NamedTuple):
  """What made a stage's result.

  Attributes:
    made_by: `identity.made_by` of every start, each once.
    devices: number and kind of each start's devices, each once.
    started: date and time of the first start; empty if none is recorded.
    finished: of the last one's end, or of its last sign of life.
    seconds: that all starts of all processes took together; of one that was killed some
      ten seconds at most are missing.
    starts: how many there were.
    processes: the largest number that worked together.
  """

  made_by: list[dict[str, str]]
  devices: list[str]
  started: str
  finished: str
  seconds: float
  starts: int
  processes: int


def maker() -> dict[str, str]:
  """What computes in this process."""
  return identity.made_by()


class Start:
  """A context in which this process works on a stage; its seconds are written down."""

  def __init__(self, folder: epath.Path, stage: str, depends_on: Mapping[str, Any]):
    """Names the start.

    Args:
      folder: of the workdir.
      stage: its name.
      depends_on: what the stage's result depends on, JSON values; starts that worked on
        another result are not counted with this one.
    """
    index, count = processes.share()
    name = f"{stage}.{index}-of-{count}.{uuid.uuid4().hex[:12]}.json"
    self._path = folder / _FOLDER / name
    self._stop, self._thread = (
      threading.Event(),
      threading.Thread(target=self._write_regularly, daemon=True),
    )
    self._began = time.monotonic()
    self._content = {
      "result": _digest(depends_on),
      "processes": count,
      "pid": os.getpid(),
      "made_by": maker(),
      "devices": devices.describe(),
      "started": now(),
    }

  def __enter__(self) -> None:
    self._path.parent.mkdir(exist_ok=True)
    self._write()
    self._thread.start()

  def __exit__(self, *error: object) -> None:
    self._stop.set()
    self._thread.join()
    with contextlib.suppress(OSError):  # Whoever works in the context finds out.
      self._write()

  def _write_regularly(self) -> None:
    """Writes until the end."""
    while not self._stop.wait(_WRITE_SECONDS):
      with contextlib.suppress(OSError):
        self._write()

  def _write(self) -> None:
    """Writes how long it has taken so far."""
    seconds = round(time.monotonic() - self._began, 3)
    checksummed_json.write(
      self._path, {**self._content, "finished": now(), "seconds": seconds}
    )


def of_stage(folder: epath.Path, stage: str, depends_on: Mapping[str, Any]) -> Provenance:
  """What all starts on a stage's result tell together; see `Start` for the arguments."""
  paths = atomic_io.find(folder / _FOLDER, f"{stage}.*.json")
  result = _digest(depends_on)
  starts = [start for start in map(_read, paths) if start.get("result") == result]
  starts.sort(key=lambda start: start["started"])
  return Provenance(
    made_by=distinct(start["made_by"] for start in starts),
    devices=distinct(start["devices"] for start in starts),
    started=starts[0]["started"] if starts else "",
    finished=max((start["finished"] for start in starts), default=""),
    seconds=round(sum(start["seconds"] for start in starts), 1),
    starts=len(starts),
    processes=max((start["processes"] for start in starts), default=0),
  )


def take_over(folder: epath.Path, other: epath.Path) -> None:
  """Copies the starts of another workdir, some of whose results have been taken over.

  Warns:
    UserWarning: of a file that is damaged, which is left out.
  """
  (folder / _FOLDER).mkdir(exist_ok=True)
  for path in atomic_io.find(other / _FOLDER, "*.json"):
    if _read(path):
      atomic_io.write_new(folder / _FOLDER / path.name, path.read_bytes())


def distinct(values: Any) -> list[Any]:
  """The values, each once, in order of appearance."""
  unique: list[Any] = []
  for value in values:
    if value not in unique:
      unique.append(value)
  return unique


def differences(makers: Sequence[Mapping[str, str]]) -> str:
  """In what some makers differ, such as 'jax 0.10.1 or 0.10.2'."""
  names = distinct(name for maker in makers for name in maker)
  # In order, since chunks are not listed in that in which they were made.
  values = {name: sorted({maker.get(name, "none") for maker in makers}) for name in names}
  return "; ".join(
    f"{name} {' or '.join(value[:12] if name == 'code' else value for value in some)}"
    for name, some in values.items()
    if len(some) > 1
  )


def mixtures(bank: epath.Path, stages: Mapping[str, Provenance]) -> list[str]:
  """A sentence on each store and stage that not one and the same software made.

  Args:
    bank: the folder of the stores.
    stages: what made each stage, by name.
  """
  makers = {}
  for path in bank_folder.stores(bank):
    if store_layout.exists(path):
      makers[f"the store {path.name}"] = store.makers(path)
  for stage, provenance in stages.items():
    makers[f"the stage {stage}"] = provenance.made_by
  # Stages that are each of one make may still differ from each other.
  alone = [
    provenance.made_by for provenance in stages.values() if len(provenance.made_by) == 1
  ]
  makers["the workdir, stage by stage,"] = distinct(maker for [maker] in alone)
  return [
    f"{what} was made by {len(some)} versions: {differences(some)}"
    for what, some in makers.items()
    if len(some) > 1
  ]


def _read(path: epath.Path) -> dict[str, Any]:
  """What a start has written; nothing if it is damaged, which ends no work."""
  try:
    return checksummed_json.read(path)
  except checksummed_json.StoreError as error:
    warnings.warn(f"{error}; this start is not counted", stacklevel=2)
    return {}


def _digest(depends_on: Mapping[str, Any]) -> str:
  """Tells different results apart."""
  return checksummed_json.digest(json.dumps(depends_on, sort_keys=True).encode())


def now() -> str:
  """Date and time, in UTC, so that they sort."""
  now = datetime.datetime.now(datetime.UTC)
  return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
