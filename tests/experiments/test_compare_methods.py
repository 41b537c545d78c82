"""Comparisons over the tables of several workdirs."""

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from support.pages import verdict

import jaxdm
from experiments.studies import compare_methods
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


def test_targets_of_another_table_are_other_targets(paths, capsys) -> None:
  for chosen, wins in ((paths, 4), (paths[:1] * 2, 8), (paths[1:], 0)):
    with flagsaver.flagsaver(tables=chosen, pairs=["b:a"]):
      compare_methods.main([""])
    [_, line] = capsys.readouterr().out.splitlines()
    p = 2 / 2**wins if wins else 1
    assert sorted(line.split()[:2]) == ["a", "b"]
    assert line.split()[2:] == [str(wins), "0", f"{p:.2g}"]


@pytest.mark.parametrize("pair", ["a:c", "a", "a:a"])
def test_pairs_must_be_two_methods_of_the_tables(paths, pair) -> None:
  message = f"--pairs must be FIRST:SECOND, two of a, b, got '{pair}'"
  with (
    flagsaver.flagsaver(tables=paths, pairs=[pair]),
    pytest.raises(SystemExit, match=message),
  ):
    compare_methods.main([""])
