"""Launchers on toy sizes, started in this process as the command line would."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl.testing import flagsaver

from experiments.config import settings as settings_lib
from experiments.ops import toy_runs
from experiments.runtime import launcher
from jaxdm.storage import store

ROOT = pathlib.Path(__file__).parents[2]
FORKS = str(ROOT / "tests" / "support" / "fork_programs.py")

TOY = {
  "train_per_class": "24",
  "test_per_class": "10",
  "width": "4",
  "epochs": "1",
  "batch_size": "8",
  "num_models": "40",
  "num_held_out": "8",
  "held_out_seeds": "2",
  "num_base": "4",
  "num_lambdas": "4",
  "num_targets": "3",
  "num_sizes": "3",
  "search_models": "2",
  "verify_seeds": "3",
  "chunk": "4",
  "methods": ",".join(settings_lib.METHODS),
  "priors": ",".join(settings_lib.PRIORS),
  "gradient_dim": "64",
  "moments": "2",
}

# Linear models on few pixels, for studies that train many.
TOY_OF_STUDIES = {
  "downscale": "4",
  "network": "linear",
  "epochs": "4",
  "batch_size": "8",
  "chunk": "8",
  "peak_learning_rate": "0.5",
  "gradient_dim": "64",
}

# For tests of stores: few such models, on fewer images.
TOY_OF_STORES = TOY_OF_STUDIES | {
  "train_per_class": "12",
  "test_per_class": "4",
  "batch_size": "4",
  "num_models": "20",
  "num_held_out": "4",
  "held_out_seeds": "2",
  "num_base": "2",
  "epochs": "1",
  "num_lambdas": "3",
  "folds": "1",
  "priors": "none",
  "methods": "datamodel,random",
}

# What `experiments.ops.drill` runs in other processes.
TOY_OF_DRILL = {
  **{name: str(value) for name, value in toy_runs.TOY.items()},
  "num_models": "70",
  "epochs": "1",
}


def start(
  program: launcher.Program,
  workdir: str | os.PathLike,
  *,
  toy: dict[str, str] = TOY,
  **changes: str,
) -> None:
  """Runs a launcher's PROGRAM on a workdir.

  Args:
    program: the launcher's.
    workdir: of the experiment.
    toy: its settings; {}: those that the workdir holds.
    **changes: further flags.
  """
  with flagsaver.as_parsed(**{"workdir": os.fspath(workdir), **toy, **changes}):
    program.start(["prog"])


def in_forks(
  asked: list[list[Any]], command: Sequence[str] = (sys.executable, FORKS)
) -> list[dict[str, Any]]:
  """Runs programs as `fork_programs` does.

  Args:
    asked: module, arguments and value of JAX_PLATFORMS of each.
    command: that runs `fork_programs`.
  """
  done = subprocess.run(
    command,
    input=json.dumps(asked),
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def store_of(folder: pathlib.Path, **given: str) -> store.Store:
  """The models on random subsets of an experiment with the settings of the drill."""
  with flagsaver.as_parsed(workdir=str(folder), **TOY_OF_DRILL, **given):
    return launcher.open_run().subsets.collections()[0].store


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file of a folder, by its path there."""
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(folder.rglob("*"))
    if p.is_file()
  }
