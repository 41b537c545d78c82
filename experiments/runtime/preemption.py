"""Ends a run in good order when the machine is taken away.

One of `SIGNALS` lets the models that are being trained finish if they do so in a few
seconds, and else abandons them. Whatever is in the stores stays valid either way, as
after kill -9; the same command continues. The exit code tells a scheduler that the job is
worth running again.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from typing import Any

from jaxdm import progress

# SIGUSR1 and SIGUSR2 are what SLURM is mostly told to send before a job's time is over.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h.
GRACE_SECONDS = 8.0
_LAST_SECONDS = 1.5
_shutdown = threading.Event()
_last = threading.Event()
# What was there before `listen_early`, by signal.
_handlers: dict[signal.Signals, Any] = {}


def listen_early() -> None:
  """Ends the process at once on a signal, until `listen` or `stop_listening_early`.

  For the seconds in which a program is imported and nothing has begun.
  """
  for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
      _handlers[number] = signal.signal(number, _leave)


def stop_listening_early() -> None:
  """Undoes `listen_early`, for programs that never `listen`."""
  for number, handler in _handlers.items():
    signal.signal(number, handler)
  _handlers.clear()


def _leave(number: int, _: object) -> None:
  """Ends the process, in which nothing has begun."""
  text = f"{signal.Signals(number).name}: nothing had begun; the same command begins it\n"
  os.write(sys.stderr.fileno(), text.encode())
  os._exit(EXIT_CODE)


def listen() -> None:
  """Starts listening to the signals; call it from the main thread."""
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  # The wakeup comes even while the main thread is inside a long computation, where
  # Python's own handlers would have to wait.
  signal.set_wakeup_fd(sender.detach())
  for number in SIGNALS:
    signal.signal(number, lambda *_: None)
  threading.Thread(target=_wait, args=(receiver,), daemon=True).start()


def be_last() -> None:
  """Lets the others of a job end before this process, which coordinates them."""
  _last.set()


def check() -> None:
  """Raises Cancelled if a signal has come; call it only between units of work."""
  if _shutdown.is_set():
    raise progress.Cancelled


def check_after(report: progress.Progress) -> progress.Progress:
  """A progress callback that calls `report`, then `check`."""

  def update(done: int, total: int) -> None:
    report(done, total)
    check()

  return update


def _wait(receiver: socket.socket) -> None:
  """Waits for a signal, then for the main thread to `check`, or for a second signal."""
  name = signal.Signals(receiver.recv(1)[0]).name
  print(
    f"\n{name}: ending within {GRACE_SECONDS:.0f} s; what is finished is stored, and the "
    "same command continues",
    file=sys.stderr,
    flush=True,
  )
  _shutdown.set()
  receiver.settimeout(GRACE_SECONDS + _LAST_SECONDS * _last.is_set())
  with contextlib.suppress(TimeoutError):
    receiver.recv(1)
  os._exit(EXIT_CODE)
