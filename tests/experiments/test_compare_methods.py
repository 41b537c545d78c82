"""Comparisons over the tables of several workdirs."""

import pathlib

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from support.pages import verdict

import jaxdm
from experiments.studies import compare_methods
from jaxdm.brittleness import comparison
from jaxdm.report import tables


@pytest.fixture
def paths(tmp_path) -> list[str]:
  """Two tables with the same targets; "a" needs fewer examples in the first one."""
  data = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 5, 5)
  found = []
  for number, sizes in enumerate(({"a": 1, "b": 2}, {"a": 3, "b": 3})):
    path = epath.Path(tmp_path / f"{number}.csv")
    verdicts = [verdict(t, name, k) for name, k in sizes.items() for t in range(4)]
    tables.write_verdicts(path, verdicts, np.ones((2, 10)), data)
    found.append(str(path))
  return found


def _line(capsys, chosen: list[str], pair: str) -> list[str]:
  with flagsaver.flagsaver(tables=chosen, pairs=[pair]):
    compare_methods.main([""])
  [_, line] = capsys.readouterr().out.splitlines()
  return line.split()


def test_an_image_counts_once(paths, capsys) -> None:
  """In both tables "a" is ahead on all images of the first one, the second has ties."""
  for chosen, wins in ((paths, 4), (paths[:1], 4), (paths[1:], 0)):
    line = _line(capsys, chosen, "b:a")
    p = 2 / 2**wins if wins else 1
    assert sorted(line[:2]) == ["a", "b"]
    assert line[2:] == [str(wins), "0", f"{p:.2g}"]


def test_an_image_counts_for_the_method_that_is_ahead_in_more_tables() -> None:
  sizes = {("x", 0): (1, 2), ("x", 1): (1, 2), ("x", 2): (3, 2), ("y", 0): (2, 1)}
  sizes |= {("z", 0): (1, 2), ("z", 1): (2, 1)}
  images = [image for image, _ in sizes]
  verdicts = [
    verdict(t, name, k)
    for t, both in enumerate(sizes.values())
    for name, k in zip("ab", both, strict=True)
  ]
  [one] = comparison.compare_methods(verdicts, [("a", "b")], images.__getitem__)
  assert (one.wins, one.losses, one.p) == (1, 1, 1)  # x and y; z is even.
  [each] = comparison.compare_methods(verdicts, [("a", "b")])
  assert (each.wins, each.losses) == (3, 3)


def test_removals_and_label_changes_of_repairs_are_other_methods(paths, capsys) -> None:
  path = pathlib.Path(paths[0])
  header, *rows = path.read_text().splitlines()
  changes = [f"removal,{row}" for row in rows] + [f"relabel,{row}" for row in rows]
  path.write_text("\n".join([f"change,{header}", *changes, ""]))
  assert _line(capsys, paths[:1], "relabel/b:removal/a")[2:4] == ["4", "0"]


def test_nothing_counts_twice(paths) -> None:
  row = pathlib.Path(paths[1]).read_text().splitlines()[1]
  with open(paths[1], "a") as file:
    file.write(f"{row}\n")
  for chosen, message in (
    ([paths[0], paths[0].replace("0.csv", "./0.csv")], "is named twice"),
    (paths, "1.csv has several rows of one target and method"),
  ):
    with (
      flagsaver.flagsaver(tables=chosen, pairs=["a:b"]),
      pytest.raises(SystemExit, match=message),
    ):
      compare_methods.main([""])


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_without_rows_is_no_search(paths, rows) -> None:
  path = pathlib.Path(paths[0])
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))
  with (
    flagsaver.flagsaver(tables=paths),
    pytest.raises(SystemExit, match="0.csv (is damaged: it is empty|has no rows)"),
  ):
    compare_methods.main([""])


@pytest.mark.parametrize("pair", ["a:c", "a", "a:a"])
def test_pairs_must_be_two_methods_of_the_tables(paths, pair) -> None:
  message = f"--pairs must be FIRST:SECOND, two of a, b, got '{pair}'"
  with (
    flagsaver.flagsaver(tables=paths, pairs=[pair]),
    pytest.raises(SystemExit, match=message),
  ):
    compare_methods.main([""])
