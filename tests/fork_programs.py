"""Runs modules of `experiments` as `python -m` does, each in a fork of one process.

That process has imported the library, which takes longer than most of what programs are
asked here. A program's own module, its flags and the command line are the fork's own.

Reads a JSON list of [module, arguments, value of JAX_PLATFORMS]; writes a list of
{status, out, err}.
"""

import importlib
import json
import os
import pkgutil
import resource
import runpy
import sys
import tempfile
import traceback
from typing import Any

import jax
import tqdm  # noqa: F401

import jaxdm

_MOST_SECONDS = 20  # Of a processor: what is asked here trains nothing.


def exit_status(module: str, arguments: list[str]) -> int:
  """Runs it in this process."""
  sys.argv = [f"experiments/{module}.py", *arguments]
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


def forked(module: str, arguments: list[str], platforms: str) -> dict[str, Any]:
  """Runs it in a fork."""
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
    process = os.fork()
    if not process:
      resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      if platforms:
        os.environ["JAX_PLATFORMS"] = platforms
        jax.config.update("jax_platforms", platforms)  # Else read at the import.
      status = exit_status(module, arguments)
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    out.seek(0)
    err.seek(0)
    return {"status": status, "out": out.read(), "err": err.read()}


if __name__ == "__main__":
  for found in pkgutil.walk_packages(jaxdm.__path__, "jaxdm."):
    importlib.import_module(found.name)
  asked = json.load(sys.stdin)
  json.dump([forked(*one) for one in asked], sys.stdout)
