"""Runs of tiny models in processes of their own, and the files that they leave."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

from absl import flags

from experiments.runtime import processes
from experiments.runtime.launcher import open_run
from experiments.runtime.run import Run

MODELS = flags.DEFINE_integer("drill_models", 600, "Models of a run.", lower_bound=8)

TOY = {
  "classes": "T-shirt,shirt",
  "train_per_class": 24,
  "test_per_class": 10,
  "downscale": 4,
  "width": 4,
  "epochs": 4.0,
  "batch_size": 8,
  "num_held_out": 8,
  "num_targets": 4,
  "num_sizes": 4,
  "num_base": 2,
  "gradient_dim": 16,
  "chunk": 4,
}


def start(
  run: pathlib.Path,
  *more: str,
  env: Mapping[str, str] = os.environ,
  launcher: str = "train_subsets",
) -> subprocess.Popen[bytes]:
  """Begins or continues a run."""
  toy = {**TOY, "num_models": MODELS.value, "workdir": run}
  command = [sys.executable, "-m", f"experiments.{launcher}"]
  command += [f"--{name}={value}" for name, value in toy.items()]
  quiet = subprocess.DEVNULL
  return subprocess.Popen([*command, *more], stdout=quiet, stderr=quiet, env=dict(env))


def start_shards(run: pathlib.Path, count: int) -> list[subprocess.Popen[bytes]]:
  """Independent processes."""
  return [start(run, f"--{processes.SHARD.name}={i}/{count}") for i in range(count)]


def start_job(
  run: pathlib.Path,
  count: int,
  *more: str,
  own_disks: bool = False,
  launcher: str = "train_subsets",
) -> list[subprocess.Popen[bytes]]:
  """One job, as SLURM would start it on one machine."""
  with socket.socket() as probe:  # JAX takes the port from the job's number.
    probe.bind(("", 0))
    number = probe.getsockname()[1]
  common = {
    "SLURM_JOB_ID": str(number),
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_STEP_NUM_TASKS": str(count),
    "SLURM_NTASKS": str(count),
  }
  return [
    start(
      run / str(i) if own_disks else run,
      f"--{processes.DISTRIBUTED.name}",
      f"--{processes.OWN_DISK.name}={own_disks}",
      *more,
      launcher=launcher,
      env={**os.environ, **common, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
    )
    for i in range(count)
  ]


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
  """Waits for processes, all of which must end well."""
  codes = [process.wait() for process in processes]
  check(not any(codes), f"a run failed: exit codes {codes}")


def open_toy(folder: pathlib.Path) -> Run:
  """The toy experiment in this process."""
  for name, value in {**TOY, "num_models": MODELS.value, "workdir": folder}.items():
    flags.FLAGS[name].value = value
  return open_run()


def files(path: pathlib.Path) -> dict[str, bytes]:
  """Every file below a folder, but for half-written ones and locks."""
  return {
    str(p.relative_to(path)): p.read_bytes()
    for p in path.rglob("*")
    if p.is_file() and p.suffix != ".partial" and not p.name.startswith(".lock")
  }


def store_files(run: pathlib.Path) -> dict[str, bytes]:
  """Every file of a run's stores."""
  return files(run / "bank")


def result_files(run: pathlib.Path) -> dict[str, bytes]:
  """Every table of a run, and its models on subsets.

  Not the store of changed sets: which of those share a chunk depends on what was there.
  """
  tables = {path.name: path.read_bytes() for path in run.glob("*.csv")}
  return tables | files(run / "bank" / "subsets")


def markers(run: pathlib.Path) -> set[str]:
  """Chunks that are whole."""
  return {str(p.relative_to(run)) for p in _marker_paths(run)}


def _marker_paths(run: pathlib.Path) -> Iterator[pathlib.Path]:
  """Their markers."""
  return run.glob("bank/*/done/*.json")


def check(holds: bool, message: str) -> None:
  """Ends the drill if something is wrong."""
  if not holds:
    sys.exit(f"\nWRONG: {message}")
