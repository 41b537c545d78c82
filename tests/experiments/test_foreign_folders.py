"""Folders that a user names or links may hold other things, which all stay."""

import errno
import functools
import os
import pathlib

import numpy as np
import pytest
from etils import epath
from support import programs
from support.unreadable import make_unreadable

from experiments.ops import bank as bank_launcher
from experiments.runtime import stages, unfinished, workdir_models
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.errors import UserError
from jaxdm.storage import bank, checkpoint, removal, step_checkpoints


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
  names = sorted(name for name in os.listdir(mine) if name != ".lock")
  assert names == [".git", "another", "imported", "photos", "thesis"]
  assert (mine / "thesis" / "c1.tex").read_text() == "precious"


def test_stores_on_another_disk_end_no_run(tmp_path) -> None:
  make_store(tmp_path / "disk" / "subsets")
  (tmp_path / "run" / "stages").mkdir(parents=True)
  (tmp_path / "run" / "bank").mkdir()
  (tmp_path / "run" / "bank" / "subsets").symlink_to(tmp_path / "disk" / "subsets")
  before = programs.contents(tmp_path / "disk")
  begin(tmp_path / "run")
  assert programs.contents(tmp_path / "disk") == before


@pytest.mark.parametrize("file", ["", "manifest.json", "margins/zarr.json"])
def test_a_store_that_another_process_begins_is_none_of_others(tmp_path, file) -> None:
  (tmp_path / "disk" / "subsets").mkdir(parents=True)
  if file:
    write(tmp_path / "disk" / "subsets" / file)
  Workdir(str(tmp_path / "run"), bank_dir=str(tmp_path / "disk"))


@pytest.mark.parametrize("name", ["", "lost+found", ".0123456789ab.trial"])
def test_a_new_disk_is_a_place_for_stores(tmp_path, name) -> None:
  (tmp_path / "disk" / name).mkdir(parents=True)
  begin(tmp_path / "run", bank_dir=str(tmp_path / "disk"))


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_stored_nothing_can_be_started_again(tmp_path, count) -> None:
  """Its locks are all that it has left in the folder of stores."""
  for _ in range(2):
    workdir = Workdir(str(tmp_path / "run"), bank_dir=str(tmp_path / "disk"))
    with workdir.lock(0, count):
      assert sorted(os.listdir(tmp_path / "disk"))[0] == ".lock"


STATE = "0123456789abcdef" * 2


def workdir_with_checkpoints(tmp_path: pathlib.Path, *, is_linked: bool) -> Workdir:
  """A workdir whose folder of states, if linked, is on another disk."""
  workdir = Workdir(str(tmp_path / "run"))
  (tmp_path / "run").mkdir()
  if is_linked:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "scratch")
  return workdir


@pytest.mark.parametrize("is_linked", [True, False])
def test_states_go_and_what_lies_beside_them_stays(tmp_path, is_linked) -> None:
  """A folder of states may be a link to a disk that others use as well."""
  workdir = workdir_with_checkpoints(tmp_path, is_linked=is_linked)
  for index in range(2):
    folder = unfinished.checkpoint_folder(workdir, index, 2)
    step_checkpoints.Checkpoints(folder, 1.0).write_state(STATE, 3, np.arange(4))
    assert (folder / STATE).exists()
  folder = tmp_path / "run" / "checkpoints"
  mine = [folder / name for name in ("thesis", "host-0-of-2/note", f"{STATE}/a", "x/b")]
  for path in mine:
    write(path)
  (folder / "host-1-of-2" / "link").symlink_to(tmp_path)
  unfinished.remove_checkpoints(workdir)
  found = {path for path in folder.rglob("*") if path.is_file()}
  assert found == set(mine) and folder.is_symlink() == is_linked
  assert (folder / "host-1-of-2" / "link").is_symlink()


@pytest.mark.parametrize("is_linked", [True, False])
def test_without_anything_else_no_state_leaves_a_folder(tmp_path, is_linked) -> None:
  workdir = workdir_with_checkpoints(tmp_path, is_linked=is_linked)
  folder = unfinished.checkpoint_folder(workdir, 0, 1)
  step_checkpoints.Checkpoints(folder, 1.0).write_state(STATE, 3, np.arange(4))
  unfinished.remove_checkpoints(workdir)
  assert (tmp_path / "run" / "checkpoints").exists() == is_linked
  assert not is_linked or not os.listdir(tmp_path / "scratch")


def test_two_processes_may_remove_the_same_folder(tmp_path, monkeypatch) -> None:
  root = tmp_path / "states"
  for name in ("0", "1/a", "1/b"):
    write(root / name)

  def first(function, path) -> None:  # The other process is always faster.
    function(path)
    function(path)

  for name in ("unlink", "rmdir"):
    monkeypatch.setattr(os, name, functools.partial(first, getattr(os, name)))
  is_own = removal.matching(r"\d", r"\d/", r"\d/\w")
  assert removal.remove_own(epath.Path(root), is_own)
  assert not root.exists()


def test_parts_go_and_what_lies_beside_them_stays(tmp_path) -> None:
  workdir = Workdir(str(tmp_path / "run"))
  (tmp_path / "disk").mkdir()
  workdir.path.mkdir()
  (tmp_path / "run" / "some.parts").symlink_to(tmp_path / "disk")
  own = [f"{STATE[:16]}/{name}" for name in ("plan.json", "manifest.json", "0-1.npz")]
  for name in [*own, "thesis", "x/plan.json", f"{STATE[:15]}0/note"]:
    write(tmp_path / "run" / "some.parts" / name)
  unfinished.remove_parts(workdir, "some.parts")
  assert programs.contents(tmp_path / "disk").keys() == {
    "thesis",
    "x/plan.json",
    f"{STATE[:15]}0/note",
  }


def test_a_linked_checkpoint_is_replaced_where_it_is(tmp_path) -> None:
  (tmp_path / "disk").mkdir()
  write(tmp_path / "disk" / "thesis")
  (tmp_path / "fit").symlink_to(tmp_path / "disk" / "fit")
  for value in range(2):
    checkpoint.save(tmp_path / "fit", {"x": np.full(3, value)}, overwrite=True)
  assert (checkpoint.load(tmp_path / "fit")["x"] == 1).all()
  assert (tmp_path / "fit").is_symlink()
  assert sorted(os.listdir(tmp_path / "disk")) == ["fit", "thesis"]


def test_a_checkpoint_with_other_files_is_not_overwritten(tmp_path) -> None:
  checkpoint.save(tmp_path / "fit", {"x": np.zeros(3)})
  write(tmp_path / "fit" / "notes" / "thesis")
  with pytest.raises(UserError, match="holds notes/thesis beside a checkpoint"):
    checkpoint.save(tmp_path / "fit", {"x": np.ones(3)}, overwrite=True)
  assert (tmp_path / "fit" / "notes" / "thesis").exists()
  assert (checkpoint.load(tmp_path / "fit")["x"] == 0).all()


@pytest.mark.parametrize("file", ["manifest.json", "masks/c/0/0", "done"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_repair_stops_at_what_cannot_be_read(
  tmp_path, monkeypatch, file, number
) -> None:
  workdir = begin(tmp_path / "run")
  store = bank.open_store(
    workdir.bank / "imported", num_targets=3, num_train=9, settings={}
  )
  for chunk in range(2):
    bank.write(store, chunk, np.eye(4, 9, dtype=bool), np.ones((4, 3), np.float32))
  (tmp_path / "run/bank/imported/masks/c/1/0").write_text("damaged")
  before = programs.contents(tmp_path)
  source = bank_launcher.ImportedWorkdir(workdir)
  with monkeypatch.context() as patch:
    make_unreadable(patch, tmp_path / "run/bank/imported" / file, number)
    with pytest.raises((UserError, OSError), match=os.strerror(number)):
      bank_launcher.check(source, repair=True)
  assert programs.contents(tmp_path) == before
  bank_launcher.check(source, repair=True)
  gone = before.keys() - programs.contents(tmp_path).keys()
  assert {pathlib.PurePath(name).name for name in gone} == {"0", "00000000000001-4.json"}


def test_a_bank_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch) -> None:
  begin(tmp_path / "run")
  make_unreadable(monkeypatch, tmp_path / "run" / "bank", errno.EACCES)
  with pytest.raises(WorkdirError, match="bank cannot be read: .*Permission denied"):
    Workdir(str(tmp_path / "run"))


@pytest.mark.parametrize("is_linked", [True, False])
def test_stores_that_cannot_be_looked_at_are_not_lost(tmp_path, is_linked) -> None:
  """A link to itself is an error of the system to all users, also to root."""
  workdir = begin(tmp_path / "run")
  with workdir.lock():
    stages.run(workdir, "train_subsets", {}, dict)
  (workdir.bank / "subsets").mkdir(parents=True)
  if is_linked:
    os.symlink("manifest.json", workdir.bank / "subsets" / "manifest.json")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
      workdir_models.are_lost(workdir)
  else:
    assert workdir_models.are_lost(workdir)


def test_a_folder_of_others_that_cannot_be_listed_hides_no_store(
  tmp_path, monkeypatch
) -> None:
  workdir = begin(tmp_path / "run")
  with workdir.lock():
    stages.run(workdir, "train_subsets", {}, dict)
  make_store(tmp_path / "run" / "bank" / "subsets")
  write(tmp_path / "run" / "bank" / "lost+found" / "note")
  make_unreadable(monkeypatch, tmp_path / "run" / "bank" / "lost+found", errno.EACCES)
  assert not workdir_models.are_lost(workdir)
