"""How every program parses its flags: an error in them is one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags


def run(main: Callable[[list[str]], Any]) -> None:
  """Parses the command line and runs `main` on what is left of it."""
  app.run(main, flags_parser=parse)


def parse(argv: Sequence[str]) -> list[str]:
  """Sets the flags; returns the program's name and what is no flag."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(f"error: {' '.join(str(error).split())}; see --help")
