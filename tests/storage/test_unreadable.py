"""What cannot be read is not damaged, and is never removed or replaced."""

import errno
import os
import pathlib

import jax
import numpy as np
import pytest
from etils import epath
from support.unreadable import make_unreadable

from jaxdm.storage import (
  array_folder,
  atomic_io,
  bank,
  cache,
  checkpoint,
  checksummed_json,
  maintenance,
  step_checkpoints,
)
from jaxdm.training import tuning

NUMBERS = [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ELOOP]
FILES = ["manifest.json", "done/00000000000000-4.json", "masks/zarr.json", "masks/c/0/0"]


def make_store(path: pathlib.Path) -> None:
  """A store of one chunk."""
  store = bank.open_store(path, num_targets=3, num_train=9, settings={}, rows_per_chunk=4)
  bank.write(store, 0, np.eye(4, 9, dtype=bool), np.ones((4, 3), np.float32))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_store_that_cannot_be_read_is_not_damaged(
  tmp_path, monkeypatch, file, number
) -> None:
  make_store(tmp_path)
  with monkeypatch.context() as patch:
    make_unreadable(patch, tmp_path / file, number)
    with pytest.raises(checksummed_json.UnreadableError, match=os.strerror(number)) as e:
      list(maintenance.damage(tmp_path))
  assert file in str(e.value) and list(maintenance.damage(tmp_path)) == []


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["missing", "other bytes", "a folder"])
def test_a_store_that_is_damaged_is(tmp_path, file, how) -> None:
  make_store(tmp_path)
  content = (tmp_path / file).read_bytes()
  (tmp_path / file).unlink()
  if how == "other bytes":
    (tmp_path / file).write_bytes(content[:-1] + b"?")
  elif how == "a folder":
    (tmp_path / file).mkdir()
  found = [fault.file for fault in maintenance.damage(tmp_path)]
  assert found == ([] if how == "missing" and "done" in file else [file])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("file", ["done/00000000000000-4.json", "masks/c/0/0"])
def test_rows_that_cannot_be_read_are_not_damaged(
  tmp_path, monkeypatch, file, number
) -> None:
  make_store(tmp_path)
  store = maintenance.reopen(tmp_path)
  with monkeypatch.context() as patch:
    make_unreadable(patch, tmp_path / file, number)
    with pytest.raises(checksummed_json.UnreadableError, match=os.strerror(number)):
      store.read("masks", slice(0, 4))
  assert store.read("masks", slice(0, 4)).shape == (4, 2)


def test_without_a_manifest_a_marker_that_cannot_be_read_ends_the_opening(
  tmp_path, monkeypatch
) -> None:
  make_store(tmp_path)
  (tmp_path / "manifest.json").unlink()
  with monkeypatch.context() as patch:
    make_unreadable(patch, tmp_path / "done" / "00000000000000-4.json", errno.EIO)
    with pytest.raises(checksummed_json.UnreadableError):
      make_store(tmp_path)
  assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("file", ["record.json", "x.npy"])
def test_an_array_that_cannot_be_read_is_not_damaged(
  tmp_path, monkeypatch, file, number
) -> None:
  arrays = array_folder.create(tmp_path, {"x": (4, 3)})
  array_folder.finish(tmp_path, arrays, {})
  make_unreadable(monkeypatch, tmp_path / file, number)
  for read in (
    lambda: list(array_folder.damage(tmp_path, {})),
    lambda: array_folder.ArrayFolder(tmp_path, {})["x"],
    lambda: array_folder.ArrayFolder(tmp_path, {}).read_verified("x"),
  ):
    with pytest.raises(checksummed_json.UnreadableError, match="cannot be read"):
      read()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("pattern", ["*", "*.json", "*/a.json"])
def test_a_folder_that_cannot_be_listed_is_not_empty(
  tmp_path, monkeypatch, pattern, number
) -> None:
  folder = tmp_path / "x"
  folder.mkdir()
  make_unreadable(monkeypatch, folder, number)
  with pytest.raises(OSError, match=os.strerror(number)):
    atomic_io.find(epath.Path(tmp_path if "/" in pattern else folder), pattern)


def test_folders_are_listed_as_glob_lists_them(tmp_path) -> None:
  for name in ("a.json", "[a]/b.json", ".c/b.json", "d/e/f.json", "B.JSON", "d/*"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  for pattern in (
    "*",
    "*.json",
    "*/b.json",
    "*/*",
    "*/e/*",
    "*/[*]",
    "none/*",
    "a.json/*",
  ):
    found = atomic_io.find(epath.Path(tmp_path), pattern)
    assert list(map(str, found)) == sorted(map(str, tmp_path.glob(pattern))), pattern
  assert atomic_io.find(epath.Path(tmp_path / "none"), "*") == []


def test_a_state_that_cannot_be_read_is_not_begun_anew(tmp_path, monkeypatch) -> None:
  states = step_checkpoints.Checkpoints(tmp_path, 1.0)
  states.write_state("m", 3, np.arange(4))

  def failing(*_) -> None:
    raise OSError(errno.ESTALE, "Stale file handle")

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "load", failing)
    with pytest.raises(OSError, match="Stale"):
      states.read_state("m", np.arange(4))
  assert states.read_state("m", jax.numpy.arange(4))[0] == 3


def test_parts_that_cannot_be_read_stay(tmp_path, monkeypatch) -> None:
  cache.Cache(tmp_path, {})
  make_unreadable(monkeypatch, tmp_path / "manifest.json", errno.EIO)
  with pytest.raises(checksummed_json.UnreadableError) as caught:
    cache.Cache(tmp_path, {})
  assert "remove it" not in str(caught.value)


def test_a_choice_that_cannot_be_read_stays(tmp_path, monkeypatch) -> None:
  path = epath.Path(tmp_path / "choice.json")
  checksummed_json.write(path, {})
  make_unreadable(monkeypatch, tmp_path / "choice.json", errno.EIO)
  assert tuning._read(path) is None and path.exists()
