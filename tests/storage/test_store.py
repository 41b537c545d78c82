import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jaxdm.storage import checksummed_json, maintenance, store_layout, zarr_arrays
from jaxdm.storage import store as store_lib
from jaxdm.storage.matrix_view import MatrixView

COLUMNS = {
  "a": zarr_arrays.ArraySpec("float32", 600),
  "b": zarr_arrays.ArraySpec("uint8", 3),
}


def open_store(path, **changes) -> store_lib.Store:
  settings = {"seed": 0, "train": {"width": 8}} | changes
  return store_lib.Store(path, columns=COLUMNS, settings=settings, rows_per_chunk=4)


def arrays(rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  a = rng.normal(size=(rows, 600)).astype(np.float32)
  return {"a": a, "b": rng.integers(0, 256, (rows, 3)).astype(np.uint8)}


def files(path) -> dict[str, bytes]:
  return {
    str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()
  }


def test_rows_and_columns_are_read_back(tmp_path) -> None:
  first, second = arrays(), arrays(2, seed=1)
  open_store(tmp_path).write(5, first)
  open_store(tmp_path).write(2**40, second)
  opened = open_store(tmp_path)
  assert opened.chunks() == {5: 4, 2**40: 2}
  rows = np.array([4 * 2**40 + 1, 21, 20])
  expected = np.stack([second["a"][1], first["a"][1], first["a"][0]])
  np.testing.assert_array_equal(opened.read("a", rows), expected)
  found = opened.read("a", slice(20, 24), slice(250, 300))
  np.testing.assert_array_equal(found, first["a"][:, 250:300])
  np.testing.assert_array_equal(opened.read("b", slice(20, 24)), first["b"])


def test_files_lie_where_earlier_versions_look_for_them(tmp_path) -> None:
  """Format 3; another layout needs another number."""
  open_store(tmp_path).write(5, arrays(2))
  names = {"manifest.json", "done/00000000000005-2.json", "a/zarr.json", "b/zarr.json"}
  assert set(files(tmp_path)) == names | {"a/c/5/0", "b/c/5/0"}
  assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 3
  for name, width, tile, shard in (("a", 600, 256, 768), ("b", 3, 3, 3)):
    found = json.loads((tmp_path / name / "zarr.json").read_text())
    assert found["shape"] == [4 * 2**44, width] and found["fill_value"] == 0
    assert found["chunk_grid"]["configuration"]["chunk_shape"] == [4, shard]
    [sharding] = found["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [4, tile]
    codecs = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert codecs == ["bytes", "crc32c"]


def test_a_chunk_without_its_marker_never_happened(tmp_path) -> None:
  store = open_store(tmp_path)
  store.write(0, arrays())
  store.write(1, arrays(seed=1))
  whole = files(tmp_path)
  (tmp_path / "done" / "00000000000001-4.json").unlink()  # As if killed before it.
  (tmp_path / "a" / "c" / "1" / "0").write_bytes(b"half of a fi")
  opened = open_store(tmp_path)
  assert opened.chunks() == {0: 4} and list(maintenance.damage(tmp_path)) == []
  opened.write(1, arrays(seed=1))
  assert files(tmp_path) == whole


def test_a_longer_last_chunk_replaces_a_shorter_one(tmp_path) -> None:
  store = open_store(tmp_path)
  store.write(3, {name: a[:2] for name, a in arrays().items()})
  store.write(3, arrays())
  assert store.chunks() == {3: 4} and list(maintenance.damage(tmp_path)) == []
  np.testing.assert_array_equal(store.read("b", slice(12, 16)), arrays()["b"])


def test_zeros_and_nan_have_files_too(tmp_path) -> None:
  store = open_store(tmp_path)
  data = arrays()
  data["a"][:], data["b"][:] = 0, 0
  data["a"][2, 7] = np.nan
  store.write(0, data)
  assert list(maintenance.damage(tmp_path)) == []
  np.testing.assert_array_equal(open_store(tmp_path).read("a", slice(0, 4)), data["a"])


def test_what_float16_cannot_hold_is_an_error_and_nothing_is_written(tmp_path) -> None:
  columns = {"a": zarr_arrays.ArraySpec("float16", 3)}
  store = store_lib.Store(tmp_path, columns=columns, settings={}, rows_per_chunk=4)
  store.write(0, {"a": np.array([[65504, -1, np.nan], [np.inf, 0, 1]], np.float32)})
  found = store.read("a", slice(0, 2))
  np.testing.assert_array_equal(found, [[65504, -1, np.nan], [np.inf, 0, 1]])
  with pytest.raises(store_lib.StoreError, match="float16 cannot hold a of 70000"):
    store.write(1, {"a": np.array([[0, 0, 0], [1, -7e4, np.inf]], np.float32)})
  assert store.chunks() == {0: 2} and not (tmp_path / "a/c/1").exists()


def test_a_matrix_reads_what_is_indexed_and_no_more(tmp_path, monkeypatch) -> None:
  store = open_store(tmp_path)
  whole = np.concatenate([arrays(seed=seed)["a"] for seed in range(3)])
  for chunk in range(3):
    store.write(chunk, arrays(seed=chunk))
  rows = np.delete(np.arange(len(whole)), [1, 6])
  matrix = MatrixView(store, "a", rows, range(300, 590))
  expected = whole[rows, 300:590]
  assert matrix.shape == expected.shape and len(matrix) == len(expected)
  assert matrix.ndim == expected.ndim
  for key in (slice(None), slice(2, 5), np.array([3, 0]), (slice(None), slice(10, 40))):
    np.testing.assert_array_equal(matrix[key], expected[key])
  some = np.array([4, 2])
  np.testing.assert_array_equal(matrix.take(some)[:], expected[some])
  asked = []
  read = store_lib.Store.read
  monkeypatch.setattr(
    store_lib.Store, "read", lambda *args: asked.append(args[2:]) or read(*args)
  )
  matrix[some, 5:8]
  [(found_rows, found_columns)] = asked
  assert found_rows.tolist() == rows[some].tolist()
  assert (found_columns.start, found_columns.stop) == (305, 308)


def test_rows_depend_on_the_files_of_their_chunks(tmp_path) -> None:
  store = open_store(tmp_path)
  for chunk in range(3):
    store.write(chunk, arrays(seed=chunk))
  found = store.identity(np.array([11, 5, 6]))
  assert found["rows"].tolist() == [11, 5, 6] and found["rows_per_chunk"] == 4
  assert found["settings"]["seed"] == 0
  assert found["files"] == [store.about(chunk, 4)["files"] for chunk in (1, 2)]
  with pytest.raises(store_lib.StoreError, match="lacks chunk 3 of the rows asked for"):
    store.identity(np.array([0, 13]))


def test_of_two_processes_that_make_a_store_the_first_one_writes_its_manifest(
  tmp_path, monkeypatch
) -> None:
  write = checksummed_json.write

  def late(*args, **options) -> None:
    monkeypatch.setattr(checksummed_json, "write", write)
    store_lib.Store(
      tmp_path,
      columns=COLUMNS,
      settings={"seed": 0, "train": {"width": 8}},
      rows_per_chunk=4,
      provenance=lambda: {"process": "first"},
    )
    write(*args, **options)

  monkeypatch.setattr(checksummed_json, "write", late)
  open_store(tmp_path)
  [maker] = store_lib.makers(store_lib.epath.Path(tmp_path))
  assert maker["process"] == "first"


def test_other_settings_are_named_and_nothing_is_touched(tmp_path) -> None:
  open_store(tmp_path).write(0, arrays())
  before = files(tmp_path)
  with pytest.raises(store_lib.StoreError, match="seed: stored 0, asked 1"):
    open_store(tmp_path, seed=1)
  assert files(tmp_path) == before


def test_every_flipped_byte_is_noticed_and_blamed_on_its_chunk(tmp_path) -> None:
  store = open_store(tmp_path)
  for chunk in (0, 1):
    store.write(chunk, arrays(seed=chunk), {"ids": ["x", "y"]})
  rng, checked = np.random.default_rng(0), 0
  for name, content in files(tmp_path).items():
    for place in rng.choice(len(content), min(len(content), 40), replace=False):
      damaged = bytearray(content)
      damaged[place] ^= 1 << rng.integers(8)
      (tmp_path / name).write_bytes(damaged)
      [found] = maintenance.damage(tmp_path)
      assert found.file == name
      chunk = int(name.split("/")[2]) if "/c/" in name else None
      chunk = int(name[5:19]) if name.startswith("done") else chunk
      assert found.chunk == chunk
      checked += 1
    (tmp_path / name).write_bytes(content)
  assert checked > 300 and list(maintenance.damage(tmp_path)) == []


def test_a_lost_file_is_damage(tmp_path) -> None:
  open_store(tmp_path).write(2, arrays())
  (tmp_path / "b" / "c" / "2" / "0").unlink()
  [found] = maintenance.damage(tmp_path)
  assert (found.chunk, found.file) == (2, "b/c/2/0")


def test_what_killed_writers_left_is_swept_away(tmp_path) -> None:
  store = open_store(tmp_path)
  store.write(1, arrays())
  whole = files(tmp_path)

  # As kill -9 leaves them; an error leaves none.
  for name in ("manifest.json", "done/00000000000001-4.json", "a/c/1/0", "a/c/2/0"):
    path = tmp_path / f"{name}.0123456789ab.partial"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{")
  assert set(files(tmp_path)) > set(whole)
  maintenance.sweep(tmp_path)
  assert files(tmp_path) == whole


def test_an_error_while_writing_leaves_what_was_there(tmp_path, monkeypatch) -> None:
  store = open_store(tmp_path)
  store.write(1, arrays())
  whole = files(tmp_path)

  def full(*args) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", full)
    for chunk in (1, 2):
      with pytest.raises(OSError, match="No space"):
        store.write(chunk, arrays(seed=chunk))
  assert files(tmp_path) == whole


def test_a_chunk_that_cannot_grow_keeps_its_rows(tmp_path, monkeypatch) -> None:
  mine, theirs = tmp_path / "mine", tmp_path / "theirs"
  store = open_store(mine)
  store.write(1, arrays(rows=2))
  open_store(theirs).write(1, arrays())
  whole, before = files(mine), store.read("b", slice(4, 6))
  synced = []

  def nearly_full(descriptor, original=os.fsync) -> None:
    synced.append(original(descriptor))
    if len(synced) == 2:  # The second file of the chunk.
      raise OSError(errno.ENOSPC, "No space left on device")

  for write in (
    lambda: store.write(1, arrays()),
    lambda: maintenance.merge(mine, theirs),
  ):
    synced.clear()
    with monkeypatch.context() as patch:
      patch.setattr(os, "fsync", nearly_full)
      with pytest.raises(OSError, match="No space"):
        write()
    assert files(mine) == whole and store.chunks() == {1: 2}
    np.testing.assert_array_equal(store.read("b", slice(4, 6)), before)
  assert maintenance.merge(mine, theirs) == (1, 0)
  assert files(mine) == files(theirs)


def test_a_copy_without_empty_folders_is_a_store(tmp_path) -> None:
  """As buckets and archives make them."""
  open_store(tmp_path)
  (tmp_path / "done").rmdir()
  store = open_store(tmp_path)
  assert store.chunks() == {} and maintenance.summary(tmp_path).rows == 0
  assert not list(maintenance.damage(tmp_path))
  store.write(1, arrays())
  np.testing.assert_array_equal(store.read("a", slice(4, 8)), arrays()["a"])


def test_a_store_is_not_listed_for_each_read(tmp_path, monkeypatch) -> None:
  store, reader = open_store(tmp_path), open_store(tmp_path)
  for chunk in range(8):
    store.write(chunk, arrays(seed=chunk))
  listed = []

  def list_chunks(path, original=store_layout.chunks) -> dict[int, int]:
    listed.append(path)
    return original(path)

  monkeypatch.setattr(store_layout, "chunks", list_chunks)
  for chunk in range(8):
    reader.read("a", slice(4 * chunk, 4 * chunk + 4))
  assert len(listed) == 1
  store.write(8, arrays(seed=8))
  reader.read("a", slice(32, 36))
  assert len(listed) == 2


def test_a_summary_leaves_out_a_chunk_that_grows_meanwhile(tmp_path, monkeypatch) -> None:
  store = open_store(tmp_path)
  store.write(0, arrays())
  store.write(1, arrays(rows=2))
  listed = store_layout.markers(tmp_path)
  store.write(1, arrays())
  monkeypatch.setattr(store_layout, "markers", lambda path: listed)
  assert maintenance.summary(tmp_path)[:2] == (1, 4)


def test_a_chunk_whose_file_is_lost_is_not_read_as_zeros(tmp_path) -> None:
  store = open_store(tmp_path)
  store.write(1, arrays())
  (tmp_path / "a/c/1/0").unlink()
  with pytest.raises(store_lib.StoreError, match="is damaged"):
    open_store(tmp_path).read("a", slice(4, 8))


def test_damaged_numbers_are_never_returned(tmp_path) -> None:
  open_store(tmp_path).write(0, arrays())
  path = tmp_path / "a" / "c" / "0" / "0"
  content = bytearray(path.read_bytes())
  content[1000] ^= 4
  path.write_bytes(content)
  with pytest.raises(store_lib.StoreError, match="is damaged"):
    open_store(tmp_path).read("a", slice(0, 4))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """A store, and what its files hold."""
  path = tmp_path_factory.mktemp("store")
  open_store(path).write(0, arrays(), {"ids": ["x"]})
  return path, files(path)


TEXT = st.one_of(
  st.binary(max_size=300),
  st.text(max_size=200).map(str.encode),
  st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
      st.lists(inner, max_size=3)
      | st.dictionaries(
        st.sampled_from(
          ["format", "columns", "seal", "metadata", "files", "rows_per_chunk"]
        ),
        inner,
        max_size=4,
      )
    ),
  ).map(lambda value: json.dumps(value, indent=1).encode()),
)


@pytest.mark.slow
@given(
  name=st.sampled_from(
    ["manifest.json", "a/zarr.json", "b/zarr.json", "done/00000000000000-4.json"]
    + ["a/c/0/0", "b/c/0/0"]
  ),
  content=TEXT,
  cut=st.integers(0, 400),
)
@hypothesis_settings(max_examples=2000)
def test_whatever_a_file_holds_reading_is_right_or_an_error(
  small, name, content, cut
) -> None:
  path, whole = small
  # Noise in place of the file, or of a part of it.
  changed = whole[name][:cut] + content if cut else content
  (path / name).write_bytes(changed)
  try:
    if changed != whole[name]:
      assert [found.file for found in maintenance.damage(path)] == [name]
    try:
      store = open_store(path)
      for chunk, rows in store.chunks().items():
        assert store.about(chunk, rows)["ids"] == ["x"]
        np.testing.assert_array_equal(store.read("a", slice(0, 4)), arrays()["a"])
        np.testing.assert_array_equal(store.read("b", slice(0, 4)), arrays()["b"])
    except store_lib.StoreError as error:
      assert "\n" not in str(error)
  finally:
    (path / name).write_bytes(whole[name])
