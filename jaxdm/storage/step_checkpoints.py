"""Long computations, step by step, whose states are written to disk on the way."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxdm.storage import atomic_io, checkpoint, tensorstore_errors

# A killed run may lose some seconds. These are the shares of them, which sum to 1, for
# results that are not stored yet, steps since the last state was written, and one part.
_AHEAD, _DUE, _PART = 0.1, 0.7, 0.2
# Finished computations whose state was not written may take this share.
_FINISHED = 0.4
# A part has at most so many times the steps of the longest part timed so far.
_GROWTH = 8


class Checkpoints:
  """Runs long computations step by step, and writes their states to disk on the way.

  Attributes:
    seconds: of computation that a killed run loses at most, if a step takes no more than
      a fifth of them.
  """

  def __init__(
    self,
    folder: str | epath.PathLike,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    observe: Callable[[int, float], object] = lambda steps, seconds: None,
    report: Callable[[float], object] = lambda units: None,
  ):
    """Writes nothing yet.

    Args:
      folder: for the states.
      seconds: of computation that may be lost.
      clock: tells the time, in seconds.
      observe: called with a number of steps and the seconds that they take where their
        load is 1; not for the first steps, whose seconds include their compilation.
      report: called with units of work that some steps have done, as they are done; see
        `run`.
    """
    self._folder, self.seconds, self._clock = atomic_io.as_path(folder), seconds, clock
    self._observe, self._report = observe, report
    self._names: list[str] = []
    self._unsaved_seconds = 0.0  # Of finished computations, which nothing on disk holds.
    self._is_compiled = False  # The first part of all is compiled, too.
    self._step_seconds, self._timed_steps = 0.0, 0

  def run(
    self,
    name: str,
    state: Any,
    first: int,
    last: int,
    advance: Callable[[Any, int, int], Any],
    *,
    units_per_step: float = 0.0,
    load: float = 1.0,
  ) -> Any:
    """Takes the steps that are left; writes the state on the way if they take long.

    States stay on disk until `settle`, so that a finished computation is not repeated.

    Args:
      name: of the computation.
      state: a pytree of arrays, before the first step.
      first: its number.
      last: the number of the step to stop at.
      advance: takes a state and the first step and the one to stop at; returns a state.
      units_per_step: what a step is of the units that are reported.
      load: the work of a step, as a share of the most that a step can be.

    Returns:
      The state before step `last`.
    """
    step, last_state = self.read_state(name, state)
    is_written, since = step > 0, self._clock()
    if step < first:  # A state of a run that had no such first step.
      step, last_state = first, state
    state = last_state
    self._report((step - first) * units_per_step)
    while step < last:
      stop, before = min(step + self._part_steps(load), last), self._clock()
      state = jax.block_until_ready(advance(state, step, stop))
      self._report((stop - step) * units_per_step)
      self._time_part(stop - step, (self._clock() - before) / load)
      step = stop
      unsaved = self._unsaved_seconds + self._clock() - since
      if unsaved > (_DUE if step < last else _FINISHED) * self.seconds:
        self.write_state(name, step, state)
        is_written, since = True, self._clock()
    self._unsaved_seconds += self._clock() - since
    if is_written:
      self._names.append(name)
    return state

  def has_much_to_store(self) -> bool:
    """Whether results should be stored before the next computation begins."""
    return bool(self._names) or self._unsaved_seconds > _AHEAD * self.seconds

  def settle(self) -> None:
    """Removes the states of finished computations, once their results are stored."""
    for name in self._names:
      checkpoint.remove(self._folder / name)
    self._names.clear()
    self._unsaved_seconds = 0.0

  def read_state(self, name: str, like: Any) -> tuple[int, Any]:
    """The step and the state to continue from; 0 and `like` if no state is on disk.

    Args:
      name: of the computation; another one's state is not read.
      like: the state at step 0, a pytree of arrays.

    Raises:
      OSError: if there is a state that cannot be read; a damaged one is begun anew.
    """
    path = self._folder / name
    if not checkpoint.exists(path):
      return 0, like
    try:
      arrays = checkpoint.load(path)
      step = int(arrays.pop("step"))
      leaves, treedef = jax.tree.flatten(like)
      leaves = [
        jax.device_put(arrays[f"{i:04d}"].astype(leaf.dtype), leaf.sharding)
        for i, leaf in enumerate(leaves)
      ]
    except Exception as error:  # Orbax raises many kinds.
      if os_error := tensorstore_errors.unreadable(error, path):
        raise os_error from error  # It may be undamaged, and must not be replaced.
      warnings.warn(f"{path} cannot be read, and is begun anew: {error}", stacklevel=2)
      return 0, like
    return step, jax.tree.unflatten(treedef, leaves)

  def write_state(self, name: str, step: int, state: Any) -> None:
    """Writes the state after some steps, in place of an earlier one."""
    leaves = jax.device_get(jax.tree.leaves(state))
    arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays["step"] = np.asarray(step)
    checkpoint.save(self._folder / name, arrays, overwrite=True)

  def _part_steps(self, load: float) -> int:
    """Steps that take at most their share of the seconds; few while none was timed."""
    step_seconds = load * self._step_seconds
    fit = _PART * self.seconds / step_seconds if step_seconds else np.inf
    return int(max(1, min(fit, _GROWTH * self._timed_steps)))

  def _time_part(self, steps: int, seconds: float) -> None:
    """Records how long some steps take where their load is 1."""
    if self._is_compiled:
      self._step_seconds = seconds / steps
      self._timed_steps = max(self._timed_steps, steps)
      self._observe(steps, seconds)
    self._is_compiled = True
