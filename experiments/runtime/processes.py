"""Which part of the work this process does when several share it.

Work is split by chunk number modulo the number of processes; processes exchange results
only through the store.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable

import jax
from absl import flags

from experiments.runtime import preemption
from jaxdm.errors import UserError
from jaxdm.storage import polling

SHARD = flags.DEFINE_string(
  "shard",
  None,
  "i/N: train only part i of N, with i from 0 to N - 1. For N jobs that share only the "
  "workdir, such as a SLURM array. When all jobs are done, run once without --shard.",
)
DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "This process is part of one job with many processes. JAX detects the index of the "
  "process and the number of processes from SLURM, MPI, Kubernetes or Cloud TPU.",
)
OWN_DISK = flags.DEFINE_bool(
  "own_disk",
  False,
  "With --distributed: the processes cannot read each other's workdirs, and no process "
  "waits for the others. experiments.ops.bank --do=merge merges the workdirs.",
)
_SLOWEST_SECONDS = 10**7


def check() -> None:
  """Raises UserError on flags that have no effect together."""
  if OWN_DISK.value and not DISTRIBUTED.value:
    raise UserError("own_disk", "is for processes of one job, --distributed")


def is_requested() -> bool:
  """Whether the flags ask for a part of the work."""
  return SHARD.value is not None or DISTRIBUTED.value


def start() -> None:
  """Joins the other processes of the job, if there are any; before JAX is used.

  Raises:
    UserError: on flags that cannot be served.
  """
  if not DISTRIBUTED.value:
    _shard()
    return
  if SHARD.value is not None:
    raise UserError("shard", "and --distributed exclude each other")
  try:
    # It would listen to SIGTERM instead of `stopping`.
    jax.config.update("jax_enable_preemption_service", False)
    # In the end processes wait for the slowest, hours if it has a disk of its own. One
    # that died is noticed by its heartbeats.
    jax.distributed.initialize(shutdown_timeout_seconds=_SLOWEST_SECONDS)
  except (ValueError, RuntimeError) as error:
    raise UserError("distributed", f": JAX finds no job to join: {error}") from error
  if jax.process_index() == 0:
    preemption.be_last()


def leave(error: BaseException) -> None:
  """Ends at once a process of a job that has failed.

  JAX's farewell would wait for the others, and they for what this process will not make.
  Without its heartbeats JAX ends them, too.
  """
  if not DISTRIBUTED.value or jax.process_count() == 1:
    return
  if isinstance(error, SystemExit):
    print(error.code, file=sys.stderr, flush=True)
  else:
    traceback.print_exception(error)
  sys.stderr.flush()
  os._exit(1)


def check_one_job() -> None:
  """Raises UserError where flags ask for processes that cannot wait for each other."""
  if SHARD.value is not None:
    raise UserError(
      "shard", ": processes that work together must be one job, --distributed"
    )
  if OWN_DISK.value:
    raise UserError(
      "own_disk", "is for train_subsets; here processes meet in the workdir"
    )


def share() -> tuple[int, int]:
  """This process's index, and how many there are."""
  if DISTRIBUTED.value:
    return jax.process_index(), jax.process_count()
  return _shard()


def is_follower() -> bool:
  """Whether another process of one job keeps the workdir's records."""
  return DISTRIBUTED.value and not OWN_DISK.value and jax.process_index() > 0


def wait_until(ready: Callable[[], object], what: str) -> None:
  """Waits for the other processes of one job, if this is one that shares its disk."""
  if DISTRIBUTED.value and not OWN_DISK.value:
    polling.until(ready, what)


def _shard() -> tuple[int, int]:
  """What --shard asks for."""
  if SHARD.value is None:
    return 0, 1
  match = re.fullmatch(r"(\d+)/(\d+)", SHARD.value)
  if not match or not int(match[1]) < int(match[2]):
    raise UserError("shard", f"must be i/N with 0 <= i < N, got {SHARD.value!r}")
  return int(match[1]), int(match[2])
