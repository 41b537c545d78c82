"""Settings that are refused leave a workdir as it was."""

import pathlib
import shutil

import pytest
from absl.testing import flagsaver
from support import planted
from support.programs import TOY_OF_STORES as TOY
from support.programs import contents, start

from experiments import train_subsets
from experiments.config import presets
from experiments.ops import bank
from experiments.runtime import base_models, launcher
from jaxdm.training.trainer import Trainer


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> pathlib.Path:
  """A workdir with trained models, for tests that only read it."""
  folder = tmp_path_factory.mktemp("other") / "run"
  start(train_subsets.PROGRAM, folder, toy=TOY)
  return folder


def test_stores_that_refuse_settings_are_asked_before_these_are_recorded(
  other, tmp_path
) -> None:
  stores = pathlib.Path(shutil.copytree(other / "bank", tmp_path / "bank"))
  folder, given = tmp_path / "run", {"bank_dir": str(stores)}
  with pytest.raises(SystemExit, match="holds other models: seed: stored 0, asked 3"):
    start(train_subsets.PROGRAM, folder, toy=TOY | given, seed="3")
  assert not contents(folder / "stages") and not (folder / "places.json").exists()
  before = contents(stores / "subsets")
  start(train_subsets.PROGRAM, folder, toy=TOY | given)
  assert contents(stores / "subsets") == before


def test_merged_models_have_settings(other, tmp_path) -> None:
  """Those of the merge, which later commands need not repeat."""
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=TOY, do="merge", other=str(other))
  before = contents(folder)
  wrong = {"seed": "1", "train_per_class": "11"}
  with pytest.raises(SystemExit, match="--train_per_class: stored 12") as caught:
    start(train_subsets.PROGRAM, folder, toy=wrong)
  assert "--seed: stored 0, asked 1" in str(caught.value)
  assert "fingerprint" not in str(caught.value)
  assert contents(folder) == before
  start(train_subsets.PROGRAM, folder, toy={})
  assert contents(folder / "bank" / "subsets") == contents(other / "bank" / "subsets")


@pytest.mark.parametrize("stores_some", [False, True])
def test_a_run_that_fails_is_recorded_only_if_it_has_stored_models(
  tmp_path, monkeypatch, stores_some
) -> None:
  """Whatever models earlier runs have stored."""
  folder, record = tmp_path / "run", tmp_path / "run" / "stages" / "train_subsets.json"
  with planted.experiment(folder) as opened:
    train_subsets.main(opened)
  before, collect = record.read_bytes(), Trainer.collect

  def fails(self: Trainer, *args, **options) -> None:
    if stores_some:
      collect(self, *args, **options)
    raise ValueError("of this test")

  monkeypatch.setattr(Trainer, "collect", fails)
  with (
    planted.experiment(folder, num_models="180") as opened,
    pytest.raises(ValueError, match="of this test"),
  ):
    train_subsets.main(opened)
  assert (record.read_bytes() != before) == stores_some


@pytest.mark.parametrize("shard", [None, "1/2"])
def test_one_of_several_processes_that_fails_leaves_the_record_of_the_others(
  tmp_path, monkeypatch, shard
) -> None:
  folder, record = tmp_path / "run", tmp_path / "run" / "stages" / "train_subsets.json"

  def fails(*args, **options) -> None:
    raise ValueError("of this test")

  monkeypatch.setattr(base_models, "train_all", fails)
  monkeypatch.setattr(Trainer, "collect", fails)
  given = {"shard": shard} if shard else {}
  with pytest.raises(ValueError, match="of this test"):
    start(train_subsets.PROGRAM, folder, toy=TOY, **given)
  assert record.exists() == bool(shard)


def test_another_preset_before_the_first_model_is_taken_as_a_whole(
  tmp_path, monkeypatch
) -> None:
  """As by a run that is stopped, and begun again with another one."""
  folder = tmp_path / "run"

  def stops(*args, **options) -> None:
    raise KeyboardInterrupt

  monkeypatch.setattr(base_models, "train_all", stops)
  with pytest.raises(KeyboardInterrupt):
    start(train_subsets.PROGRAM, folder, toy=TOY)
  with flagsaver.as_parsed(workdir=str(folder)):
    before = launcher.open_run().experiment
  assert before.train.epochs == 1
  given = {"preset": "cifar10-fast", "dataset": "fashion"}
  with flagsaver.as_parsed(workdir=str(folder), **given):
    experiment = launcher.open_run().experiment
  preset = presets.PRESETS["cifar10-fast"]()
  assert experiment.train == preset.train and experiment.fit == preset.fit
  assert experiment.collect == preset.collect
