"""Tiles of targets, and numbers that are given for every target and column."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdm import matrices

# A number, real[n], real[t, n], or a function of a slice of targets; None: nothing.
Factors = Any


def tiles(num_targets: int, size: int) -> Iterator[slice]:
  """Slices of at most `size` targets."""
  for start in range(0, num_targets, size):
    yield slice(start, min(start + size, num_targets))


def rows_of(
  name: str, values: Factors, part: slice, shape: tuple[int, int]
) -> np.ndarray | None:
  """Finite numbers for the targets of a tile and all columns.

  Args:
    name: of the argument, for the error.
    values: of all targets.
    part: the tile.
    shape: (t, n), of all targets.

  Returns:
    real[u, n]; None if values is None.

  Raises:
    ValueError: on another shape, or numbers that are not finite.
  """
  if values is None:
    return None
  t, n = shape
  if callable(values):
    values, t, part = values(part), part.stop - part.start, slice(None)
  array = matrices.as_real(name, values)
  if tuple(array.shape) not in ((), (n,), (t, n)):
    raise ValueError(
      f"{name} must have shape [t, n] = {(t, n)} or [n] = ({n},), got {array.shape}"
    )
  rows_un = np.asarray(array[part] if len(array.shape) == 2 else array)
  if not np.isfinite(rows_un).all():
    raise ValueError(f"{name} must be finite")
  return np.broadcast_to(rows_un, (len(range(t)[part]), n))


def factors_of(
  name: str, factors: Factors, part: slice, shape: tuple[int, int]
) -> np.ndarray | None:
  """Penalty factors for the targets of a tile, as `rows_of`; ValueError unless >= 0."""
  factors_un = rows_of(name, factors, part, shape)
  if factors_un is not None and not (factors_un >= 0).all():
    raise ValueError(f"{name} must be >= 0 and finite, got {factors_un.min()}")
  return factors_un
