"""Stores that do not exist: who makes them, and what all others say of them."""

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from support.programs import TOY_OF_STORES as TOY
from support.programs import contents, start

from experiments import audit, fit_datamodels, train_subsets
from experiments.ops import bank, toy_runs


@pytest.fixture(scope="module")
def once() -> Iterator[pathlib.Path]:
  """A workdir with trained models, for tests that only read it."""
  with tempfile.TemporaryDirectory() as folder:
    start(train_subsets.PROGRAM, f"{folder}/run", toy=TOY)
    yield pathlib.Path(folder) / "run"


@pytest.fixture
def folder(once, tmp_path) -> pathlib.Path:
  """A copy of it."""
  return pathlib.Path(shutil.copytree(once, tmp_path / "run"))


@pytest.mark.parametrize("more", [{"held_out_seeds": "3"}, {"audit": "true"}])
@pytest.mark.parametrize("doing", ["show", "verify"])
def test_what_only_reads_makes_no_store(folder, doing, more, capsys) -> None:
  """And counts no model where settings name a store that does not exist."""
  before = contents(folder)
  start(bank.PROGRAM, folder, toy={}, do=doing, **more)
  assert contents(folder) == before
  name = "subsets-training" if "audit" in more else "held-out-20-2"
  shown = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
  expected = [name, "0", "24" if "audit" in more else "4"]
  assert (expected in shown) == (doing == "show")


def test_what_needs_a_store_names_the_program_that_makes_it(folder) -> None:
  before = contents(folder / "bank")
  with pytest.raises(SystemExit, match="no store held-out-20-2; run .*train_subsets"):
    start(fit_datamodels.PROGRAM, folder, toy={}, held_out_seeds="3")
  with pytest.raises(SystemExit, match="predictions of 24 of 24 models.*--audit"):
    start(audit.PROGRAM, folder, toy={}, audit="true")
  assert contents(folder / "bank") == before


@pytest.mark.parametrize("place", ["inside", "elsewhere", "empty"])
def test_lost_models_are_not_trained_again_unseen(folder, tmp_path, place) -> None:
  """Wherever the stores were; on a disk that is not mounted they are not lost."""
  stores, given = folder / "bank", {}
  if place != "inside":
    stores = stores.rename(tmp_path / "disk")
    given["bank_dir"] = str(stores)
    start(train_subsets.PROGRAM, folder, toy={}, **given)  # It remembers the place.
  expected = toy_runs.files(stores)
  stores.rename(tmp_path / "unmounted")
  if place == "empty":
    stores.mkdir()
  programs = fit_datamodels, train_subsets, train_subsets
  for program in [p.PROGRAM for p in programs]:
    with pytest.raises(SystemExit, match="mount its disk; or"):
      start(program, folder, toy=TOY)
    assert {path.name for path in stores.glob("*")} <= {".lock"}
  # The one step that has them trained again, in a folder that exists.
  stores.mkdir(exist_ok=True)
  start(bank.PROGRAM, folder, toy={}, do="repair")
  start(train_subsets.PROGRAM, folder, toy={})
  assert toy_runs.files(stores).keys() == expected.keys()
