"""How long-running functions tell how far they are: by calling (done, total)."""

from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int], Any]


def silent(done: int, total: int) -> None:
  """Reports nothing."""


def shifted(report: Progress, before: int, total: int) -> Progress:
  """A part's progress told as the whole's.

  Args:
    report: told the whole's progress.
    before: units done before this part.
    total: units expected in all; more if the part turns out larger.
  """
  return lambda done, of: report(before + done, max(total, before + of))
