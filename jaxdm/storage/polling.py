"""How processes of one job wait for files that another one writes to their disk."""

import operator
import time
import warnings
from collections.abc import Callable

_FIRST_SECONDS, _LONGEST_SECONDS = 0.1, 3.0
_SILENT_SECONDS = 120.0


def check_share(share: tuple[int, int]) -> None:
  """Raises ValueError unless `share` is (i, N): that of process i of N."""
  try:
    index, count = map(operator.index, share)
    is_share = 0 <= index < count
  except (TypeError, ValueError):
    is_share = False
  if not is_share:
    raise ValueError(f"share must be (i, N), integers with 0 <= i < N, got {share!r}")


def until(ready: Callable[[], object], what: str) -> None:
  """Waits until `ready` returns a true value, with growing pauses between the calls.

  A slow process cannot be told from one that writes to another disk. So the wait has no
  end; after 2 minutes, and then after 4, 8, ... minutes, it warns.

  Args:
    ready: whether the wait is over.
    what: names in the warning what is waited for.
  """
  start, pause, silent = time.monotonic(), _FIRST_SECONDS, _SILENT_SECONDS
  while not ready():
    if time.monotonic() - start > silent:
      warnings.warn(
        f"waited {silent / 60:.0f} minutes for another process of this job to leave "
        f"{what}; is it alive, and on the same disk?",
        stacklevel=2,
      )
      silent *= 2
    time.sleep(pause)
    pause = min(2 * pause, _LONGEST_SECONDS)
