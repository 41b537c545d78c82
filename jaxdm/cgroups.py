"""The control groups of this process, as containers and batch jobs have them."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def cpu_count(proc: Path = PROC) -> int:
  """Cores that this process may use: those it is bound to, or its groups' quota if less.

  Args:
    proc: the folder of the process; for tests.

  Returns:
    At least 1; a quota of one and a half cores counts as two.
  """
  bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  quotas = [math.ceil(quota) for quota in _cpu_quotas(proc)]
  return max(1, min([bound or os.cpu_count() or 1, *quotas]))


def _cpu_quotas(proc: Path) -> Iterator[float]:
  """Cores that each group of the process may use on average, where it has a limit."""
  for folder, is_v2 in groups("cpu", proc):
    try:
      if is_v2:
        quota, period = (folder / "cpu.max").read_text().split()
      else:
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
      if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
      continue  # The root group has none of these files.


def groups(controller: str, proc: Path = PROC) -> Iterator[tuple[Path, bool]]:
  """Folders of a process's groups up to their roots, and whether they are of v2.

  Args:
    controller: of v1, such as 'memory'; groups of v2 have all controllers.
    proc: the folder of the process; for tests.
  """
  try:
    memberships = (proc / "cgroup").read_text().splitlines()
    mounts = (proc / "mountinfo").read_text().splitlines()
  except OSError:
    return  # No Linux.
  for line in memberships:
    _, controllers, path = line.split(":", 2)
    is_v2 = not controllers
    if is_v2 or controller in controllers.split(","):
      for root, mount in _mounts(mounts, controller, is_v2):
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


def _mounts(lines: list[str], controller: str, is_v2: bool) -> Iterator[tuple[str, Path]]:
  """Root and place of each mount of a controller's hierarchy of groups, of proc(5)."""
  for line in lines:
    left, _, right = line.partition(" - ")
    kind, _, options = right.split(" ", 2)
    has_controller = kind == "cgroup" and controller in options.split(",")
    if kind == "cgroup2" if is_v2 else has_controller:
      root, mount = map(_unescape, left.split(" ")[3:5])
      yield root, Path(mount)


def _unescape(text: str) -> str:
  """A path of mountinfo, which writes blanks and the like as octal numbers."""
  return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
