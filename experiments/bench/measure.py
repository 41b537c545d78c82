"""What the benchmarks share: their common flags, and sides timed in child processes."""

import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

from experiments.bench import machine_load
from experiments.config.path_flags import define_path
from jaxdm.errors import UserError

JSON = define_path("json", None, "File for the full results.")
SIDES = flags.DEFINE_list("sides", None, "Only these sides; all by default.")
CHILD = flags.DEFINE_list("child", None, "Internal: what this process is to measure.")


def select_sides(names: list[str]) -> list[str]:
  """The sides that the flags ask for.

  Raises:
    UserError: on a side that there is not.
  """
  sides = SIDES.value or names
  if unknown := set(sides) - set(names):
    raise UserError("sides", f"must be some of {', '.join(names)}, got {unknown}")
  return sides


def run_child(module: str, what: str, **environment: str) -> dict[str, Any]:
  """One measurement in a process of its own; empty, and said, if it fails.

  Args:
    module: the benchmark; it gets this process's flags and --child, and prints its
      result as the last line, in JSON.
    what: the value of --child.
    **environment: variables to set.
  """
  result = subprocess.run(
    [sys.executable, "-m", module, *sys.argv[1:], f"--child={what}"],
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    text=True,
  )
  if result.returncode:
    print(f"{what} failed; its error is above", file=sys.stderr)
    return {}
  measurement: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
  return measurement


def status_bytes(name: str) -> int:
  """Bytes of this process that Linux counts under a name, such as VmHWM."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak() -> int:
  """Gives freed memory back and resets VmHWM; returns the bytes that remain."""
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  pathlib.Path("/proc/self/clear_refs").write_bytes(b"5")
  return status_bytes("VmRSS")


def check() -> None:
  """Raises UserError, before anything is measured, if --json cannot be written.

  Also says so if the machine is busy.
  """
  if text := machine_load.note():
    print(text)
  if not JSON.value:
    return
  try:
    open(JSON.value, "ab").close()
  except OSError as error:
    raise UserError("json", f"={JSON.value} cannot be written: {error}") from error


def write(results: Any) -> None:
  """Writes what --json asks for."""
  if JSON.value:
    pathlib.Path(JSON.value).write_text(json.dumps(results, indent=1), encoding="utf-8")
