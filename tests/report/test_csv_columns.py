import csv

import numpy as np
import pytest
from etils import epath
from support.pages import planted

from experiments.studies import efficiency, moments, planted_repairs, removal_curves
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.report import csv_columns, tables


def described(path: epath.Path) -> None:
  """Every column of a table has a meaning, in the table's order, beside the table."""
  with open(path, encoding="utf-8", newline="") as file:
    header = next(csv.reader(file))
  title, _, *lines = path.with_suffix(".columns.md").read_text().splitlines()
  assert title == f"# {path.name}"
  assert [line.split("`")[1] for line in lines] == header
  assert all(len(line.partition(": ")[2]) > 10 for line in lines)


def test_the_tables_of_the_library_are_described(tmp_path) -> None:
  made, folder = planted(), epath.Path(tmp_path)
  tables.write_examples(folder / "examples.csv", made.data)
  tables.write_targets(folder / "targets.csv", made.base_margins_rt, made.data)
  for name in ("brittleness", "label_flip"):
    tables.write_verdicts(
      folder / f"{name}.csv", made.searches["removed"], made.base_margins_rt, made.data
    )
  for name in csv_columns.PIPELINE:
    described(folder / f"{name}.csv")


@pytest.mark.parametrize(
  "name,header",
  [
    ("efficiency", efficiency.Point._fields),
    ("moments", moments.Point._fields),
    ("planted_repairs", planted_repairs.Row._fields),
    ("removal_curves", (*removal_curves.Row._fields, "target_source")),
    ("explain_7", ("change", "place", "index", "class", "source")),
  ],
)
def test_the_tables_of_studies_are_described(tmp_path, name, header) -> None:
  path = epath.Path(tmp_path / f"{name}.csv")
  tables.write_rows(path, header, [])
  described(path)


def test_verdicts_begin_with_their_own_fields() -> None:
  fields = [name for name in Verdict._fields if name != "examples"]
  assert list(csv_columns.VERDICT_FIELDS) == fields
  assert csv_columns.VERDICT_HEADER[: len(fields)] == tuple(fields)


def test_tables_without_a_description_have_no_dictionary(tmp_path) -> None:
  tables.write_rows(epath.Path(tmp_path / "mine.csv"), ("a",), [(np.pi,)])
  assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


@pytest.mark.slow
def test_all_tables_of_a_run_are_described(finished) -> None:
  paths = [*finished.glob("*.csv")]
  assert {path.stem for path in paths} == set(csv_columns.PIPELINE)
  for path in paths:
    described(epath.Path(path))
