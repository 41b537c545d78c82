"""How far the processes of an experiment are, from what they store and log.

  python -m experiments.ops.status --workdir=runs/fashion

Reads only; it may run beside them, and on another machine that sees the folder.
"""

import json
import time
from typing import Any

from etils import epath

from experiments.runtime import launcher, stages
from experiments.runtime.workdir import Workdir
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, verify


def last_lines(folder: epath.Path) -> list[dict[str, Any]]:
  """The newest line of each process's log; what cannot be read is left out."""
  found = []
  for path in atomic_io.find(folder / "logs", "*.jsonl"):
    for text in reversed(path.read_bytes().splitlines()):
      try:
        found.append(json.loads(text))
      except ValueError:
        continue  # A line that is being written.
      break
  return found


def stage_lines(workdir: Workdir) -> list[str]:
  """A line on each stage that was begun."""
  lines = [f"{'stage':<24}{'':<14}{'seconds':>10}{'starts':>8}  last, on"]
  for stage, starts in stages.starts_by_stage(workdir).items():
    state = "finished" if stages.is_finished(workdir, stage) else "not finished"
    numbers = f"{starts.seconds:>10,.0f}{starts.starts:>8}"
    where = " or ".join(starts.devices)
    lines.append(f"{stage:<24}{state:<14}{numbers}  {starts.finished} {where}".rstrip())
  return lines


def main(workdir: Workdir) -> None:
  """Prints the stages, the stores, the processes, and what several versions made."""
  folder = workdir.path
  if not (folder / "stages").exists():
    raise UserError("workdir", f"={folder} holds no experiment")
  print("\n".join(stage_lines(workdir)))
  print(f"\n{'store':<24}{'models':>12}{'diverged':>10}")
  for path in [p.parent for p in atomic_io.find(workdir.bank, "*/manifest.json")]:
    found = verify.summary(path)
    print(f"{path.name:<24}{found.rows:>12,}{found.totals.get('diverged', 0):>10,}")
  columns = f"{'doing':<28}{'done':>10}{'of':>10}{'per s':>9}{'left':>9}{'MB':>9}"
  print(f"\n{'host':<8}{columns}  at")
  for line in last_lines(folder):
    left = line["seconds_left"]
    text = "" if left is None else time.strftime("%H:%M:%S", time.gmtime(left % 86400))
    days = f"{left // 86400:.0f} d " if left and left >= 86400 else ""
    numbers = f"{line['done']:>10,}{line['total']:>10,}{line['per_second']:>9.2f}"
    memory = line["memory_bytes"] / 1e6
    cells = f"{line['what']:<28}{numbers}{days + text:>9}{memory:>9,.0f}"
    print(f"{line['host']:<8}{cells}  {line['time']}")
  for note in stages.mixtures(workdir):
    print(f"\nnote: {note}")


PROGRAM = launcher.Program(main, launcher.open_workdir, "not")

if __name__ == "__main__":
  PROGRAM.run()
