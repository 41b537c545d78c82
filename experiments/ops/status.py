"""How far the processes of an experiment are, from what they store and log.

  python -m experiments.ops.status --workdir=runs/fashion
  python -m experiments.ops.status --workdir=runs/fashion --watch

Reads only; it may run beside them, and on another machine that sees the folder. With
--watch it goes on, in place, until all stages that were begun are finished and none is
begun for a minute.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

from experiments.runtime import (
  bank_folder,
  datamodels,
  first_look,
  forecast,
  launcher,
  preemption,
  stages,
)
from experiments.runtime.workdir import Workdir
from jaxdm.errors import UserError
from jaxdm.report import summary_text
from jaxdm.storage import atomic_io, maintenance, store_layout
from jaxdm.storage.checksummed_json import StoreError

WATCH = flags.DEFINE_boolean(
  "watch",
  False,
  "Whether to show the progress again every few seconds, in place, until all stages that "
  "were begun are finished.",
)
_SECONDS = 2.0
_CHECK_SECONDS = 0.2
_IDLE_SECONDS = 60.0
_CLEAR = "\033[H\033[J"  # Of a terminal: to the first line, and nothing below.
# Of a line of a log.
_KEYS = frozenset(
  ["done", "total", "per_second", "seconds_left", "memory_bytes", "what", "host", "time"]
)
# Models on subsets, in the bank of an experiment or imported.
_SUBSETS = ("subsets", "imported")


def last_lines(folder: epath.Path) -> list[dict[str, Any]]:
  """The newest line of each process's log; what cannot be read is left out."""
  lines = []
  for path in atomic_io.find(folder / "logs", "*.jsonl"):
    with contextlib.suppress(OSError):  # A folder, a link to nothing.
      texts = reversed(path.read_bytes().splitlines())
      # The last one may be one that is being written.
      lines += [line for text in texts if (line := _parse(text))][:1]
  return lines


def _parse(text: bytes) -> dict[str, Any]:
  """A line of a log; empty if it is none."""
  try:
    line = json.loads(text)
  except ValueError:
    return {}
  return line if isinstance(line, dict) and line.keys() >= _KEYS else {}


def stage_lines(workdir: Workdir) -> list[str]:
  """A line on each stage that was begun."""
  lines = [f"{'stage':<24}{'':<14}{'seconds':>10}{'starts':>8}  last, on"]
  for stage, starts in stages.starts_by_stage(workdir).items():
    state = "finished" if stages.is_finished(workdir, stage) else "not finished"
    numbers = f"{starts.seconds:>10,.0f}{starts.starts:>8}"
    where = " or ".join(starts.devices)
    lines.append(f"{stage:<24}{state:<14}{numbers}  {starts.finished} {where}".rstrip())
  return lines


def process_lines(folder: epath.Path) -> Iterator[str]:
  """A line on what each process does, how far it is, and when that ends."""
  columns = f"{'doing':<28}{'done':>10}{'of':>10}{'per s':>9}{'left':>9}{'MB':>9}"
  yield f"{'host':<8}{columns}  at"
  for line in last_lines(folder):
    seconds = line["seconds_left"]
    remaining = "" if seconds is None else forecast.duration(seconds)
    numbers = f"{line['done']:>10,}{line['total']:>10,}{line['per_second']:>9.2f}"
    memory = line["memory_bytes"] / 1e6
    cells = f"{line['what']:<28}{numbers}{remaining:>9}{memory:>9,.0f}"
    yield f"{line['host']:<8}{cells}  {line['time']}"


def quality_line(workdir: Workdir) -> str:
  """The LDS of the datamodels or, before there are any, what the models so far allow."""
  if stages.is_finished(workdir, datamodels.STAGE):
    lds = stages.summary_of(workdir, datamodels.STAGE)["lds"]
    return f"LDS {summary_text.interval(lds)}"
  for path in (workdir.bank / name for name in _SUBSETS):
    if store_layout.exists(path):
      # `ops.bank` looks for damage; a store of another program lacks masks.
      with contextlib.suppress(StoreError, KeyError):
        return first_look.of_store(maintenance.reopen(path))
  return ""


def lines_of(workdir: Workdir) -> Iterator[str]:
  """The stages, the stores, the processes, and what several versions made."""
  yield from stage_lines(workdir)
  yield f"\n{'store':<24}{'models':>12}{'diverged':>10}"
  for path in bank_folder.stores(workdir.bank):
    if not store_layout.exists(path):
      continue
    summary = maintenance.summary(path)
    yield f"{path.name:<24}{summary.rows:>12,}{summary.totals.get('diverged', 0):>10,}"
  yield ""
  yield from process_lines(workdir.path)
  if quality := quality_line(workdir):
    yield f"\n{quality}"
  for note in stages.mixtures(workdir):
    yield f"\nnote: {note}"


def _is_finished(workdir: Workdir) -> bool:
  """Whether all stages that were begun are finished, and none was for a minute.

  Between two stages of a run, all that were begun are finished, too.
  """
  begun = stages.starts_by_stage(workdir)
  if not begun or not all(stages.is_finished(workdir, stage) for stage in begun):
    return False
  records = atomic_io.find(workdir.path, "stages/*.json")
  return time.time() - max(path.stat().mtime for path in records) > _IDLE_SECONDS


def main(workdir: Workdir) -> None:
  """Prints how far the processes are, once or until they are finished."""
  if not (workdir.path / "stages").exists():
    raise UserError("workdir", f"={workdir.path} holds no experiment")
  while True:
    text = "\n".join(lines_of(workdir))
    print(f"{_CLEAR if WATCH.value and sys.stdout.isatty() else ''}{text}", flush=True)
    if not WATCH.value or _is_finished(workdir):
      return
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
      time.sleep(_CHECK_SECONDS)
      preemption.check()


PROGRAM = launcher.Program(main, launcher.open_workdir, "not")

if __name__ == "__main__":
  PROGRAM.run()
