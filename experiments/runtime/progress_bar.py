"""The progress of a process: a bar on the screen, and lines of JSON in the workdir."""

import json
import logging
import math
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
_FEW = 100  # Units of which tenths are shown.
_COMPILED = 2  # First parts of training, in which programs are compiled.


class Lines(logging.Handler):
  """Prints what the library logs as lines above the bars."""

  def emit(self, record: logging.LogRecord) -> None:
    say(self.format(record))


def say(text: str) -> None:
  """Prints a line, above the bars that are on the screen."""
  tqdm.tqdm.write(text)
  sys.stdout.flush()


class Parts:
  """What is done of models that are still trained: told to the bar that waits for them.

  >>> parts, said = Parts(), []
  >>> parts.listen(said.append)
  >>> parts.add(0.25)
  >>> said
  [0.25]
  """

  def __init__(self) -> None:
    """Nobody listens yet."""
    self._listener: Callable[[float], object] = lambda units: None

  def listen(self, listener: Callable[[float], object]) -> None:
    """Sets who is told from now on."""
    self._listener = listener

  def add(self, units: float) -> None:
    """Tells how much more is done."""
    self._listener(units)


def make(
  name: str,
  unit: str = "model",
  folder: epath.Path | None = None,
  diverged: Callable[[], int] = lambda: 0,
  parts: Parts | None = None,
) -> progress_lib.Progress:
  """A bar with the time left, to be called with (done, total).

  It is called only between units of work; after a report the run may be cancelled, see
  `preemption`.

  Args:
    name: of the work.
    unit: of `done`.
    folder: a workdir, for the log; None: nothing is logged.
    diverged: returns the number of models that this process trained and that diverged.
    parts: tells what is done between the calls, of units that are not finished.
  """
  bar = _Bar(name, unit, Log(folder, name, diverged) if folder else None)
  if parts:
    parts.listen(bar.add)
  return preemption.check_after(bar.update)


class _Bar:
  """A bar on the screen and its log."""

  def __init__(self, name: str, unit: str, log: "Log | None"):
    """Shows the bar."""
    seconds = 1.0 if sys.stderr.isatty() else 15.0  # Fewer lines in a log file.
    self._bar = tqdm.tqdm(
      desc=name, unit=unit, mininterval=seconds, dynamic_ncols=True, smoothing=0
    )
    self._begun = self._bar.start_t
    self._log, self._adds = log, 0
    self._done, self._total, self._ahead, self._former = 0, 0, 0.0, 0

  def update(self, done: int, total: int) -> None:
    """Shows what is finished and stored."""
    self._bar.total = self._total = total
    if self._bar.n == 0 and done:
      # What a former run did says nothing of this one's speed.
      self._bar.initial = self._former = done
    self._ahead = max(self._ahead - (done - self._done), 0.0)
    self._done = done
    self._show()

  def add(self, units: float) -> None:
    """Shows that so much more is done of what is not finished."""
    if self._done >= self._total or not units:  # It has not begun, or has ended.
      return
    self._ahead += units
    self._adds += 1
    if self._adds <= _COMPILED:
      self._bar.initial = self._bar.last_print_n = self._shown()
      self._bar.unpause()
      if self._log:
        self._log.restart()
    self._show()

  def _shown(self) -> float:
    """Units to show: less than all until all are stored."""
    if not self._ahead or self._done >= self._total:
      return self._done
    if self._total < _FEW:
      return max(self._done, min(round(self._done + self._ahead, 1), self._total - 0.1))
    return max(self._done, min(round(self._done + self._ahead), self._total - 1))

  def _show(self) -> None:
    """Draws and logs."""
    self._bar.n = shown = self._shown()
    if self._done < self._total:
      self._bar.update(0)
    else:  # The last line is of all that was done, with compilation.
      self._bar.start_t, self._bar.initial = self._begun, self._former
      self._bar.close()
    if self._log:
      self._log(shown, self._total)


class Log:
  """Appends a line every few seconds to the log of this process, for `ops.status`."""

  def __init__(
    self, folder: epath.Path, name: str, diverged: Callable[[], int] = lambda: 0
  ):
    """Writes nothing yet.

    Args:
      folder: the workdir.
      name: of the work.
      diverged: see `progress_bar`.
    """
    self._index, self._count = processes.share()
    self._path = folder / "logs" / f"host-{self._index}-of-{self._count}.jsonl"
    self._name, self._diverged, self._last = name, diverged, -math.inf
    self.restart()

  def restart(self) -> None:
    """Begins to measure the speed anew."""
    self._start, self._first = time.monotonic(), math.nan

  def __call__(self, done: float, total: int) -> None:
    """Notes how far the work is, if the last line is old or this one is the last."""
    now = time.monotonic()
    self._first = done if math.isnan(self._first) else self._first
    if now - self._last < _LOG_SECONDS and done < total:
      return
    self._last, speed = now, (done - self._first) / max(now - self._start, 1e-9)
    line = {
      "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
      "host": f"{self._index}/{self._count}",
      "pid": os.getpid(),
      "what": self._name,
      "done": done,
      "total": total,
      "per_second": round(speed, 3),
      "seconds_left": round((total - done) / speed, 1) if speed else None,
      "diverged": self._diverged(),
      "memory_bytes": devices.peak_bytes(),
    }
    self._path.parent.mkdir(exist_ok=True)
    with self._path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(line) + "\n")
