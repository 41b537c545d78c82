"""The JAX options that change numbers: this project computes with its own values of them.

The same seed must give the same bits whatever the environment says (`JAX_ENABLE_X64`,
`JAX_DEFAULT_PRNG_IMPL`, ...), or one store would mix different models. Whatever runs a
compiled program on behalf of a caller runs it under `pinned`. Steps that need float64
switch it on inside.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

# The values by the name of JAX's context manager; None is each device's default.
PINNED: dict[str, Any] = {
  "enable_x64": False,
  "default_prng_impl": "threefry2x32",
  "threefry_partitionable": True,
  "default_matmul_precision": None,
  "numpy_dtype_promotion": "standard",
  "numpy_rank_promotion": "allow",
  "softmax_custom_jvp": False,
  "disable_jit": False,
}

# Options that change rounding and have no context manager, with JAX's default values.
UNPINNED: dict[str, Any] = {
  "jax_allow_f16_reductions": True,
  "jax_disable_most_optimizations": False,
  "jax_exec_time_optimization_effort": 0.0,
  "jax_memory_fitting_effort": 0.0,
  "jax_optimization_level": "UNKNOWN",
  "jax_use_direct_linearize": True,
}


@contextlib.contextmanager
def pinned() -> Iterator[None]:
  """Sets the options of `PINNED` in this thread; also a decorator."""
  with contextlib.ExitStack() as stack:
    for name, value in PINNED.items():
      stack.enter_context(getattr(jax, name)(value))
    yield


def changed_options() -> dict[str, str]:
  """The options of `UNPINNED` that do not have JAX's default value, as text."""
  values = jax.config.values  # Not all of them are attributes of `jax.config`.
  return {
    name: str(values[name])
    for name, default in UNPINNED.items()
    if name in values and str(values[name]) != str(default)
  }
