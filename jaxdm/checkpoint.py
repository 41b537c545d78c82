"""Arrays on disk through Orbax: the one place that knows its API."""

import time
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


def save(
  path: str | epath.PathLike, arrays: dict[str, np.ndarray], *, overwrite: bool = False
) -> None:
  """Writes named arrays as an Orbax checkpoint, whole or not at all.

  Every process of a job writes for itself.

  Raises:
    ValueError: if there is one already and `overwrite` is not set.
  """
  with _checkpointer() as checkpointer:
    checkpointer.save(epath.Path(path).absolute(), arrays, force=overwrite)


def load(path: str | epath.PathLike) -> dict[str, np.ndarray]:
  """Reads what `save` wrote, as host arrays: the writer's devices do not matter.

  Raises:
    FileNotFoundError: if there is none.
  """
  path = epath.Path(path).absolute()
  if not path.exists():
    raise FileNotFoundError(f"no checkpoint at {path}")
  with _checkpointer() as checkpointer:
    meta = dict(checkpointer.metadata(path).item_metadata)
    template = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in meta.items()}
    tree = checkpointer.restore(path, template)
  return {name: np.asarray(value) for name, value in tree.items()}


def _checkpointer() -> ocp.StandardCheckpointer:
  """Orbax's, which does not wait for other processes."""
  if jax.process_count() == 1:
    return ocp.StandardCheckpointer()
  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index},
    barrier_sync_key_prefix=f"process-{index}",
  )
  return ocp.StandardCheckpointer(multiprocessing_options=alone)


_DUE = 0.75


class Progress:
  """The state of one long computation, kept every so many seconds.

  Attributes:
    seconds: what is lost at most, if `keep` is called at least four times as often.
  """

  def __init__(self, folder: str | epath.PathLike, seconds: float):
    """Nothing is written before something is due."""
    self._folder, self.seconds = epath.Path(folder), seconds
    self._last = time.monotonic()

  def begin(self, name: str, like: Any) -> tuple[int, Any]:
    """The step and the state to go on from; those given if nothing is kept.

    Args:
      name: of the computation; another one's state is not read.
      like: the state at step 0, a pytree of arrays.
    """
    self._last = time.monotonic()
    path = self._folder / name
    if not path.exists():
      return 0, like
    try:
      found = load(path)
    except Exception as error:  # Orbax raises many kinds.
      warnings.warn(f"{path} cannot be read, and is begun anew: {error}", stacklevel=2)
      return 0, like
    step = int(found.pop("step"))
    leaves, treedef = jax.tree.flatten(like)
    kept = [
      jax.device_put(found[f"{i:04d}"].astype(leaf.dtype), leaf.sharding)
      for i, leaf in enumerate(leaves)
    ]
    return step, jax.tree.unflatten(treedef, kept)

  def keep(self, name: str, step: int, state: Any, *, now: bool = False) -> None:
    """Writes the state if it is time to, or has to be done now."""
    if not now and time.monotonic() - self._last < _DUE * self.seconds:
      return
    leaves = jax.device_get(jax.tree.leaves(state))
    arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    save(self._folder / name, {**arrays, "step": np.asarray(step)}, overwrite=True)
    self._last = time.monotonic()

  def end(self, name: str) -> None:
    """Forgets a computation that is finished."""
    (self._folder / name).rmtree(missing_ok=True)
