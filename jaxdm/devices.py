"""The machine's devices, and how rows of work are spread over them."""

import contextlib
import functools
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdm import cgroups, memory
from jaxdm.errors import UserError

_AXIS = "rows"
_PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")


def use_all_devices(cache_dir: str | os.PathLike[str] | None = None) -> None:
  """Makes every CPU core a device, and keeps compiled programs between runs.

  Call it before anything touches JAX; afterwards the core count is fixed. It has no
  effect on how many GPUs or TPUs are used: all of them always are.

  >>> import jaxdm
  >>> jaxdm.use_all_devices()  # doctest: +SKIP

  Args:
    cache_dir: for compiled programs; None: `jaxdm` in the user's cache folder.
  """
  jax.config.update("jax_num_cpu_devices", cgroups.cpu_count())
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  cache_dir = os.path.expanduser(cache_dir or os.path.join(home, "jaxdm", "xla"))
  jax.config.update("jax_compilation_cache_dir", cache_dir)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def check() -> None:
  """Starts the devices.

  Raises:
    UserError: if there are none, or not those that the environment names.
  """
  try:
    jax.local_devices()
  except (RuntimeError, AssertionError) as error:  # The second: CUDA without a GPU.
    variables = [
      f"{name}={os.environ[name]}" for name in _PLATFORMS if os.environ.get(name)
    ]
    if not variables:
      raise UserError(None, f"JAX finds no device to compute with: {error}") from error
    raise UserError(
      None,
      f"{variables[0]} names what this machine, or this installation of JAX, does not "
      f"have; unset it, or name others, such as JAX_PLATFORMS=cpu. {error}",
    ) from error


_absent: list[Any] = []


@contextlib.contextmanager
def compile_for(devices: Sequence[Any]) -> Iterator[None]:
  """Compiles for devices that this machine does not have; nothing can be run.

  Args:
    devices: of a topology; see `jax.experimental.topologies`.
  """
  _mesh.cache_clear()
  _absent[:] = devices
  try:
    yield
  finally:
    _absent.clear()
    _mesh.cache_clear()


def local() -> list[Any]:
  """This process's devices, or those that are compiled for."""
  return list(_absent) or jax.local_devices()


@functools.cache
def _mesh(lanes: int | None) -> Mesh:
  """The devices that so many lanes are spread over, in a row."""
  devices = local()[: count_for(lanes)]
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (_AXIS,), axis_types=auto, devices=devices)


def count() -> int:
  """Local devices; what is spread must have a multiple of so many rows."""
  return len(local())


def deal(rows: int) -> np.ndarray:
  """Rows for pieces of work that are dealt to the devices in turn, int[rows].

  Where pieces take only the first places, all devices have about as many.

  Args:
    rows: a multiple of `count()`, as `shard_rows` splits.
  """
  return np.arange(rows).reshape(count(), -1).T.ravel()


def describe() -> str:
  """Number and kind of the local devices, such as '2 x cpu'."""
  return f"{count()} x {local()[0].device_kind}"


def count_for(lanes: int | None = None) -> int:
  """Local devices that rows in so many lanes are spread over.

  Lanes are equal parts of the rows. A device works on whole lanes, one after the other,
  with the same program however many they are, so that the bits of a result depend on the
  number of lanes and not on that of devices.

  Args:
    lanes: None: one on each local device.

  Returns:
    The largest number of devices, at most `count()`, that divides the lanes.
  """
  lanes = count() if lanes is None else lanes
  return max(d for d in range(1, count() + 1) if lanes % d == 0)


def replicate(tree: Any, lanes: int | None = None) -> Any:
  """Copies the arrays of a pytree to each device that is used for so many lanes."""
  return jax.device_put(tree, NamedSharding(_mesh(lanes), PartitionSpec()))


def shard_rows(tree: Any, lanes: int | None = None) -> Any:
  """Splits the arrays of a pytree along their first axis, of rows, over those devices."""
  return jax.device_put(tree, NamedSharding(_mesh(lanes), PartitionSpec(_AXIS)))


def abstract(tree: Any, *, by_row: bool) -> Any:
  """Arrays of which only shapes and types are known, placed as the functions above do.

  Args:
    tree: a pytree of arrays or `jax.ShapeDtypeStruct`.
    by_row: whether as `shard_rows` does, or as `replicate`.
  """
  spec = PartitionSpec(_AXIS) if by_row else PartitionSpec()
  sharding = NamedSharding(_mesh(None), spec)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def shard_map(
  fn: Callable[[Any, Any], Any], lanes: int | None = None, **jit_options: Any
) -> Callable[..., Any]:
  """A compiled fn(shared, rows) that every device calls on its part of the rows.

  Args:
    fn: takes two pytrees, the second with rows as the first axis of every array, and
      returns such a pytree. Devices do not wait for each other.
    lanes: equal parts of the rows, each of which is a call of its own; see `count_for`.
      None: one on each local device.
    **jit_options: of `jax.jit`.

  Returns:
    The function of all rows, a multiple of `lanes`.
  """
  specs = (PartitionSpec(), PartitionSpec(_AXIS))
  mesh = _mesh(lanes)
  # Nothing is communicated, so there is no replication for check_vma to check.
  program = jax.jit(
    jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False),
    **jit_options,
  )
  rounds = (lanes or mesh.size) // mesh.size
  return program if rounds == 1 else functools.partial(_in_rounds, program, rounds)


def _in_rounds(
  program: Callable[[Any, Any], Any], rounds: int, shared: Any, rows: Any
) -> Any:
  """The rows' results, with one lane on each device at a time.

  A loop inside of the program would do as well but for its last bits: XLA fuses it in
  other ways.
  """
  parts = [
    program(shared, jax.tree.map(functools.partial(_lane, i, rounds), rows))
    for i in range(rounds)
  ]
  return jax.tree.map(lambda *lanes: _join(lanes), *parts)


def _lane(i: int, rounds: int, array: jax.Array) -> jax.Array:
  """The i-th of so many equal parts of each device's rows."""
  size = array.shape[0] // (rounds * len(array.addressable_shards))
  return _per_device(lambda rows: rows[i * size : (i + 1) * size], [array])


def _join(lanes: Sequence[jax.Array]) -> jax.Array:
  """Parts of each device's rows, one after the other."""
  return _per_device(lambda *rows: jnp.concatenate(rows), lanes)


def _per_device(fn: Callable[..., jax.Array], arrays: Sequence[jax.Array]) -> jax.Array:
  """A function of each device's rows, by a program of that device alone; see `row`."""
  shards = zip(*(array.addressable_shards for array in arrays), strict=True)
  results = [fn(*(shard.data for shard in of_device)) for of_device in shards]
  shape = sum(len(rows) for rows in results), *results[0].shape[1:]
  return jax.make_array_from_single_device_arrays(shape, arrays[0].sharding, results)


def row(array: jax.Array, i: int) -> jax.Array:
  """One row of what `shard_map` has made, on the device that made it.

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
  return bool(local()[0].platform == "cpu")


def free_bytes() -> int:
  """Free memory: of the host if devices share it, else of the fullest device.

  Of the host's, page caches are free, and limits of a container count; see `memory`.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("bytes_limit" in device_stats for device_stats in stats):
    return min(
      int(device_stats["bytes_limit"] - device_stats["bytes_in_use"])
      for device_stats in stats
    )
  return memory.available_bytes()


def peak_bytes() -> int:
  """Peak memory of this process: of one device, or of the host if devices share it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("peak_bytes_in_use" in device_stats for device_stats in stats):
    return max(int(device_stats["peak_bytes_in_use"]) for device_stats in stats)
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
