"""Folders that a user names or links may hold other things, which all stay."""

import os
import pathlib

import pytest
from support import programs

from experiments.runtime import stages, workdir_models
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.storage import bank


def make_store(path: pathlib.Path) -> None:
  """A store of no model."""
  bank.open_store(path, num_targets=3, num_train=9, settings={})


def write(path: pathlib.Path) -> None:
  """A file that is not ours."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("precious")


def begin(folder: pathlib.Path, **options: str) -> Workdir:
  """Does what train_subsets does before the first model, where none is stored."""
  workdir = Workdir(str(folder), **options)
  with workdir.lock():
    stages.run(workdir, "stage", {}, dict)
    assert not workdir_models.exist(workdir)
    workdir_models.forget_empty_stores(workdir)
  return workdir


@pytest.mark.parametrize("name", ["thesis/c1.tex", ".git/HEAD", "note", "subsets/a.png"])
@pytest.mark.parametrize("place", ["outside", "inside", "linked"])
def test_a_bank_of_other_things_is_refused_in_one_line(tmp_path, name, place) -> None:
  mine, run = tmp_path / "mine", tmp_path / "run"
  write(mine / name)
  run.mkdir()
  (run / "stages").mkdir()
  if place == "inside":
    mine = mine.rename(run / "bank")
  elif place == "linked":
    (run / "bank").symlink_to(mine)
  before = programs.contents(tmp_path)
  options = {"bank_dir": str(mine)} if place == "outside" else {}
  with pytest.raises(WorkdirError, match="is not empty and holds no store") as caught:
    begin(run, **options)
  assert "\n" not in str(caught.value) and programs.contents(tmp_path) == before


def test_a_bank_inside_a_store_is_refused(tmp_path) -> None:
  begin(tmp_path / "one")
  make_store(tmp_path / "one" / "bank" / "subsets")
  before = programs.contents(tmp_path)
  with pytest.raises(WorkdirError, match="is not empty"):
    begin(tmp_path / "two", bank_dir=str(tmp_path / "one" / "bank" / "subsets"))
  with pytest.raises(WorkdirError, match="is not empty"):
    begin(tmp_path / "two", bank_dir=str(tmp_path / "one"))
  assert programs.contents(tmp_path) == before


@pytest.mark.parametrize("name", ["subsets", "held-out-32-1", "changes"])
def test_empty_stores_go_and_what_lies_beside_them_stays(tmp_path, name) -> None:
  mine = tmp_path / "mine"
  make_store(mine / name)
  make_store(mine / "imported")
  make_store(mine / "another")
  write(mine / "thesis" / "c1.tex")
  write(mine / ".git" / "HEAD")
  write(mine / "photos" / "manifest.json")
  begin(tmp_path / "run", bank_dir=str(mine))
  assert sorted(os.listdir(mine)) == [".git", "another", "imported", "photos", "thesis"]
  assert (mine / "thesis" / "c1.tex").read_text() == "precious"


def test_stores_on_another_disk_end_no_run(tmp_path) -> None:
  make_store(tmp_path / "disk" / "subsets")
  (tmp_path / "run" / "stages").mkdir(parents=True)
  (tmp_path / "run" / "bank").mkdir()
  (tmp_path / "run" / "bank" / "subsets").symlink_to(tmp_path / "disk" / "subsets")
  before = programs.contents(tmp_path / "disk")
  begin(tmp_path / "run")
  assert programs.contents(tmp_path / "disk") == before


@pytest.mark.parametrize("name", ["", "lost+found", ".0123456789ab.trial"])
def test_a_new_disk_is_a_place_for_stores(tmp_path, name) -> None:
  (tmp_path / "disk" / name).mkdir(parents=True)
  begin(tmp_path / "run", bank_dir=str(tmp_path / "disk"))
