"""The progress of a process: a bar on the screen, and lines of JSON in the workdir."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable

import tqdm
from etils import epath

from experiments.runtime import preemption, processes
from jaxdm import devices
from jaxdm import progress as progress_lib

_LOG_SECONDS = 10.0


class Lines(logging.Handler):
  """Prints what the library logs as lines above the bars."""

  def emit(self, record: logging.LogRecord) -> None:
    say(self.format(record))


def say(text: str) -> None:
  """Prints a line, above the bars that are on the screen."""
  tqdm.tqdm.write(text)
  sys.stdout.flush()


def make(
  name: str,
  unit: str = "model",
  folder: epath.Path | None = None,
  diverged: Callable[[], int] = lambda: 0,
) -> progress_lib.Progress:
  """A bar with the time left, to be called with (done, total).

  It is called only between units of work; after a report the run may be cancelled, see
  `preemption`.

  Args:
    name: of the work.
    unit: of `done`.
    folder: a workdir, for the log; None: nothing is logged.
    diverged: returns the number of models that this process trained and that diverged.
  """
  log_line = log(folder, name, diverged) if folder else progress_lib.silent
  seconds = 1.0 if sys.stderr.isatty() else 15.0  # Fewer lines in a log file.
  bar = tqdm.tqdm(desc=name, unit=unit, mininterval=seconds, dynamic_ncols=True)

  def update(done: int, total: int) -> None:
    bar.total = total
    if bar.n == 0 and done:
      bar.initial = done  # What a former run did says nothing of this one's speed.
    bar.n = done
    bar.close() if done >= total else bar.update(0)
    log_line(done, total)

  return preemption.check_after(update)


def log(
  folder: epath.Path, name: str, diverged: Callable[[], int] = lambda: 0
) -> progress_lib.Progress:
  """Appends a line every few seconds to the log of this process, for `ops.status`."""
  index, count = processes.share()
  path = folder / "logs" / f"host-{index}-of-{count}.jsonl"
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
