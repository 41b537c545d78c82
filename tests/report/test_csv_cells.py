"""Tables that other programs have written, or that were cut, are refused by name."""

import csv
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
from etils import epath
from support.pages import planted

from jaxdm.errors import UserError
from jaxdm.report import csv_cells, csv_columns, tables


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
  """A table of verdicts."""
  made, found = planted(), tmp_path / "found.csv"
  verdicts = made.searches["removed"]
  tables.write_verdicts(epath.Path(found), verdicts, made.base_margins_rt, made.data)
  return found


def _edit(path: pathlib.Path, column: str, change: Callable[[str], str]) -> str:
  """Changes the third row's cell of a column; returns what it is now."""
  with open(path, newline="", encoding="utf-8") as file:
    rows = list(csv.reader(file))
  place = rows[0].index(column)
  rows[3][place] = change(rows[3][place])
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
  return rows[3][place]


@pytest.mark.parametrize(
  ("column", "change", "message"),
  [
    ("censored", str.upper, "must be True or False"),
    ("finished", lambda _: "1", "must be True or False"),
    ("is_repair", lambda _: "", "must be True or False"),
    ("k", lambda text: f"{text}.0", "must be an integer"),
    ("k_tried", lambda _: "1_0", "must be an integer"),
    ("target", lambda text: f" {text}", "must be an integer"),
    ("margin_low", lambda _: "-0,5", "must be a number, with a decimal point"),
    ("skewness", lambda _: "unknown", "must be a number, with a decimal point"),
    ("accuracy", lambda _: "", "must be a number, with a decimal point"),
    ("examples", lambda text: text.replace(" ", ";"), "must be an integer"),
  ],
)
def test_cells_that_were_not_written_so_are_named(path, column, change, message) -> None:
  got = _edit(path, column, change)
  expected = f"row 4, column {column}: {message}, got {got[:60]!r}"
  with pytest.raises(UserError, match=re.escape(expected)):
    tables.read_verdicts(epath.Path(path))


def test_cells_of_all_kinds_are_read_as_they_were_written(path) -> None:
  _edit(path, "skewness", lambda _: "")
  _edit(path, "margin_low", lambda _: "-inf")
  _edit(path, "margin_high", lambda _: "1.5e-07")
  _edit(path, "largest_margin", lambda _: "nan")
  one = tables.read_verdicts(epath.Path(path))[2]
  assert one.skewness is None and one.margin_low == -np.inf
  assert one.margin_high == 1.5e-07 and np.isnan(one.largest_margin)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda content: b"", "is damaged: it is empty"),
    (lambda content: b"[1]", "lacks the columns target, method"),
    (lambda content: b"\xef\xbb\xbf" + content, "a byte order mark"),
    (lambda content: content.decode().encode("utf-16"), "no UTF-8 text"),
    (lambda content: content.replace(b",", b";"), "lacks the columns target.*commas"),
    (lambda content: content[:-1], "its last row has no end"),
    (lambda content: content[: len(content) // 2], "is damaged"),
    (lambda content: content + b"\n", "row [0-9]+ has 0 cells for"),
    (lambda content: content[:-1] + b",x\n", "row [0-9]+ has 2[0-9] cells for"),
  ],
)
def test_what_is_no_table_says_why(path, damage, message) -> None:
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError, match=f"found.csv .*{message}"):
    tables.read_verdicts(epath.Path(path))


def test_spreadsheets_may_end_lines_in_their_way(path) -> None:
  before = repr(tables.read_verdicts(epath.Path(path)))  # Some are NaN.
  path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
  assert repr(tables.read_verdicts(epath.Path(path))) == before


def test_targets_are_right_or_wrong_and_nothing_else(tmp_path) -> None:
  made, path = planted(), tmp_path / "targets.csv"
  base = made.base_margins_rt.copy()
  base[:, 2] = -1
  tables.write_targets(epath.Path(path), base, made.data)
  wrong = [row["target"] for row in tables.read_wrong_targets(epath.Path(path))]
  means = base.mean(axis=0)
  assert "2" in wrong and {int(t) for t in wrong} >= set(np.flatnonzero(means <= 0))
  path.write_text(path.read_text().replace("True", "TRUE"))
  with pytest.raises(UserError, match="column right: must be True or False, got 'TRUE'"):
    tables.read_wrong_targets(epath.Path(path))


def test_numbers_of_an_audit_are_checked(tmp_path) -> None:
  path, columns = epath.Path(tmp_path / "audit.csv"), list(csv_columns.COLUMNS["audit"])
  row = dict.fromkeys(columns, "0.5") | {"index": 0, "models_in": 2, "models_out": 3}
  row |= {"label": "a", "suggested_label": "b", "source": "c", "stand_in": "4"}
  tables.write_rows(path, columns, [list(row.values())])
  assert tables.read_audit(path) == [{name: str(v) for name, v in row.items()}]
  tables.write_rows(path, columns, [list((row | {"support_low": "0,5"}).values())])
  with pytest.raises(UserError, match="row 2, column support_low: must be a number"):
    tables.read_audit(path)


def test_the_error_of_a_cell_counts_rows_as_spreadsheets_do() -> None:
  error = csv_cells.fault(epath.Path("a.csv"), 0, "k", "is odd")
  assert str(error) == "a.csv is not as it was written: row 2, column k: is odd"
