"""Values of cells of CSV files, as they were written and in no other form."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxdm.storage.checksummed_json import DamageError

_TRUTHS = {"True": True, "False": False}


def fault(path: epath.Path, row: int, column: str, what: str) -> DamageError:
  """The error of a cell.

  Args:
    path: of the table.
    row: its place among the rows without the header, from 0.
    column: the name of the column.
    what: is wrong with it.
  """
  # As spreadsheets count: from 1, and with the header.
  where = f"row {row + 2}, column {column}"
  return DamageError(path, f"is not as it was written: {where}: {what}")


def parse_column(
  path: epath.Path, rows: Sequence[Mapping[str, str]], column: str, kind: Any
) -> list[Any]:
  """The values of a column.

  Args:
    path: of the table, for errors.
    rows: of the table.
    column: its name.
    kind: str, bool, int, float or float | None; `tuple`: of integers.

  Raises:
    DamageError: at the first cell that holds no such value, in the form that it is
      written in: spreadsheets write TRUE for True, and some 0,5 for 0.5.
  """
  values = []
  for number, row in enumerate(rows):
    try:
      values.append(_PARSERS[kind](row[column]))
    except ValueError as error:
      raise fault(path, number, column, f"{error}, got {row[column][:60]!r}") from None
  return values


def _truth(text: str) -> bool:
  """True or False."""
  if text not in _TRUTHS:
    raise ValueError("must be True or False")
  return _TRUTHS[text]


def _integer(text: str) -> int:
  """An integer, in digits."""
  if not re.fullmatch(r"-?[0-9]+", text):
    raise ValueError("must be an integer")
  return int(text)


def _number(text: str) -> float:
  """A number with a decimal point, infinity or NaN."""
  if not re.fullmatch(r"-?([0-9.]+(e[+-]?[0-9]+)?|inf|nan)", text):
    raise ValueError("must be a number, with a decimal point")
  return float(text)


_PARSERS: dict[Any, Callable[[str], Any]] = {
  str: str,
  bool: _truth,
  int: _integer,
  float: _number,
  float | None: lambda text: _number(text) if text else None,
  tuple: lambda text: tuple(map(_integer, text.split())),
}
