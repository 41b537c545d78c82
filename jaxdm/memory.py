"""Memory that this process may still use: of the host, and of its container."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

# Of cgroup v2 and v1: the limits, what is in use, and what is a cache of files.
_V2 = ("memory.max", "memory.high"), "memory.current", "inactive_file"
_V1 = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"


def available_bytes(proc: Path = Path("/proc/self")) -> int:
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
  for folder, is_v2 in _groups(proc):
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


def _groups(proc: Path) -> Iterator[tuple[Path, bool]]:
  """Folders of the process's memory groups up to their roots, and whether they are v2."""
  try:
    memberships = (proc / "cgroup").read_text().splitlines()
    mounts = (proc / "mountinfo").read_text().splitlines()
  except OSError:
    return  # No Linux.
  for line in memberships:
    _, controllers, path = line.split(":", 2)
    is_v2 = not controllers
    if is_v2 or "memory" in controllers.split(","):
      for root, mount in _mounts(mounts, is_v2):
        yield from ((folder, is_v2) for folder in _upwards(path, root, mount))


def _upwards(path: str, root: str, mount: Path) -> Iterator[Path]:
  """The folder of a group and those above it.

  A mount shows what is below `root`. In a container that may be the group itself, or the
  group may lie outside of it, and then the top of the mount is all that can be seen.
  """
  group = PurePosixPath(path)
  below = group.is_relative_to(root) and ".." not in group.parts
  inside = group.relative_to(root) if below else PurePosixPath()
  yield from (mount / part for part in (inside, *inside.parents))


def _mounts(lines: list[str], is_v2: bool) -> Iterator[tuple[str, Path]]:
  """Root and place of each mount of the hierarchy of memory groups, of proc(5)."""
  for line in lines:
    left, _, right = line.partition(" - ")
    kind, _, options = right.split(" ", 2)
    has_memory = kind == "cgroup" and "memory" in options.split(",")
    if kind == "cgroup2" if is_v2 else has_memory:
      root, mount = map(_unescape, left.split(" ")[3:5])
      yield root, Path(mount)


def _unescape(text: str) -> str:
  """A path of mountinfo, which writes blanks and the like as octal numbers."""
  return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
