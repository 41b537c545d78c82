"""Examples, targets and verdicts as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm.brittleness import verdicts as verdicts_lib
from jaxdm.brittleness.targets import right_targets
from jaxdm.data.dataset import Dataset
from jaxdm.report import csv_cells, csv_columns
from jaxdm.storage import atomic_io
from jaxdm.storage.checksummed_json import DamageError

_OF_EXAMPLES = ("labels", "sources")


def read_rows(path: epath.Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
  """The rows of a table by the names of its columns.

  Args:
    path: of the table.
    columns: that it must have.

  Raises:
    DamageError: if it is not there or no table that `write_rows` wrote: with a cell for
      each column in each row, and nothing cut off its end.
    OSError: if it cannot be read.
  """
  text = _read_text(path)
  try:
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
  except csv.Error as error:
    raise DamageError(path, f"is damaged: {error}") from error
  if lacking := [name for name in columns if name not in header]:
    raise DamageError(
      path, f"is no such table: it lacks the columns {', '.join(lacking)} (with commas)"
    )
  for number, row in enumerate(rows, 2):
    if len(row) != len(header):
      raise DamageError(
        path, f"is damaged: row {number} has {len(row)} cells for {len(header)} columns"
      )
  if not text.endswith("\n"):
    raise DamageError(path, "is damaged: its last row has no end, and may be cut")
  return [dict(zip(header, row, strict=True)) for row in rows]


def _read_text(path: epath.Path) -> str:
  """A table's text; see `read_rows`."""
  try:
    with open(path, encoding="utf-8", newline="") as file:
      text = file.read()
  except FileNotFoundError as error:
    raise DamageError(path, "is missing") from error
  except IsADirectoryError as error:
    raise DamageError(path, "is missing: a folder is in its place") from error
  except UnicodeDecodeError as error:
    raise DamageError(path, f"is damaged: it is no UTF-8 text ({error})") from error
  if not text:
    raise DamageError(path, "is damaged: it is empty")
  if text.startswith("\ufeff"):
    raise DamageError(
      path,
      "is not as it was written: it begins with a byte order mark, which some "
      "spreadsheets add; save it as UTF-8 without one",
    )
  return text


def write_rows(
  path: epath.Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
  """Writes a table, whole or not at all, and beside it what its columns mean."""
  if text_of := csv_columns.dictionary(path.stem, header):
    with atomic_io.writing(path.with_suffix(".columns.md"), "w") as file:
      file.write(text_of)
  with atomic_io.writing(path, "w") as file:
    for cells in (header, *rows):
      file.write(_line(cells))


def files_of(table: str) -> tuple[str, ...]:
  """The names of the files that `write_rows` writes of the table with this name."""
  names = f"{table}.csv", f"{table}.columns.md"
  return names if csv_columns.dictionary(table, ()) else names[:1]


def _line(cells: Sequence[Any]) -> str:
  """A line of a table; cells that hold line ends of any kind are quoted."""
  buffer = io.StringIO()
  # A writer is only sure to quote the characters that end its own lines.
  csv.writer(buffer, lineterminator="\r\n").writerow(cells)
  return buffer.getvalue().removesuffix("\r\n") + "\n"


def write_examples(path: epath.Path, dataset: Dataset) -> None:
  """Writes where every training example and target came from, a row each.

  Args:
    path: of the CSV file.
    dataset: whose indices all other tables use.
  """
  rows = []
  for split in ("train", "test"):
    labels, sources = (getattr(dataset, f"{split}_{name}") for name in _OF_EXAMPLES)
    for index, (label, source) in enumerate(zip(labels, sources, strict=True)):
      rows.append((split, index, dataset.class_names[label], label, source))
  write_rows(path, ("split", "index", "class", "label", "source"), rows)


def write_verdicts(
  path: epath.Path,
  verdicts: Sequence[verdicts_lib.Verdict],
  base_margins_rt: np.ndarray,
  dataset: Dataset,
) -> None:
  """Writes verdicts with what is needed to read and to replay them.

  Args:
    path: of the CSV file.
    verdicts: what was found.
    base_margins_rt: float, margins of r models on all data.
    dataset: the examples and targets.
  """
  rows = [verdict_row(verdict, base_margins_rt, dataset) for verdict in verdicts]
  write_rows(path, csv_columns.VERDICT_HEADER, rows)


def verdict_row(
  verdict: verdicts_lib.Verdict, base_margins_rt: np.ndarray, dataset: Dataset
) -> tuple[Any, ...]:
  """A verdict's cells, under `csv_columns.VERDICT_HEADER`.

  Its `examples` are the ranking, of which the first `k_tried` were changed. Those are
  `changed`, with `changed_classes` and `changed_sources`, JSON lists.
  """
  base_r = base_margins_rt[:, verdict.target]
  return csv_columns.verdict_cells(csv_columns.VerdictRow(verdict, base_r, dataset))


def write_targets(
  path: epath.Path, base_margins_rt: np.ndarray, dataset: Dataset
) -> None:
  """Writes what models on all data make of every target, a row each.

  Args:
    path: of the CSV file.
    base_margins_rt: float, margins of r models on all data.
    dataset: whose targets they are.
  """
  right = right_targets(base_margins_rt)
  rows = []
  for target, margins in enumerate(base_margins_rt.T):
    name = dataset.class_names[dataset.test_labels[target]]
    accuracy, mean = float((margins > 0).mean()), float(margins.mean())
    values = accuracy, mean, bool(right[target]), dataset.test_sources[target]
    rows.append((target, name, *values))
  header = ("target", "class", "base_accuracy", "base_mean_margin", "right", "source")
  write_rows(path, header, rows)


def read_verdicts(
  path: epath.Path,
) -> list[verdicts_lib.Verdict]:
  """Verdicts that `write_verdicts` wrote.

  Raises:
    DamageError: if the file is not there, or not as `write_verdicts` writes it.
  """
  annotations = verdicts_lib.Verdict.__annotations__
  # Tables of earlier versions lack columns of which verdicts have defaults.
  needed = [n for n in annotations if n not in verdicts_lib.Verdict._field_defaults]
  rows = read_rows(path, [*needed, "examples"])
  fields = {
    name: csv_cells.parse_column(path, rows, name, annotations[name])
    for name in csv_columns.VERDICT_FIELDS
    if rows and name in rows[0]
  }
  if rows:
    fields["examples"] = csv_cells.parse_column(path, rows, "examples", tuple)
  columns = zip(*fields.values(), strict=True)
  return [
    verdicts_lib.Verdict(**dict(zip(fields, values, strict=True))) for values in columns
  ]


def read_wrong_targets(path: epath.Path) -> list[dict[str, str]]:
  """The rows that `write_targets` wrote of targets that models on all data get wrong.

  Raises:
    DamageError: if the file is not there, or not as `write_targets` writes it.
  """
  rows = read_rows(path, csv_columns.COLUMNS["targets"])
  right = csv_cells.parse_column(path, rows, "right", bool)
  return [row for row, is_right in zip(rows, right, strict=True) if not is_right]


def read_audit(path: epath.Path) -> list[dict[str, str]]:
  """The rows of an audit's table, in which every number is one.

  Raises:
    DamageError: if the file is not there, or not as an audit writes it.
  """
  rows = read_rows(path, csv_columns.COLUMNS["audit"])
  for column in csv_columns.COLUMNS["audit"]:
    if column in ("index", "models_in", "models_out"):
      csv_cells.parse_column(path, rows, column, int)
    elif column not in ("source", "label", "suggested_label"):
      csv_cells.parse_column(path, rows, column, float | None)
  return rows
