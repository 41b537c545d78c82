"""The rows and columns of a design X: how they are read, and how columns are scaled.

X may be a memory map, or masks that are kept packed: it is read a block of rows at a
time. Columns of real numbers are shifted and scaled by powers of two, which is exact, so
that float32 can hold the problem whatever the units of X are.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse

BLOCK_BYTES = 2**28


class Matrix(Protocol):
  """What X must offer: NumPy arrays and memory maps do, and `PackedMasks`.

  Scores float[t, n] that are read by target are one, too: see `baselines.ScoreRows`.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...
  @property
  def dtype(self) -> Any: ...
  def __getitem__(self, rows: Any) -> np.ndarray: ...


class _SparseRows:
  """Rows of a SciPy sparse matrix, dense when they are read."""

  def __init__(self, matrix: Any):
    self._rows = scipy.sparse.csr_array(matrix)
    self.shape, self.dtype = self._rows.shape, self._rows.dtype

  def __getitem__(self, rows: Any) -> np.ndarray:
    return np.asarray(self._rows[rows].toarray())


def as_matrix(name: str, values: Any) -> Matrix:
  """A matrix of real numbers that can be read by rows; nothing large is copied.

  Args:
    name: of the argument, for the error.
    values: an array of any real dtype and byte order, a memory map, `PackedMasks`, a
      SciPy sparse matrix, or what `numpy.asarray` makes a matrix of (lists, DataFrames).

  Raises:
    ValueError: if it is no matrix of real numbers.
  """
  if scipy.sparse.issparse(values):
    values = _SparseRows(values)
  elif not isinstance(getattr(values, "dtype", None), np.dtype):
    values = _as_array(name, values)  # Lists; DataFrames, whose columns have dtypes.
  if np.ma.is_masked(values):
    raise ValueError(f"{name} must not hold masked values")
  if values.dtype.kind == "O":
    values = _as_array(name, values)
  if values.dtype.kind not in "buif":
    raise ValueError(f"{name} must hold real numbers, got dtype {values.dtype}")
  if len(values.shape) != 2:
    raise ValueError(f"{name} must be a matrix, got shape {tuple(values.shape)}")
  found: Matrix = values
  return found


def _as_array(name: str, values: Any) -> np.ndarray:
  """A NumPy array; objects become float64."""
  try:
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind == "O" else array
  except (TypeError, ValueError) as error:
    raise ValueError(f"{name} must hold real numbers: {error}") from error


def blocks(design_mn: Matrix, rows_m: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Parts of `rows_m`, as a slice of it, and those rows of X."""
  size = max(1, BLOCK_BYTES // (8 * design_mn.shape[1]))
  for start in range(0, len(rows_m), size):
    part = slice(start, min(start + size, len(rows_m)))
    yield part, np.asarray(design_mn[rows_m[part]])


class Columns(NamedTuple):
  """Shift and scale of each column: x = shift + scale * unit, and the mean of unit.

  Attributes:
    shift_n: float64; 0 for bool.
    scale_n: float64, powers of two, so that unit has a variance near 1; 1 for bool.
    mean_n: float64, means of unit.
    constant_n: bool, columns that cannot be told from the intercept.
  """

  shift_n: np.ndarray
  scale_n: np.ndarray
  mean_n: np.ndarray
  constant_n: np.ndarray

  @property
  def common_scale(self) -> float:
    """The median scale of the columns that vary, a power of two."""
    exponents = np.log2(self.scale_n[~self.constant_n])
    return float(np.exp2(np.round(np.median(exponents)))) if exponents.size else 1.0


def describe(design_mn: Matrix, rows_m: np.ndarray) -> Columns:
  """Shifts, scales and means of X's columns over some rows.

  Raises:
    ValueError: if X is not finite.
  """
  n = design_mn.shape[1]
  low_n, high_n = np.full(n, np.inf), np.full(n, -np.inf)
  for _, part in blocks(design_mn, rows_m):
    if part.dtype != bool:
      part = part.astype(np.float64)
      if not np.isfinite(part).all():
        raise ValueError("design is not finite")
    low_n = np.minimum(low_n, part.min(axis=0))
    high_n = np.maximum(high_n, part.max(axis=0))
  constant_n = np.equal(low_n, high_n)
  if design_mn.dtype == bool:
    found = Columns(np.zeros(n), np.ones(n), np.zeros(n), constant_n)
    return found._replace(mean_n=_moments(design_mn, rows_m, found)[0])
  # Halves first: the sum, or the difference, of two numbers may overflow.
  shift_n = np.where(constant_n, low_n, low_n / 2 + high_n / 2)
  reach_n = np.where(constant_n, 1.0, _power_of_two(high_n / 2 - low_n / 2))
  rough = Columns(shift_n, reach_n, np.zeros(n), constant_n)
  mean_n, square_n = _moments(design_mn, rows_m, rough)
  spread_n = np.sqrt(np.maximum(square_n - mean_n**2, 0))
  factor_n = np.where(constant_n | (spread_n == 0), 1.0, _power_of_two(spread_n))
  return Columns(shift_n, reach_n * factor_n, mean_n / factor_n, constant_n)


def unit_blocks(
  design_mn: Matrix, rows_m: np.ndarray, columns: Columns
) -> Iterator[tuple[slice, np.ndarray]]:
  """As `blocks`, of X shifted and scaled: bool stays so, else float64."""
  for part, block in blocks(design_mn, rows_m):
    if block.dtype != bool:
      block = (block.astype(np.float64) - columns.shift_n) / columns.scale_n
    yield part, block


def _moments(
  design_mn: Matrix, rows_m: np.ndarray, columns: Columns
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and mean square of each column of `unit_blocks`, as float64[n]."""
  total_n = square_n = np.zeros(design_mn.shape[1])
  for _, block in unit_blocks(design_mn, rows_m, columns):
    total_n = total_n + block.sum(axis=0, dtype=np.float64)
    if block.dtype != bool:
      square_n = square_n + np.einsum("mn,mn->n", block, block)
  return total_n / len(rows_m), square_n / len(rows_m)


def _power_of_two(values_n: np.ndarray) -> np.ndarray:
  """The power of two next to each value; 1 for 0."""
  mantissa_n, exponent_n = np.frexp(values_n)
  exponent_n = exponent_n - (mantissa_n < 0.5**0.5)
  return np.where(values_n > 0, np.ldexp(1.0, np.clip(exponent_n, -1074, 1023)), 1.0)
