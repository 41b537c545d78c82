"""Merges of workdirs that are whole, damaged, half copied, or of other settings."""

import pathlib
import shutil

import pytest
from support.programs import TOY_OF_STORES, contents, start

from experiments import train_subsets
from experiments.ops import bank

TOY = TOY_OF_STORES | {"num_models": "66"}  # In three chunks.


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> pathlib.Path:
  """A workdir with trained models, for tests that only read it."""
  folder = tmp_path_factory.mktemp("once") / "run"
  start(train_subsets.PROGRAM, folder, toy=TOY)
  return folder


@pytest.fixture
def other(once, tmp_path) -> pathlib.Path:
  """A copy of it."""
  return pathlib.Path(shutil.copytree(once, tmp_path / "other"))


def _merge(folder: pathlib.Path, other: pathlib.Path, **given: str) -> None:
  """Merges another workdir."""
  start(bank.PROGRAM, folder, toy=TOY, do="merge", other=str(other), **given)


@pytest.mark.parametrize(
  "given,message",
  [
    ({"seed": "1"}, "^error: --other=.*other .*--seed: stored 0, asked 1"),
    ({"held_out_seeds": "1"}, "--other=.* has models in held-out-66-1.*_seeds=2 adds"),
    ({"held_out_from": "70"}, "held-out-66-1.*--held_out_from=66 --held_out_seeds=2"),
  ],
)
def test_a_refused_merge_writes_nothing(other, tmp_path, given, message) -> None:
  before = contents(other)
  with pytest.raises(SystemExit, match=message):
    _merge(tmp_path / "run", other, **given)
  assert not contents(tmp_path / "run" / "bank")
  _merge(tmp_path / "run", other)
  subsets = pathlib.Path("bank/subsets")
  assert contents(tmp_path / "run" / subsets) == contents(other / subsets)
  assert contents(other) == before


def test_predictions_of_training_examples_need_the_flag(once, other, tmp_path) -> None:
  start(train_subsets.PROGRAM, other, toy={}, audit="true")
  with pytest.raises(SystemExit, match="has models in subsets-training.* --audit adds"):
    _merge(tmp_path / "run", other)
  _merge(tmp_path / "run", other, audit="true")
  # The other way round, nothing is missing.
  _merge(other, once)


def test_stores_without_models_are_left_out(other, tmp_path) -> None:
  for marker in (other / "bank" / "held-out-66-1" / "done").iterdir():
    marker.unlink()
  _merge(tmp_path / "run", other, held_out_seeds="1")
  stores = (tmp_path / "run" / "bank").glob("*/manifest.json")
  assert {path.parent.name for path in stores} == {"changes", "subsets"}


def test_what_is_not_whole_is_counted_and_all_else_is_merged(
  other, tmp_path, capsys
) -> None:
  """As in a copy that was made while models were added, or on a bad disk."""
  subsets = other / "bank" / "subsets"
  expected = contents(subsets)
  (subsets / "margins" / "c" / "0" / "0").unlink()
  masks = subsets / "masks" / "c" / "1" / "0"
  masks.write_bytes(masks.read_bytes()[:-1])
  [start_file, *_] = (other / "starts").iterdir()
  start_file.write_text("{")
  (other / "bank" / "held-out-66-1" / "manifest.json").unlink()
  with pytest.warns(UserWarning, match="this start is not counted"):
    _merge(tmp_path / "run", other)
  printed = capsys.readouterr().out
  assert "subsets: 1 chunks taken over\n2 chunks are incomplete or damaged" in printed
  assert "held-out-66-1 has no manifest.json, and is left out" in printed
  start(train_subsets.PROGRAM, tmp_path / "run", toy=TOY)
  merged = contents(tmp_path / "run" / "bank" / "subsets")
  arrays = {name for name in expected if "/c/" in name}
  assert {n: merged[n] for n in arrays} == {n: expected[n] for n in arrays}


def test_another_workdir_that_is_none_is_called_other(tmp_path) -> None:
  with pytest.raises(SystemExit, match="^error: --other=.*nowhere holds no models yet"):
    _merge(tmp_path / "run", tmp_path / "nowhere")
