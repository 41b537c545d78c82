"""Memory that this process may still use: of the host, and of its container."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from jaxdm import cgroups

# Of cgroup v2 and v1: the limits, what is in use, and what is a cache of files.
_V2 = ("memory.max", "memory.high"), "memory.current", "inactive_file"
_V1 = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"


def available_bytes(proc: Path = cgroups.PROC) -> int:
  """Memory that the host can give this process without swapping.

  Page caches count as available, since the kernel gives them up on demand. Where control
  groups limit the process, as those of a container or of a batch job do, the smallest
  room in any of them is the answer.

  Args:
    proc: the folder of the process; for tests.

  Returns:
    Bytes, at least 0.
  """
  rooms = [psutil.virtual_memory().available, *_rooms(proc)]
  return max(0, min(rooms))


def _rooms(proc: Path) -> Iterator[int]:
  """What is left in each control group of the process that has a limit."""
  for folder, is_v2 in cgroups.groups("memory", proc):
    limit_names, usage_name, cache_name = _V2 if is_v2 else _V1
    try:
      used = int((folder / usage_name).read_text())
      cache = _statistics(folder).get(cache_name, 0)
      for name in limit_names:
        limit = _limit(folder / name)
        if limit is not None:
          yield limit - max(0, used - cache)
    except (OSError, ValueError):
      continue  # The root group of v2 has none of these files.


def _limit(path: Path) -> int | None:
  """The limit that a file holds; None where there is none."""
  text = path.read_text().strip() if path.exists() else "max"
  return None if text == "max" else int(text)


def _statistics(folder: Path) -> dict[str, int]:
  """The numbers of a group's memory.stat, by name; none where there is no such file."""
  path = folder / "memory.stat"
  lines = path.read_text().splitlines() if path.exists() else []
  pairs = (line.split() for line in lines)
  return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
