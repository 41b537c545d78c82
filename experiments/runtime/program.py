"""How every program parses its flags, and prints errors that users can correct."""

import contextlib
import errno
import functools
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from experiments.runtime import preemption, progress_bar
from jaxdm.errors import UserError

# Errors of a machine, not of the code: permissions, full or broken disks.
_OF_THE_MACHINE = {
  errno.EACCES,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EIO,
  errno.EMFILE,
  errno.ENAMETOOLONG,
  errno.ENFILE,
  errno.ENOSPC,
  errno.EPERM,
  errno.EROFS,
  errno.ESTALE,
}
# Those of writing that say nothing of the disk, in words, with what to do.
_NO_ROOM = {
  errno.ENOSPC: "the disk is full; make room",
  errno.EDQUOT: "the quota of the disk is used up; make room, or have it raised",
  errno.EFBIG: "it would be larger than the disk, or ulimit -f, allows; raise that limit",
}


def run(main: Callable[[list[str]], Any], *, listens: bool = False) -> None:
  """Parses the command line and runs `main` on what is left of it.

  Names that the terminal's encoding lacks are printed with escapes.

  Args:
    main: the program.
    listens: whether it listens to signals (see `preemption.listen`).
  """
  if not listens:
    preemption.stop_listening_early()
  library = logging.getLogger("jaxdm")
  library.setLevel(logging.INFO)  # What was chosen, and the first claims, once.
  library.propagate = False
  library.addHandler(progress_bar.Lines())
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
  app.run(main, flags_parser=parse)


def parse(argv: Sequence[str]) -> list[str]:
  """Sets the flags; returns the program's name and what is no flag."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(f"error: {' '.join(str(error).split())}; see --help")


def check_no_arguments(argv: Sequence[str]) -> None:
  """Raises UserError if the command line holds more than flags.

  Args:
    argv: the program's name, and what is left when flags are parsed.
  """
  if argv[1:]:
    raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Ends the program with one line on what its user can mend; also a decorator.

  All other exceptions keep their traceback, and say where to report it.
  """
  try:
    yield
  except BrokenPipeError:  # Of whoever read what is printed, as `| head`.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except Exception as error:
    if not isinstance(error, UserError) and (
      not isinstance(error, OSError) or error.errno not in _OF_THE_MACHINE
    ):
      error.add_note(_where_to_report())
      raise
    sys.exit(f"error: {_message(error)}")


def _message(error: Exception) -> str:
  """One line, which begins with the flag if the setting at fault is one."""
  if isinstance(error, OSError) and error.errno in _NO_ROOM:
    where = "a file" if error.filename is None else os.fsdecode(error.filename)
    why = _NO_ROOM[error.errno]
    return f"{where} cannot be written: {why}, and the same command continues"
  message = " ".join(str(error).split())
  setting = error.setting if isinstance(error, UserError) else None
  return f"--{message}" if setting and setting in flags.FLAGS else message


@functools.cache
def _where_to_report() -> str:
  """What stands below a traceback; the address is that of the package's description."""
  where, version = "the people from whom you have it", ""
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    about = importlib.metadata.metadata("jaxdm")
    version = f" {about['Version']}"
    urls = [url.partition(", ")[2] for url in about.get_all("Project-URL", [])]
    where = next(iter([*urls, *about.get_all("Home-page", [])]), where)
  return (
    f"This is a fault of jaxdm{version}, which none of its messages foresees. Please "
    f"report it, with all lines above, to {where}."
  )
