"""Some rows of a store's array, as a matrix that is read where it is indexed."""

from typing import Any

import numpy as np

from jaxdm.storage.store import Store


class MatrixView:
  """Some rows of one of a store's arrays, which are read when they are indexed.

  Attributes:
    shape: (rows, columns).
    ndim: 2.
  """

  ndim = 2

  def __init__(
    self, store: Store, name: str, rows: np.ndarray, columns: range | None = None
  ):
    """Reads nothing yet.

    Args:
      store: where they are.
      name: of the array.
      rows: int, their numbers.
      columns: a part of the columns; None: all.
    """
    self._store, self._name, self._rows = store, name, rows
    self._columns = range(store.columns[name].width) if columns is None else columns
    self.shape = len(rows), len(self._columns)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, key: Any) -> np.ndarray:
    rows, columns = key if isinstance(key, tuple) else (key, slice(None))
    start, stop, step = columns.indices(len(self._columns))
    if step != 1:
      raise IndexError(f"columns must be neighbours, got {columns}")
    first = self._columns.start
    return self._store.read(
      self._name, self._rows[rows], slice(first + start, first + stop)
    )

  def take(self, rows: np.ndarray) -> "MatrixView":
    """Some of the rows."""
    return MatrixView(self._store, self._name, self._rows[rows], self._columns)

  def identity(self) -> dict[str, Any]:
    """For `identity.digest`: which numbers these are; see `Store.identity`."""
    place = {"array": self._name, "columns": self._columns}
    return place | self._store.identity(self._rows)
