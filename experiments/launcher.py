"""How every launcher starts and how it fails: one line, and nothing touched."""

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from experiments import lab, settings, workdir
from jaxdm import devices


def open_lab() -> lab.Lab:
  """Reads flags and workdir, and checks them against the data.

  Raises:
    ValueError: on any setting or data that cannot work; nothing has been computed.
  """
  folder = workdir.Workdir(settings.WORKDIR.value)
  stored = folder.settings()
  where = {"data_dir": settings.DATA_DIR.value, "arrays": settings.ARRAYS.value}
  fingerprint = stored.get("data", {}).pop("fingerprint", None)
  experiment = settings.experiment(stored)
  dataset = lab.load_dataset(experiment.data, where)
  lab.check(experiment, dataset)
  if fingerprint not in (None, dataset.fingerprint()) and dataclasses.asdict(
    experiment.data
  ) == stored.get("data"):
    raise workdir.WorkdirError(
      f"the images of --dataset={experiment.data.dataset} are not those that "
      f"--workdir={folder.path} was begun with"
    )
  return lab.Lab(folder, experiment, settings.speed(), dataset)


def start(
  main: Callable[[Any], Any], argv: Sequence[str], opener: Callable[[], Any] = open_lab
) -> None:
  """Opens what the parsed flags describe, locks its workdir, and runs `main` on it."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  try:
    if argv[1:]:
      raise ValueError(f"arguments must be flags, got {argv[1]!r}; see --help")
    opened = opener()
    with opened.workdir.locked():
      main(opened)
  except (ValueError, OSError) as error:
    message = str(error)
    first = re.match(r"\w*", message)
    prefix = "--" if first and first.group() in flags.FLAGS else ""
    sys.exit(f"error: {prefix}{message}")


def run(main: Callable[[Any], Any], opener: Callable[[], Any] = open_lab) -> None:
  """Runs a launcher's `main` as a program."""
  devices.use_all_devices()
  settings.show_in_help()
  app.run(lambda argv: start(main, argv, opener))
