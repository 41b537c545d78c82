"""How long-running functions report progress, and where they may be stopped.

They call a `Progress` with (done, total) between units of work, when all that is done is
stored. It reports. To stop the work there, raise `Cancelled`.
"""

from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int], Any]


class Cancelled(BaseException):
  """Raised between units of work, to stop there; the same call continues later.

  Like KeyboardInterrupt it is no Exception: handlers of errors let it pass.
  """


def silent(done: int, total: int) -> None:
  """Reports nothing."""


def shift(report: Progress, before: int, total: int) -> Progress:
  """Reports the progress of a part of the work as progress of all of it.

  Args:
    report: called with the progress of all of it.
    before: units done before this part.
    total: units expected in all; more if the part turns out larger.
  """
  return lambda done, of: report(before + done, max(total, before + of))
