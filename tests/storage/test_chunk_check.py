"""A store's rows are read only from the files that the markers of its chunks name."""

import pathlib
import shutil
import threading

import numpy as np
import pytest

from jaxdm.storage import checksummed_json, zarr_arrays
from jaxdm.storage import store as store_lib
from jaxdm.storage.checksummed_json import DamageError, StoreError

COLUMNS = {
  "a": zarr_arrays.ArraySpec("float32", 3),
  "b": zarr_arrays.ArraySpec("uint8", 3),
}


def open_store(path: pathlib.Path) -> store_lib.Store:
  return store_lib.Store(path, columns=COLUMNS, settings={"seed": 0}, rows_per_chunk=4)


def arrays(rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  a = rng.normal(size=(4, 3)).astype(np.float32)
  b = rng.integers(0, 256, (4, 3)).astype(np.uint8)
  return {"a": a[:rows], "b": b[:rows]}


@pytest.fixture
def hashed(monkeypatch) -> list[pathlib.Path]:
  """Files whose digests are computed."""
  paths: list[pathlib.Path] = []
  file_digest = checksummed_json.file_digest

  def note(path: pathlib.Path) -> str:
    paths.append(path)
    return file_digest(path)

  monkeypatch.setattr(checksummed_json, "file_digest", note)
  return paths


def test_swapped_files_of_two_chunks_are_not_read(tmp_path) -> None:
  store = open_store(tmp_path)
  for chunk in (0, 1):
    store.write(chunk, arrays(seed=chunk))
  folder = tmp_path / "a" / "c"
  for source, target in (("0", "x"), ("1", "0"), ("x", "1")):
    (folder / source).rename(folder / target)
  for rows in (slice(0, 1), np.array([7, 2])):
    with pytest.raises(DamageError, match="is damaged: its digest is not the one"):
      open_store(tmp_path).read("a", rows)
  np.testing.assert_array_equal(store.read("b", slice(4, 8)), arrays(seed=1)["b"])


def test_an_older_file_than_its_marker_is_not_read(tmp_path) -> None:
  """As in a copy that was made while the store grew."""
  store = open_store(tmp_path / "own")
  store.write(0, arrays(2))
  shutil.copytree(tmp_path / "own", tmp_path / "copy")
  store.write(0, arrays(4))
  shutil.rmtree(tmp_path / "copy" / "done")
  shutil.copytree(tmp_path / "own" / "done", tmp_path / "copy" / "done")
  with pytest.raises(DamageError, match="a/c/0/0 is damaged: its digest"):
    open_store(tmp_path / "copy").read("a", slice(0, 2))


def test_rows_that_are_not_stored_are_not_read_as_zeros(tmp_path) -> None:
  store = open_store(tmp_path)
  store.write(0, arrays())
  store.write(1, arrays(2))
  assert len(store.read("a", slice(0, 6))) == 6
  for rows in (slice(4, 7), np.array([6, 0])):
    with pytest.raises(StoreError, match="lacks row 6, which was to be read"):
      store.read("a", rows)


def test_a_chunk_that_grows_is_checked_again(tmp_path) -> None:
  store, other = open_store(tmp_path), open_store(tmp_path)
  store.write(0, arrays(2))
  for opened in (store, other):
    np.testing.assert_array_equal(opened.read("a", slice(0, 2)), arrays(2)["a"])
  store.write(0, arrays(4))
  for opened in (store, other):
    np.testing.assert_array_equal(opened.read("a", slice(0, 4)), arrays(4)["a"])


def test_a_file_is_hashed_once_in_a_process(tmp_path, hashed) -> None:
  store = open_store(tmp_path)
  for chunk in range(3):
    store.write(chunk, arrays(seed=chunk))
  for opened in (store, store, open_store(tmp_path)):
    opened.read("a", slice(0, 8))
    opened.read("a", np.array([5, 0]))
  assert sorted(hashed) == [tmp_path / "a/c/0/0", tmp_path / "a/c/1/0"]


def test_a_chunk_that_another_process_replaces_meanwhile_is_no_damage(
  tmp_path, monkeypatch
) -> None:
  """Its marker is listed, and gone or of other files when it is read."""
  open_store(tmp_path).write(0, arrays(2))
  reader, read, is_first = open_store(tmp_path), checksummed_json.read, threading.Event()

  def late(path: pathlib.Path) -> dict:
    if path.name.endswith("-2.json") and not is_first.is_set():
      is_first.set()
      open_store(tmp_path).write(0, arrays(4))
    return read(path)

  monkeypatch.setattr(checksummed_json, "read", late)
  np.testing.assert_array_equal(reader.read("a", slice(0, 2)), arrays(2)["a"])
  assert is_first.is_set()
