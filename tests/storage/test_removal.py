import os
import pathlib
import re

import pytest
from etils import epath

from jaxdm.storage import maintenance, removal, zarr_arrays
from jaxdm.storage import store as store_lib

ROOT = pathlib.Path(__file__).parents[2]


def own(path: str) -> bool:
  return removal.matching("a/", r"a/\d+", "b/")(path)


def write(path: pathlib.Path, text: str = "precious") -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return path


def make_store(path: pathlib.Path) -> store_lib.Store:
  """A store without any chunk."""
  columns = {"margins": zarr_arrays.ArraySpec("float32", 3)}
  return store_lib.Store(path, columns=columns, settings={}, rows_per_chunk=4)


def test_what_is_known_goes_and_all_else_stays(tmp_path) -> None:
  folder = tmp_path / "x"
  for name in ("a/1", "a/2.0123456789ab.partial", "a/.1", "a/x", "c/1"):
    write(folder / name)
  (folder / "b").mkdir()
  assert not removal.remove_own(epath.Path(folder), own)
  names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
  assert names == {"a", "a/.1", "a/x", "c", "c/1"}


def test_a_folder_that_becomes_empty_goes_too(tmp_path) -> None:
  write(tmp_path / "x" / "a" / "1")
  assert removal.remove_own(epath.Path(tmp_path / "x"), own)
  assert not (tmp_path / "x").exists()
  assert removal.remove_own(epath.Path(tmp_path / "x"), own)  # There is none.


def test_links_are_neither_followed_nor_removed(tmp_path) -> None:
  target = write(tmp_path / "target" / "1")
  (tmp_path / "x" / "a").mkdir(parents=True)
  (tmp_path / "x" / "b").symlink_to(target.parent)
  (tmp_path / "x" / "a" / "1").symlink_to(target)
  assert not removal.remove_own(epath.Path(tmp_path / "x"), own)
  assert target.exists() and (tmp_path / "x" / "b" / "1").exists()
  assert (tmp_path / "x" / "a" / "1").is_symlink()


def test_a_linked_folder_loses_only_what_is_known(tmp_path) -> None:
  write(tmp_path / "disk" / "a" / "1")
  mine = write(tmp_path / "disk" / "thesis")
  (tmp_path / "x").symlink_to(tmp_path / "disk")
  removal.remove_own(epath.Path(tmp_path / "x"), own)
  assert (tmp_path / "x").is_symlink() and os.listdir(mine.parent) == ["thesis"]
  mine.unlink()
  removal.remove_own(epath.Path(tmp_path / "x"), own)
  assert (tmp_path / "disk").is_dir()


def test_a_store_without_chunks_is_removed(tmp_path) -> None:
  make_store(tmp_path / "s")
  write(tmp_path / "s" / "margins" / "c" / "5" / "0")  # Its marker was not written.
  assert maintenance.remove_empty(tmp_path / "s") and not (tmp_path / "s").exists()


def test_the_beginning_of_a_store_is_removed(tmp_path) -> None:
  make_store(tmp_path / "s")
  (tmp_path / "s" / "manifest.json").unlink()
  assert maintenance.remove_empty(tmp_path / "s")


@pytest.mark.parametrize(
  "name",
  ["notes.txt", ".git/HEAD", "done/x.json", "margins/c/5/0/x", "more/zarr.json"],
)
def test_a_store_that_holds_anything_else_stays(tmp_path, name) -> None:
  make_store(tmp_path / "s")
  mine = write(tmp_path / "s" / name)
  assert not maintenance.remove_empty(tmp_path / "s")
  assert mine.exists() and (tmp_path / "s" / "manifest.json").exists()


@pytest.mark.parametrize("manifest", [None, "{}", '{"columns": {"margins": []}}'])
def test_a_folder_that_is_no_store_stays(tmp_path, manifest) -> None:
  mine = write(tmp_path / "s" / "margins" / "c" / "5" / "0")
  (tmp_path / "s" / "done").mkdir()
  if manifest is not None:
    write(tmp_path / "s" / "manifest.json", manifest)
  assert not maintenance.remove_empty(tmp_path / "s") and mine.exists()


def test_only_our_incomplete_files_are_swept_away(tmp_path) -> None:
  ours = write(tmp_path / "x" / "a.json.0123456789ab.partial")
  mine = write(tmp_path / "x" / "thesis.partial")
  maintenance.sweep(tmp_path)
  assert mine.exists() and not ours.exists()


def test_a_link_to_a_store_stays(tmp_path) -> None:
  make_store(tmp_path / "disk" / "s")
  (tmp_path / "s").symlink_to(tmp_path / "disk" / "s")
  assert not maintenance.remove_empty(tmp_path / "s")
  assert (tmp_path / "s" / "manifest.json").exists()


def test_only_one_module_removes_folders() -> None:
  calls = re.compile(r"\b(rmtree|removedirs)\(")
  paths = [*(ROOT / "jaxdm").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
  callers = {
    str(path.relative_to(ROOT))
    for path in paths
    if calls.search(path.read_text(encoding="utf-8"))
  }
  assert callers == {"jaxdm/storage/removal.py"}
