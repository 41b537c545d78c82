"""When the steps towards a lasso stop: at a small gap, or after so many steps.

A gap is relative to the objective at 0. Float32 cannot tell small gaps, so that it stops
at a gap that it can tell; a certificate in float64 then says whether float64 must go on.
"""

from jaxdm.typing import Array

# What float32 can resolve of a gap.
FLOAT32_GAP = 2e-6
_FLOAT32_STEPS = 2_000
_FLOAT64_SHARE = 0.9


def is_unfinished(gap_t: Array, steps_t: Array, tol: Array, limit: Array) -> Array:
  """Which targets need more steps, bool[t]; works with NumPy, and inside `jit`.

  A gap that is not a number ends the steps: it will not become one.

  Args:
    gap_t: duality gaps.
    steps_t: int32, steps taken.
    tol: gap at which a target is finished.
    limit: int32, steps after which it is given up.
  """
  return (gap_t > tol) & (steps_t < limit)


def float32_limits(tol: float, limit: int) -> tuple[float, int]:
  """The gap and the number of steps at which float32 stops.

  Args:
    tol: the gap that is asked for.
    limit: steps at most.
  """
  # Close to what float32 resolves it may stall.
  most = limit if tol >= 10 * FLOAT32_GAP else min(limit, _FLOAT32_STEPS)
  return max(tol - FLOAT32_GAP / 2, FLOAT32_GAP / 2), most


def float64_gap(tol: float) -> float:
  """The gap at which float64 stops: the certificate adds to it."""
  return _FLOAT64_SHARE * tol
