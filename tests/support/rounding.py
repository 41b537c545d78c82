"""How exact float32 products are on the platform that runs the tests."""

import jax


def tolerance(on_cpu: float) -> float:
  """A tolerance for products in float32.

  On accelerators JAX multiplies float32 in TF32 or bfloat16 unless it is told otherwise,
  with 10 or 7 bits after the point instead of 23.

  Args:
    on_cpu: what holds on a CPU.
  """
  return on_cpu if jax.default_backend() == "cpu" else max(2**-7, on_cpu)
