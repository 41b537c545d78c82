"""Rows never count for a store of other settings than those that they were made with."""

import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from jaxdm import identity
from jaxdm.storage import checksummed_json, maintenance, zarr_arrays
from jaxdm.storage import store as store_lib
from jaxdm.storage.cache import Cache
from jaxdm.storage.checksummed_json import DamageError, StoreError
from jaxdm.storage.matrix_view import MatrixView

COLUMNS = {"a": zarr_arrays.ArraySpec("float32", 3)}
SETTINGS = {"seed": 0, "train": {"width": 8}}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def open_store(path: pathlib.Path, **changes: Any) -> store_lib.Store:
  options: dict[str, Any] = {"rows_per_chunk": 4, "settings": SETTINGS} | changes
  return store_lib.Store(path, columns=COLUMNS, **options)


def write_as_before(path: pathlib.Path) -> store_lib.Store:
  """A store with a chunk whose marker carries no identity, as of earlier versions."""
  store = open_store(path)
  store.write(0, {"a": ROWS})
  [marker] = (path / "done").iterdir()
  content = checksummed_json.read(store_lib.epath.Path(marker))
  del content["identity"]
  checksummed_json.write(store_lib.epath.Path(marker), content)
  return store


@pytest.mark.parametrize(
  "changes",
  [{"settings": {**SETTINGS, "seed": 1}}, {"settings": {}}, {"rows_per_chunk": 2}],
)
def test_chunks_without_a_manifest_count_for_no_other_settings(tmp_path, changes) -> None:
  open_store(tmp_path).write(0, {"a": ROWS})
  (tmp_path / "manifest.json").unlink()
  for _ in range(2):  # The first call does not write what the second would accept.
    with pytest.raises(StoreError, match="holds models, but no manifest.*; .* or remove"):
      open_store(tmp_path, **changes)
  shutil.rmtree(tmp_path)  # What the error says.
  assert open_store(tmp_path, **changes).chunks() == {}


def test_chunks_without_a_manifest_are_read_with_their_own_settings(tmp_path) -> None:
  open_store(tmp_path).write(0, {"a": ROWS})
  (tmp_path / "manifest.json").unlink()
  reordered = {"train": {"width": 8}, "seed": 0}
  found = open_store(tmp_path, settings=reordered).read("a", slice(0, 4))
  np.testing.assert_array_equal(found, ROWS)
  assert list(maintenance.damage(tmp_path)) == []


def test_markers_of_earlier_versions_count_as_long_as_there_is_a_manifest(
  tmp_path,
) -> None:
  write_as_before(tmp_path / "old")
  store = open_store(tmp_path / "old")
  np.testing.assert_array_equal(store.read("a", slice(0, 4)), ROWS)
  assert list(maintenance.damage(tmp_path / "old")) == []
  assert len(store.identity(np.arange(4))["files"]) == 1
  open_store(tmp_path / "new")
  assert maintenance.merge(tmp_path / "new", tmp_path / "old") == (1, 0)
  (tmp_path / "old" / "manifest.json").unlink()
  with pytest.raises(StoreError, match="bring manifest.json back from a copy"):
    open_store(tmp_path / "old")
  # What is merged is of a store whose manifest has been compared.
  (tmp_path / "new" / "manifest.json").unlink()
  np.testing.assert_array_equal(open_store(tmp_path / "new").read("a", slice(0, 4)), ROWS)


def test_a_chunk_of_other_settings_is_damage_that_a_repair_removes(tmp_path) -> None:
  """As if its writer's store had been replaced while it trained."""
  open_store(tmp_path / "other", settings={}).write(0, {"a": ROWS})
  store = open_store(tmp_path / "own")
  store.write(1, {"a": ROWS})
  for folder in ("a/c/0", "done"):
    shutil.copytree(
      tmp_path / "other" / folder, tmp_path / "own" / folder, dirs_exist_ok=True
    )
  for use in (
    lambda: store.read("a", slice(0, 4)),
    lambda: store.identity(np.arange(8)),
    lambda: store.about(0, 4),
  ):
    with pytest.raises(DamageError, match="4.json is damaged: .* other settings than"):
      use()
  [damage] = maintenance.damage(tmp_path / "own")
  assert (damage.chunk, damage.file) == (0, "done/00000000000000-4.json")
  open_store(tmp_path / "new")
  assert maintenance.merge(tmp_path / "new", tmp_path / "own") == (1, 1)
  assert open_store(tmp_path / "new").chunks() == {1: 4}
  maintenance.forget(tmp_path / "own", damage)
  assert store.chunks() == {1: 4} and list(maintenance.damage(tmp_path / "own")) == []


def test_parts_without_a_manifest_count_for_their_own_settings_only(tmp_path) -> None:
  made = Cache(tmp_path, {"data": 1})("x", lambda: {"w": ROWS})
  assert list(made) == ["w"]
  (tmp_path / "manifest.json").unlink()
  for _ in range(2):
    with pytest.raises(ValueError, match="may be of another fit, .*; remove it"):
      Cache(tmp_path, {"data": 2})
  np.testing.assert_array_equal(Cache(tmp_path, {"data": 1})("x", dict)["w"], ROWS)


def test_a_part_in_anothers_place_is_not_read(tmp_path) -> None:
  for folder, settings in (("one", 1), ("two", 2)):
    parts = Cache(tmp_path / folder, {"data": settings})
    for name in ("x", "y"):
      parts(name, lambda settings=settings: {"w": ROWS * settings})
  for source in ("two/y.npz", "one/x.npz"):
    shutil.copy(tmp_path / source, tmp_path / "one" / "y.npz")
    with pytest.raises(ValueError, match="y.npz is another part, or of another fit"):
      Cache(tmp_path / "one", {"data": 1})("y", dict)


def test_parts_of_earlier_versions_count_as_long_as_there_is_a_manifest(tmp_path) -> None:
  parts = Cache(tmp_path, {"data": 1})
  np.savez(tmp_path / "x.npz", w=ROWS)
  np.testing.assert_array_equal(parts("x", dict)["w"], ROWS)
  (tmp_path / "manifest.json").unlink()
  with pytest.raises(ValueError, match="may be of another fit, .*; remove it"):
    Cache(tmp_path, {"data": 1})


@pytest.mark.parametrize("settings", [{**SETTINGS, "seed": 1}, None])
def test_nothing_is_written_to_a_store_that_another_process_replaced(
  tmp_path, settings
) -> None:
  first = open_store(tmp_path / "store")
  shutil.rmtree(tmp_path / "store")
  if settings:
    open_store(tmp_path / "store", settings=settings)
  message = "has other settings since" if settings else "is removed since"
  with pytest.raises(StoreError, match=f"{message} .* folder of its own"):
    first.write(0, {"a": ROWS})
  assert not list(tmp_path.rglob("done/*")) and not list(tmp_path.rglob("c"))
  # Of the same settings, it is another process of the same experiment.
  shutil.rmtree(tmp_path / "store", ignore_errors=True)
  open_store(tmp_path / "store")
  first.write(0, {"a": ROWS})
  np.testing.assert_array_equal(first.read("a", slice(0, 4)), ROWS)


def test_two_arrays_of_a_store_are_told_apart(tmp_path) -> None:
  columns = {name: zarr_arrays.ArraySpec("float32", 3) for name in "ab"}
  store = store_lib.Store(tmp_path, columns=columns, settings={}, rows_per_chunk=4)
  store.write(0, {"a": ROWS, "b": ROWS})
  views = [MatrixView(store, name, np.arange(4)) for name in "ab"]
  assert identity.digest(views[0]) != identity.digest(views[1])


def test_what_was_merged_is_not_merged_again(tmp_path) -> None:
  mine, theirs = tmp_path / "mine", tmp_path / "theirs"
  open_store(mine)
  open_store(theirs).write(0, {"a": ROWS})
  assert [maintenance.merge(mine, theirs) for _ in range(2)] == [(1, 0), (0, 0)]


@pytest.mark.parametrize("change", ["{}\n", " {}", "\n{}"])
def test_not_even_spaces_are_changed_unseen(tmp_path, change) -> None:
  path = store_lib.epath.Path(tmp_path / "a.json")
  checksummed_json.write(path, {"a": 1, "b": [2]})
  path.write_text(change.format(path.read_text()))
  with pytest.raises(DamageError):
    checksummed_json.read(path)


def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path) -> None:
  path, other = tmp_path / "file", tmp_path / "other"
  path.write_bytes(b"one")
  before = checksummed_json.file_digest_once(store_lib.epath.Path(path))
  times = path.stat()
  other.write_bytes(b"two")
  os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
  other.replace(path)
  assert checksummed_json.file_digest_once(store_lib.epath.Path(path)) != before
