"""Runs modules of `experiments` as `python -m` does, each in a fork of one process.

That process has imported the library, which takes longer than most of what programs are
asked here. A program's own module, its flags and the command line are the fork's own.

Reads a JSON list of [module, arguments, value of JAX_PLATFORMS]; writes a list of
{status, out, err}.
"""

import importlib
import json
import os
import pathlib
import pkgutil
import resource
import runpy
import sys
import tempfile
import traceback
from typing import Any, NamedTuple

import jax
import tqdm  # noqa: F401

import jaxdm

_MOST_SECONDS = 20  # Of a processor: what is asked here trains nothing.


def exit_status(module: str, arguments: list[str]) -> int:
  """Runs it in this process."""
  sys.argv = [f"experiments/{module.replace('.', '/')}.py", *arguments]
  try:
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
  except SystemExit as end:
    if isinstance(end.code, str):
      sys.stderr.write(f"{end.code}\n")
      return 1
    return end.code or 0
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


class Fork(NamedTuple):
  """A program that runs.

  Attributes:
    process: its number.
    place: what the names of files with its output begin with.
  """

  process: int
  place: str


def start(module: str, arguments: list[str], platforms: str, place: str) -> Fork:
  """Runs it in a fork."""
  process = os.fork()
  if not process:
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    for descriptor, name in ((1, "out"), (2, "err")):
      os.dup2(os.open(f"{place}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    if platforms:
      os.environ["JAX_PLATFORMS"] = platforms
      jax.config.update("jax_platforms", platforms)  # Else read at the import.
    status = exit_status(module, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return Fork(process, place)


def end(fork: Fork) -> dict[str, Any]:
  """Waits for it."""
  status = os.waitstatus_to_exitcode(os.waitpid(fork.process, 0)[1])
  out, err = (pathlib.Path(f"{fork.place}.{name}").read_text() for name in ("out", "err"))
  return {"status": status, "out": out, "err": err}


def run(asked: list[tuple[str, list[str], str]], folder: str) -> list[dict[str, Any]]:
  """Runs programs, as many at a time as there are cores."""
  forks: list[Fork] = []
  results: list[dict[str, Any]] = []
  for module, arguments, platforms in asked:
    if len(forks) - len(results) == (os.cpu_count() or 1):
      results.append(end(forks[len(results)]))
    place = os.path.join(folder, str(len(forks)))
    forks.append(start(module, arguments, platforms, place))
  return results + [end(fork) for fork in forks[len(results) :]]


if __name__ == "__main__":
  for found in pkgutil.walk_packages(jaxdm.__path__, "jaxdm."):
    importlib.import_module(found.name)
  with tempfile.TemporaryDirectory() as folder:
    json.dump(run(json.load(sys.stdin), folder), sys.stdout)
