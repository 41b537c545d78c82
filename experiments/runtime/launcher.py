"""How every launcher starts and how it fails: one line, and nothing touched."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from absl import flags, logging

from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from experiments.runtime import help as help_page
from experiments.runtime import imported, lab, preemption, processes, program, workdir
from jaxdm import devices, numerics, progress
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError

Hold = Literal["alone", "shared", "job", "reading", "not"]


def open_workdir() -> workdir.Workdir:
  """The folder alone, of programs that need neither settings nor data."""
  return workdir.Workdir(experiment_flags.WORKDIR.value, experiment_flags.BANK_DIR.value)


def open_lab() -> lab.Lab:
  """Reads flags and workdir, and checks them against the data.

  Raises:
    ValueError: on any setting or data that cannot work; nothing has been computed.
  """
  folder = open_workdir()
  stored = folder.settings()
  imported.check_named(folder, stored)
  where = folder.places(
    data_dir=experiment_flags.DATA_DIR.value, arrays=experiment_flags.ARRAYS.value
  )
  fingerprint = stored.get("data", {}).pop("fingerprint", None)
  experiment = experiment_flags.experiment(stored)
  dataset = lab.dataset_of(experiment.data, where)
  models = imported.collection(folder) if imported.exist(folder) else None
  if models:
    experiment = imported.adapted(experiment, models, dataset)
  lab.check(experiment, dataset)
  _check_used(experiment, dataset)
  preset = experiment_flags.preset(stored)
  opened = lab.Lab(folder, experiment, experiment_flags.speed(), dataset, preset, models)
  same = dataclasses.asdict(experiment.data) == stored.get("data")
  others = fingerprint not in (None, dataset.fingerprint())
  if same and others and opened.holds_models():
    raise workdir.WorkdirError(
      "workdir",
      f"={folder.path} was begun with other images than the set "
      f"{experiment.data.dataset} has now",
    )
  opened.check_models()
  return opened


def _check_used(experiment: settings_lib.Experiment, dataset: Dataset) -> None:
  """Raises UserError on a flag that says nothing of this network or these data."""
  network, given = experiment.network.network, experiment_flags.given_fields()
  if not dataset.has_images:
    for name in ("flip", "translate_pixels", "cutout_pixels"):
      if name in given:
        raise UserError(name, "has no effect on feature vectors")
  unused = {"resnet9": (), "mlp": ("conv_backend",), "linear": ("width", "conv_backend")}
  for name in unused.get(network, ("width", "compute_dtype", "conv_backend")):
    if name in given:
      raise UserError(name, f"has no effect on --network={network}")


def start(
  main: Callable[[Any], Any],
  argv: Sequence[str],
  opener: Callable[[], Any] = open_lab,
  *,
  hold: Hold = "alone",
) -> None:
  """Opens what the parsed flags describe, locks its workdir, and runs `main` on it.

  Args:
    main: takes what `opener` makes.
    argv: the program's name, and what is left when flags are parsed.
    opener: reads the flags.
    hold: whom the workdir is locked against: all other processes, all but those that
      share the work (see `hosts`) or are one job, all others but without a change to the
      workdir, which may be read-only, or none.
  """
  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  with program.one_line_errors():
    if argv[1:]:
      raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")
    if hold == "job":
      processes.check_one_job()
    processes.check()
    if hold in ("shared", "job"):
      processes.start()
    elif processes.asked():
      raise UserError("shard", "and --distributed are for programs whose --help has them")
    opened = opener()
    if opener is not open_workdir:  # Else nothing is computed.
      devices.check()
    with contextlib.ExitStack() as stack:
      if hold == "reading":
        stack.enter_context(opened.workdir.locked_for_reading())
      elif hold != "not":
        stack.enter_context(opened.workdir.locked(*processes.mine()))
      with numerics.pinned():  # What a launcher computes by itself.
        main(opened)


class Program(NamedTuple):
  """What `python -m experiments.NAME` runs; each launcher has one, named PROGRAM.

  Attributes:
    main: see `start`.
    opener: see `start`.
    hold: see `start`; or a function that says it when flags are parsed.
    flag_modules: modules whose flags `--help` lists, beside the experiment's settings and
      the launcher's own.
  """

  main: Callable[[Any], Any]
  opener: Callable[[], Any] = open_lab
  hold: Hold | Callable[[], Hold] = "alone"
  flag_modules: tuple[ModuleType, ...] = ()

  def start(self, argv: Sequence[str]) -> None:
    """Runs it with flags that are parsed; see `start`."""
    if unused := self._unused_flags():
      sys.exit(f"error: --{unused[0]} has no effect in this program; see --help")
    hold = self.hold() if callable(self.hold) else self.hold
    start(self.main, argv, self.opener, hold=hold)

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
    given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
    return sorted(given - used)

  def run(self) -> None:
    """Parses the command line and runs it in a process of its own."""
    devices.use_all_devices()
    shared = (processes,) if self.hold in ("shared", "job") else ()
    has_settings = self.opener is not open_workdir
    help_page.exit_if_asked(*shared, *self.flag_modules, has_settings=has_settings)
    program.run(self._begin)

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
