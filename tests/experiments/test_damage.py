"""The error of a damaged file says what to do, and that works."""

import copy
import errno
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import start

from experiments import brittleness, fit_datamodels, label_flip, report, train_subsets
from experiments.ops import bank, status
from experiments.runtime import damage
from jaxdm.storage import atomic_io, checksummed_json, zarr_arrays
from jaxdm.storage import store as store_lib

_REPAIR = "python -m experiments.ops.bank --do=repair --workdir=w removes"


def _halve(path: pathlib.Path) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
  ("file", "text"),
  [
    ("bank/subsets/manifest.json", _REPAIR),
    ("bank/changes/done/1-2.json", _REPAIR),
    ("base_models/record.json", _REPAIR),
    ("stages/fit_datamodels.json", "remove it, and run fit_datamodels again with the"),
    ("stages/explain_7.json", "remove it, and run explain_7 again with the settings"),
    ("places.json", "remove it, and name the files outside of the workdir again"),
    ("datamodels.parts/ab/plan.json", "remove w/datamodels.parts/ab, and the same"),
    ("datamodels", "python -m experiments.fit_datamodels --workdir=w makes it again"),
    ("targets.csv", "python -m experiments.train_subsets --workdir=w makes it again"),
    ("label_flip.csv", "python -m experiments.label_flip --workdir=w makes it again"),
    ("../elsewhere.json", ""),
  ],
)
def test_every_file_of_a_workdir_has_a_remedy(tmp_path, monkeypatch, file, text) -> None:
  monkeypatch.chdir(tmp_path)
  found = damage.remedy("w", str(tmp_path / "w" / file))
  assert (text in found) if text else not found


def test_stores_elsewhere_have_the_remedy_of_stores(tmp_path) -> None:
  with flagsaver.as_parsed(bank_dir=str(tmp_path / "disk")):
    found = damage.remedy(str(tmp_path / "w"), str(tmp_path / "disk" / "s" / "m.json"))
  assert "--do=repair" in found


def test_an_error_of_damage_is_copied_whole() -> None:
  error = checksummed_json.DamageError("a.json", "is missing")
  for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
    assert (str(same), str(same.path)) == ("a.json is missing", "a.json")


def test_the_error_of_a_damaged_array_is_short(tmp_path) -> None:
  columns = {"a": zarr_arrays.ArraySpec("float32", 3)}

  def opened() -> store_lib.Store:
    return store_lib.Store(tmp_path / "s", columns=columns, settings={})

  opened().write(0, {"a": np.ones((2, 3))})
  (tmp_path / "s" / "a" / "c" / "0" / "0").unlink()
  with pytest.raises(checksummed_json.DamageError, match="0/0.* is missing") as caught:
    opened().read("a", slice(0, 2))
  assert len(str(caught.value)) < 400 + len(str(tmp_path)) * 2
  _halve(tmp_path / "s" / "a" / "zarr.json")
  with pytest.raises(checksummed_json.DamageError, match="zarr.json is dam") as caught:
    opened()
  assert "tensorstore_spec" not in str(caught.value)
  assert caught.value.path == tmp_path / "s" / "a" / "zarr.json"


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch) -> None:
  def refuse(path: pathlib.Path) -> str:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))

  monkeypatch.setattr(atomic_io.epath.Path, "read_text", refuse, raising=False)
  monkeypatch.setattr(type(atomic_io.epath.Path("a")), "read_text", refuse)
  with pytest.raises(checksummed_json.StoreError, match="cannot be read") as caught:
    checksummed_json.read(atomic_io.epath.Path(tmp_path / "a.json"))
  assert not isinstance(caught.value, checksummed_json.DamageError)


def test_an_error_of_writing_names_the_file(tmp_path) -> None:
  path = atomic_io.epath.Path(tmp_path / "a.txt")
  with pytest.raises(OSError, match="a.txt"), atomic_io.writing(path):
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@pytest.mark.slow
@pytest.mark.parametrize(
  "file",
  [
    "bank/subsets/margins/zarr.json",
    "bank/subsets/manifest.json",
    "bank/subsets/done/00000000000001-16.json",
    "base_models/record.json",
    "base_models/close.npy",
  ],
)
def test_what_repair_removes_is_made_again(finished_copy, file) -> None:
  path = finished_copy / file
  whole = path.read_bytes()
  _halve(path)
  with pytest.raises(SystemExit, match=f"{path.name} is damaged: .*; .*--do=repair"):
    start(label_flip.PROGRAM, finished_copy, methods="close")
  start(bank.PROGRAM, finished_copy, do="repair")
  start(train_subsets.PROGRAM, finished_copy)
  if path.name in ("zarr.json", "close.npy"):  # The others say who wrote them.
    assert path.read_bytes() == whole
  start(report.PROGRAM, finished_copy)


@pytest.mark.slow
@pytest.mark.parametrize(
  "stage", [train_subsets.PROGRAM, fit_datamodels.PROGRAM, brittleness.PROGRAM]
)
def test_a_record_that_is_removed_is_made_again(finished_copy, stage) -> None:
  name = stage.main.__module__.rpartition(".")[2]
  table = (finished_copy / "brittleness.csv").read_bytes()
  record = finished_copy / "stages" / f"{name}.json"
  _halve(record)
  for program in (report.PROGRAM, bank.PROGRAM):
    with pytest.raises(SystemExit, match=f"damaged: .*; remove it, and run {name} again"):
      start(program, finished_copy)
  with (
    flagsaver.as_parsed(workdir=str(finished_copy)),
    pytest.raises(SystemExit, match="remove it, and run"),
  ):
    status.PROGRAM.start(["prog"])
  record.unlink()
  start(stage, finished_copy)
  start(report.PROGRAM, finished_copy)
  assert (finished_copy / "brittleness.csv").read_bytes() == table


@pytest.mark.slow
def test_changed_scores_of_models_on_all_data_are_not_used(finished_copy) -> None:
  path = finished_copy / "base_models" / "close.npy"
  whole = path.read_bytes()
  np.save(path, -np.load(path))
  with pytest.raises(SystemExit, match="close.npy is damaged: its digest.*--do=repair"):
    start(brittleness.PROGRAM, finished_copy, methods="close")
  start(bank.PROGRAM, finished_copy, do="repair")
  start(train_subsets.PROGRAM, finished_copy)
  assert path.read_bytes() == whole
  start(brittleness.PROGRAM, finished_copy, methods="close")


@pytest.mark.slow
def test_damaged_datamodels_are_made_again(finished_copy) -> None:
  for path in (finished_copy / "datamodels" / "d").iterdir():
    _halve(path)
  with pytest.raises(SystemExit, match="is not what fit_data.*; remove it.*fit_data"):
    start(report.PROGRAM, finished_copy)
  shutil.rmtree(finished_copy / "datamodels")
  start(fit_datamodels.PROGRAM, finished_copy)
  start(report.PROGRAM, finished_copy)
