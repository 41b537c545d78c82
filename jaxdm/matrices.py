"""The rows and columns of a design X: how they are read, weighted and scaled.

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

  Scores float[t, n] that are read by target are one, too: see `attribution.scores`.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...
  @property
  def dtype(self) -> Any: ...
  def __getitem__(self, rows: Any) -> np.ndarray: ...


class SparseRows:
  """Rows of a SciPy sparse matrix, dense when they are read."""

  def __init__(self, matrix: Any):
    self._rows = scipy.sparse.csr_array(matrix)
    self.shape, self.dtype = self._rows.shape, self._rows.dtype

  def __getitem__(self, rows: Any) -> np.ndarray:
    return np.asarray(self._rows[rows].toarray())


class SomeRows:
  """Some rows of a matrix, read where they are indexed."""

  ndim = 2

  def __init__(self, matrix: Any, rows: np.ndarray):
    """Reads nothing yet.

    Args:
      matrix: a `Matrix`, or a `MatrixView`.
      rows: int, their numbers.
    """
    self._matrix, self._rows = matrix, rows
    self.shape = len(rows), matrix.shape[1]

  @property
  def dtype(self) -> Any:
    """That of the matrix."""
    return self._matrix.dtype

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, key: Any) -> np.ndarray:
    if isinstance(key, tuple):
      return np.asarray(self._matrix[self._rows[key[0]], key[1]])
    return np.asarray(self._matrix[self._rows[key]])

  def identity(self) -> Any:
    """For `identity.digest`."""
    return [self._matrix, self._rows]


def as_real(name: str, values: Any) -> Matrix:
  """Real numbers in an array of any number of axes; nothing large is copied.

  Args:
    name: of the argument, for the error.
    values: an array of any real dtype and byte order, a memory map, `PackedMasks`, a
      SciPy sparse array, or what `numpy.asarray` makes an array of (numbers, lists,
      DataFrames). Only a matrix may stay what it is; all else becomes a NumPy array.

  Raises:
    ValueError: if it holds anything but real numbers.
  """
  if scipy.sparse.issparse(values):
    values = SparseRows(values) if values.ndim == 2 else values.toarray()
  elif not isinstance(getattr(values, "dtype", None), np.dtype):
    values = _as_array(name, values)  # Lists; DataFrames, whose columns have dtypes.
  if np.ma.is_masked(values):
    raise ValueError(f"{name} must not hold masked values")
  if values.dtype.kind == "O" or _is_extension(values.dtype):
    values = _as_array(name, values)
  if values.dtype.kind not in "buif":
    raise ValueError(f"{name} must hold real numbers, got dtype {values.dtype}")
  matrix: Matrix = values if len(values.shape) == 2 else np.asarray(values)
  return matrix


def as_array(name: str, values: Any) -> np.ndarray:
  """The same as a NumPy array, or a memory map."""
  matrix = as_real(name, values)
  return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix[:])


def as_matrix(name: str, values: Any) -> Matrix:
  """The same of what must be a matrix."""
  matrix = as_real(name, values)
  if len(matrix.shape) != 2:
    raise ValueError(f"{name} must be a matrix [m, n], got shape {matrix.shape}")
  return matrix


def as_columns(name: str, values: Any) -> Matrix:
  """The same; a vector is a matrix of one column."""
  matrix = as_real(name, values)
  if len(matrix.shape) not in (1, 2):
    raise ValueError(
      f"{name} must be a matrix [m, t] or a vector [m], got shape {matrix.shape}"
    )
  return matrix if len(matrix.shape) == 2 else matrix[:, None]


def as_weights(sample_weight: Any, m: int) -> tuple[np.ndarray, np.ndarray | None]:
  """The rows that count, and how much.

  Args:
    sample_weight: real[m] >= 0, or one number for all rows; None: 1.
    m: rows.

  Returns:
    int[k], the rows of positive weight, and float64[k], their weights over the largest;
    None if all of these are equal.

  Raises:
    ValueError: on another shape, weights that are negative or not finite, or only 0.
  """
  if sample_weight is None:
    return np.arange(m), None
  values = as_real("sample_weight", sample_weight)
  if values.shape not in ((), (m,)):
    raise ValueError(f"sample_weight must have shape [m] = ({m},), got {values.shape}")
  weights_m = np.broadcast_to(np.asarray(values, np.float64), (m,))
  wrong = np.flatnonzero(~((weights_m >= 0) & np.isfinite(weights_m)))
  if wrong.size:
    row = wrong[0]
    raise ValueError(
      f"sample_weight must be >= 0 and finite, got {weights_m[row]} in row {row}"
    )
  if not weights_m.any():
    raise ValueError(f"sample_weight must not be 0 in all {m} rows")
  weights_m = weights_m / weights_m.max()
  rows = np.flatnonzero(weights_m)
  weights_k = weights_m[rows]
  return rows, None if (weights_k == weights_k[0]).all() else weights_k


def take_rows(matrix: Any, rows: np.ndarray) -> Any:
  """Some rows of a matrix, which must ascend; the matrix itself if these are all."""
  return matrix if len(rows) == matrix.shape[0] else SomeRows(matrix, rows)


def part_of(weights_m: np.ndarray | None, rows: Any) -> np.ndarray | None:
  """The weights of some rows."""
  return None if weights_m is None else weights_m[rows]


def scale_rows(values_mx: np.ndarray, root_m: np.ndarray | None) -> np.ndarray:
  """Rows times the roots of their weights; None: 1."""
  return values_mx if root_m is None else values_mx * root_m[:, None]


def _as_array(name: str, values: Any) -> np.ndarray:
  """A NumPy array; objects, and numbers that NumPy does not know, become float64."""
  try:
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind in "OV" else array
  except (TypeError, ValueError, RuntimeError) as error:  # The last is PyTorch's.
    raise ValueError(f"{name} must hold real numbers: {error}") from error


def _is_extension(dtype: np.dtype) -> bool:
  """Whether a dtype is one of real numbers from another package, such as bfloat16."""
  return dtype.kind == "V" and dtype.names is None and np.can_cast(dtype, np.float64)


def blocks(design_mn: Matrix, rows_m: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Parts of `rows_m`, as a slice of it, and those rows of X."""
  size = max(1, BLOCK_BYTES // (8 * design_mn.shape[1]))
  for start in range(0, len(rows_m), size):
    part = slice(start, min(start + size, len(rows_m)))
    yield part, np.asarray(design_mn[rows_m[part]])


class ColumnScales(NamedTuple):
  """Shift and scale of each column: x = shift + scale * unit, and the mean of unit.

  Rows may have weights. Sums over rows then count each row as often as its weight says:
  whatever has one number a row is kept times the root of the row's weight, so that plain
  products are the weighted ones.

  Attributes:
    shift_n: float64; 0 for bool.
    scale_n: float64, powers of two, so that unit has a variance near 1; 1 for bool.
    mean_n: float64, means of unit.
    constant_n: bool, columns that cannot be told from the intercept.
    root_m: float64, roots of the rows' weights, whose mean is 1; None: all are 1.
  """

  shift_n: np.ndarray
  scale_n: np.ndarray
  mean_n: np.ndarray
  constant_n: np.ndarray
  root_m: np.ndarray | None = None

  @property
  def common_scale(self) -> float:
    """The median scale of the columns that vary, a power of two."""
    exponents = np.log2(self.scale_n[~self.constant_n])
    return float(np.exp2(np.round(np.median(exponents)))) if exponents.size else 1.0


def describe(
  design_mn: Matrix, rows_m: np.ndarray, weights_m: np.ndarray | None = None
) -> ColumnScales:
  """Shifts, scales and means of X's columns over some rows.

  Args:
    design_mn: X.
    rows_m: which of its rows.
    weights_m: float64 > 0, of those rows; None: 1.

  Raises:
    ValueError: if X is not finite.
  """
  n = design_mn.shape[1]
  low_n, high_n = np.full(n, np.inf), np.full(n, -np.inf)
  for rows, part in blocks(design_mn, rows_m):
    if part.dtype != bool:
      part = part.astype(np.float64)
      if not np.isfinite(part).all():
        row = rows_m[rows][~np.isfinite(part).all(axis=1)][0]
        raise ValueError(f"masks must be finite, and are not in row {row}")
    low_n = np.minimum(low_n, part.min(axis=0))
    high_n = np.maximum(high_n, part.max(axis=0))
  constant_n = np.equal(low_n, high_n)
  root_m = None if weights_m is None else np.sqrt(weights_m / weights_m.mean())
  if design_mn.dtype == bool:
    columns = ColumnScales(np.zeros(n), np.ones(n), np.zeros(n), constant_n, root_m)
    return columns._replace(mean_n=_moments(design_mn, rows_m, columns)[0])
  # Halves first: the sum, or the difference, of two numbers may overflow.
  shift_n = np.where(constant_n, low_n, low_n / 2 + high_n / 2)
  reach_n = np.where(constant_n, 1.0, _power_of_two(high_n / 2 - low_n / 2))
  rough = ColumnScales(shift_n, reach_n, np.zeros(n), constant_n, root_m)
  mean_n, square_n = _moments(design_mn, rows_m, rough)
  deviation_n = np.sqrt(np.maximum(square_n - mean_n**2, 0))
  factor_n = np.where(constant_n | (deviation_n == 0), 1.0, _power_of_two(deviation_n))
  return ColumnScales(shift_n, reach_n * factor_n, mean_n / factor_n, constant_n, root_m)


def unit_blocks(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales
) -> Iterator[tuple[slice, np.ndarray]]:
  """As `blocks`, of X shifted and scaled: bool stays so, else float64."""
  for part, block in blocks(design_mn, rows_m):
    if block.dtype != bool:
      block = (block.astype(np.float64) - columns.shift_n) / columns.scale_n
    yield part, block


def centred_blocks(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales
) -> Iterator[tuple[slice, np.ndarray]]:
  """As `unit_blocks`, less the means and times the roots of the weights; float64."""
  for part, block in unit_blocks(design_mn, rows_m, columns):
    yield part, scale_rows(block - columns.mean_n, part_of(columns.root_m, part))


def _moments(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and mean square of each column of `unit_blocks`, as float64[n]."""
  total_n = square_n = np.zeros(design_mn.shape[1])
  for part, block in unit_blocks(design_mn, rows_m, columns):
    root_m = part_of(columns.root_m, part)
    if root_m is None:
      total_n = total_n + block.sum(axis=0, dtype=np.float64)
    else:
      total_n = total_n + root_m**2 @ block
    if block.dtype != bool:
      block = scale_rows(block, root_m)
      square_n = square_n + np.einsum("mn,mn->n", block, block)
  return total_n / len(rows_m), square_n / len(rows_m)


def _power_of_two(values_n: np.ndarray) -> np.ndarray:
  """The power of two next to each value; 1 for 0."""
  mantissa_n, exponent_n = np.frexp(values_n)
  exponent_n = exponent_n - (mantissa_n < 0.5**0.5)
  return np.where(values_n > 0, np.ldexp(1.0, np.clip(exponent_n, -1074, 1023)), 1.0)
