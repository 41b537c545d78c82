"""How every launcher starts, and how it fails: with one line, before any change."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from absl import flags, logging

from experiments.config import experiment_flags
from experiments.runtime import (
  checks,
  damage,
  data_source,
  imported_models,
  own_training,
  preemption,
  processes,
  program,
  stages,
  workdir_models,
)
from experiments.runtime import help as help_page
from experiments.runtime.run import Run, make_run
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm import devices, numerics, progress
from jaxdm.errors import UserError

Hold = Literal["alone", "shared", "job", "reading", "not"]


def open_workdir() -> Workdir:
  """The folder alone, of programs that need neither settings nor data."""
  return Workdir(experiment_flags.WORKDIR.value, experiment_flags.BANK_DIR.value)


def open_run() -> Run:
  """Reads flags and workdir, and checks them against the data.

  Raises:
    UserError: on any setting or data that cannot work; nothing has been computed.
  """
  workdir = open_workdir()
  stored = stages.stored_settings(workdir)
  imported_models.check_images(workdir, stored)
  where = workdir.places.find(
    data_dir=experiment_flags.DATA_DIR.value, arrays=experiment_flags.ARRAYS.value
  )
  workdir.places.check_exist("data_dir", "arrays")
  workdir_models.check_preset(workdir, experiment_flags.preset(stored))
  fingerprint = stored.get("data", {}).pop("fingerprint", None)
  experiment = experiment_flags.experiment(stored)
  dataset = data_source.load(experiment.data, where)
  models = imported_models.collection(workdir) if imported_models.exist(workdir) else None
  if models:
    experiment = imported_models.adapt(experiment, models, dataset)
  if experiment.retrain.retrain:
    experiment = own_training.adapt(experiment)
  checks.check(experiment, dataset)
  checks.check_used(experiment, dataset)
  run = make_run(
    workdir,
    experiment,
    dataset,
    experiment_flags.speed(),
    preset=experiment_flags.preset(stored),
    imported=models,
  )
  same = dataclasses.asdict(experiment.data) == stored.get("data")
  others = fingerprint not in (None, dataset.fingerprint())
  if same and others and workdir_models.exist(workdir):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} was begun with other images, labels or class names than the set "
      f"{experiment.data.dataset} has now; give those that it had, or name another "
      "--workdir",
    )
  workdir_models.check(workdir, run.settings(*workdir_models.BINDING))
  return run


class Program(NamedTuple):
  """What `python -m experiments.NAME` runs; each launcher has one, named PROGRAM.

  Attributes:
    main: takes what `opener` returns.
    opener: reads the flags.
    hold: whom the workdir is locked against: all other processes, all but those that
      share the work (see `processes`) or are one job, all others but without a change to
      the workdir, which may be read-only, or none; or a function that returns this when
      flags are parsed.
    flag_modules: modules whose flags `--help` lists, beside the experiment's settings and
      the launcher's own.
    groups: the settings that `--help` lists, by group (`experiment_flags.GROUPS`). Every
      launcher that opens a run takes all settings.
  """

  main: Callable[[Any], Any]
  opener: Callable[[], Any] = open_run
  hold: Hold | Callable[[], Hold] = "alone"
  flag_modules: tuple[ModuleType, ...] = ()
  groups: tuple[str, ...] = ()

  def start(self, argv: Sequence[str]) -> None:
    """Opens what the parsed flags describe, locks its workdir, and runs `main` on it.

    Args:
      argv: the program's name, and what is left when flags are parsed.
    """
    if unused := self._unused_flags():
      sys.exit(f"error: --{unused[0]} has no effect in this program; see --help")
    hold = self.hold() if callable(self.hold) else self.hold
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
    with program.one_line_errors(), damage.with_remedies():
      program.check_no_arguments(argv)
      if hold == "job":
        processes.check_one_job()
      processes.check()
      if hold in ("shared", "job"):
        processes.start()
      elif processes.is_requested():
        raise UserError(
          "shard", "and --distributed are for programs whose --help has them"
        )
      source = self.opener()
      if self.opener is not open_workdir:  # Else nothing is computed.
        devices.check()
      # What a launcher computes by itself.
      with _lock(source, hold), numerics.pinned():
        self.main(source)

  def _unused_flags(self) -> list[str]:
    """Flags that are given, and belong to other programs."""
    by_module = flags.FLAGS.flags_by_module_dict()
    own = self.main.__module__
    modules = [own if own != "__main__" else sys.argv[0]]
    modules += [module.__name__ for module in self.flag_modules]
    # Programs without a part in a job refuse those with a reason of their own.
    modules += [processes.__name__] + [
      name for name in by_module if name.startswith("absl")
    ]
    used = {flag.name for name in modules for flag in by_module.get(name, [])}
    if self.opener is open_workdir:
      used |= {experiment_flags.WORKDIR.name, experiment_flags.BANK_DIR.name}
    else:
      used |= {flag.name for flag in by_module[experiment_flags.__name__]}
    present = {name for name in flags.FLAGS if flags.FLAGS[name].present}
    return sorted(present - used)

  def run(self) -> None:
    """Parses the command line and runs it in a process of its own."""
    devices.use_all_devices()
    shared = (processes,) if self.hold in ("shared", "job") else ()
    has_settings = self.opener is not open_workdir
    help_page.print_and_exit(
      *shared,
      *self.flag_modules,
      extra=experiment_flags.PLACES + experiment_flags.SOURCES * has_settings,
      groups=self.groups if has_settings else None,
    )
    program.run(self._begin, listens=True)

  def _begin(self, argv: Sequence[str]) -> None:
    """Listens to signals, and tells the other processes of a job of an error."""
    preemption.listen()
    try:
      self.start(argv)
    except progress.Cancelled:
      sys.exit(preemption.EXIT_CODE)
    except BaseException as error:
      processes.leave(error)
      raise


def _lock(source: Any, hold: Hold) -> contextlib.AbstractContextManager[None]:
  """The lock of the workdir that `Program.hold` names."""
  if hold == "not":
    return contextlib.nullcontext()
  if hold == "reading":
    return source.workdir.lock_for_reading()
  return source.workdir.lock(*processes.share())
