"""The machine's devices, and how rows of work are spread over them."""

import functools
import os
import resource
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "rows"


def use_all_devices(cache_dir: str | None = None) -> None:
  """Makes every CPU core a device, and keeps compiled programs between runs.

  Call it before anything touches JAX; afterwards the core count is fixed. It has no
  effect on how many GPUs or TPUs are used: all of them always are.

  Args:
    cache_dir: for compiled programs; None: `jaxdm` in the user's cache folder.
  """
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  jax.config.update("jax_num_cpu_devices", cores or os.cpu_count() or 1)
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  cache_dir = cache_dir or os.path.join(home, "jaxdm", "xla")
  jax.config.update("jax_compilation_cache_dir", cache_dir)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@functools.cache
def _mesh() -> Mesh:
  """All local devices in a row."""
  devices = jax.local_devices()
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (_AXIS,), axis_types=auto, devices=devices)


def count() -> int:
  """Local devices; what is spread must have a multiple of so many rows."""
  return len(jax.local_devices())


def everywhere(tree: Any) -> Any:
  """The arrays of a pytree, whole, on every local device."""
  return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def by_row(tree: Any) -> Any:
  """The arrays of a pytree with their first axis split over the local devices."""
  return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec(_AXIS)))


def spread(fn: Callable[[Any, Any], Any], **jit_options: Any) -> Callable[..., Any]:
  """A compiled fn(shared, rows) that every device calls on its part of the rows.

  Args:
    fn: takes two pytrees, the second with rows as the first axis of every array, and
      returns such a pytree. Devices do not wait for each other.
    **jit_options: of `jax.jit`.

  Returns:
    The function of all rows.
  """
  specs = (PartitionSpec(), PartitionSpec(_AXIS))
  # Nothing is communicated, so there is no replication for check_vma to check.
  return jax.jit(
    jax.shard_map(fn, mesh=_mesh(), in_specs=specs, out_specs=specs[1], check_vma=False),
    **jit_options,
  )


def row(array: jax.Array, i: int) -> jax.Array:
  """One row of what `spread` has made, on the device that made it.

  `array[i]` would compile a program of all devices. On a busy CPU several of those at
  once were seen to wait for each other's threads until XLA aborted (jaxlib 0.10.2).

  Raises:
    IndexError: if no device of this process holds it.
  """
  for shard in array.addressable_shards:
    start, stop, _ = shard.index[0].indices(len(array))
    if start <= i < stop:
      return shard.data[i - start]
  raise IndexError(f"row {i} of {len(array)} is not on this process's devices")


def share_memory() -> bool:
  """Whether the local devices draw on one memory, the host's."""
  return jax.default_backend() == "cpu"


def free_bytes() -> int:
  """Memory that the host can still give where devices share it, else one device."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"] - stats["bytes_in_use"])
  return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
  """Most memory that this process has used on a device, on the host where they share."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
