"""How the processes of one job share a fit in a folder: which part each one computes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdm import progress as progress_lib
from jaxdm.errors import UserError
from jaxdm.lasso import design, solver_plan
from jaxdm.storage import atomic_io, checksummed_json, polling
from jaxdm.storage import cache as cache_lib

_FILE = "plan.json"


class FitPlan(NamedTuple):
  """What the processes of a fit must do alike, since parts have its names and its bits.

  Attributes:
    solver: form of the design, targets a tile, lanes.
    candidates: the priors' names, in the order in which their parts are counted.
  """

  solver: solver_plan.Plan
  candidates: tuple[str, ...]


def agree(
  folder: str | epath.PathLike | None,
  make: Callable[[], FitPlan],
  *,
  index: int = 0,
  form: design.Form | None = None,
  tile: int | None = None,
) -> FitPlan:
  """The plan that a folder holds; where there is none, one that is made and written.

  If several processes start at the same time, one writes its plan and all read it.

  Args:
    folder: that all processes share, also those of later starts; None: no other process.
    make: makes a plan from what this process finds.
    index: of this process. In a bucket, where nothing can be written exclusively,
      process 0 makes the plan and the others wait for it.
    form: that the caller requests; None: any.
    tile: the same.

  Raises:
    UserError: if the folder's plan was made for another form or tile than those asked
      for, or the folder holds parts without a plan.
  """
  if folder is None:
    return make()
  path = atomic_io.as_path(folder) / _FILE
  # In this order, since other processes write the plan first.
  has_parts = (path.parent / cache_lib.MANIFEST).exists()
  if not path.exists():
    if has_parts:
      raise UserError(
        None, f"{folder} holds parts of another fit, without a plan; remove it"
      )
    if index and atomic_io.is_remote(path):
      polling.until(path.exists, str(path))
    else:
      _write(path, make(), form, tile)
  stored = checksummed_json.read(path)
  requested = {"form": form, "tile": tile}
  for name, value in requested.items():
    if value not in (None, stored[name], stored["asked"][name]):
      raise UserError(
        name,
        f"must be {stored[name]}, with which {folder} was begun, got {value}; "
        "leave it out, or name another folder",
      )
  solver = solver_plan.Plan(stored["form"], stored["tile"], stored["lanes"])
  return FitPlan(solver, tuple(stored["candidates"]))


def _write(
  path: epath.Path, plan: FitPlan, form: design.Form | None, tile: int | None
) -> None:
  """Writes a plan, with the form and tile that were requested, unless there is one."""
  atomic_io.make_folder(path.parent)
  requested = {"form": form, "tile": tile}
  content: dict[str, Any] = {
    **plan.solver._asdict(),
    "candidates": list(plan.candidates),
    "asked": requested,
  }
  checksummed_json.write(path, content, new=True)


class Parts:
  """Named parts of a computation, each made by one of several processes."""

  def __init__(
    self,
    cache: cache_lib.Cache,
    share: tuple[int, int],
    counts: Sequence[int],
    progress: progress_lib.Progress,
  ):
    """Makes nothing yet.

    Args:
      cache: where the processes exchange parts.
      share: (i, N): this is process i of N.
      counts: how many parts each call of `make` will name.
      progress: called with (parts made here, parts to make here).
    """
    self._cache, self._progress = cache, progress
    self._mine = slice(share[0], None, share[1])
    self._total = sum(len(range(count)[self._mine]) for count in counts)
    self._made: dict[str, dict[str, np.ndarray]] = {}

  def make(self, parts: Mapping[str, Callable[[], dict[str, np.ndarray]]]) -> None:
    """Makes this process's share of some parts, which all processes name in one order."""
    for key in list(parts)[self._mine]:
      self._made[key] = self._cache(key, parts[key])
      self._progress(len(self._made), self._total)

  def __getitem__(self, key: str) -> dict[str, np.ndarray]:
    """The arrays of a part; waits where another process makes it."""
    return self._made[key] if key in self._made else self._cache.wait_for(key)
