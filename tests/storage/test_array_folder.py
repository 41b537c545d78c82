"""Arrays in a folder: whole, of the right identity, and opened one by one."""

import json

import numpy as np
import pytest

from jaxdm.storage import array_folder, checksummed_json

_RNG = np.random.default_rng(0)
ARRAYS = {
  "a": _RNG.normal(size=(5, 3)).astype(np.float32),
  "b": _RNG.normal(size=(2, 4, 3)).astype(np.float32),
}
IDENTITY = {"seed": 1, "train": {"rates": (0.1, 0.2), "width": 8}}


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "arrays"
  made = array_folder.create(path, {name: x.shape for name, x in ARRAYS.items()})
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(made[name], 0)
    made[name][:] = array
  array_folder.finish(path, made, IDENTITY)
  return path


def test_arrays_come_back_as_read_only_memory_maps(folder) -> None:
  found = array_folder.ArrayFolder(folder, IDENTITY)
  assert list(found) == ["a", "b"] and len(found) == 2
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), array)
    np.testing.assert_array_equal(found[name], array)
    assert isinstance(found[name].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
      found[name][0] = 0
  with pytest.raises(KeyError):
    found["c"]


def test_an_array_is_opened_when_it_is_asked_for(folder) -> None:
  (folder / "b.npy").unlink()
  found = array_folder.ArrayFolder(folder, IDENTITY)
  np.testing.assert_array_equal(found["a"], ARRAYS["a"])
  with pytest.raises(checksummed_json.StoreError, match="b.npy is missing"):
    found["b"]
  assert not array_folder.exists(folder, IDENTITY)


def test_another_identity_is_refused_by_name(folder) -> None:
  for other, message in (
    (IDENTITY | {"seed": 2}, "seed: stored 1, asked 2"),
    ({**IDENTITY, "train": {"rates": (0.1, 0.3), "width": 8}}, r"train: .*0.3"),
    ({"seed": 1}, "train: .* asked None"),
    (IDENTITY | {"new": 0}, "new: stored None"),
  ):
    with pytest.raises(checksummed_json.StoreError, match=message):
      array_folder.ArrayFolder(folder, other)
    assert not array_folder.exists(folder, other)


def test_a_folder_without_a_record_holds_nothing(folder) -> None:
  assert array_folder.exists(folder, IDENTITY)
  array_folder.create(folder, {"a": (5, 3)})  # Begun again, and killed.
  assert not array_folder.exists(folder, IDENTITY)
  with pytest.raises(checksummed_json.StoreError, match="record.json"):
    array_folder.ArrayFolder(folder, IDENTITY)


@pytest.mark.parametrize("kind", ["short", "long", "dtype", "shape", "header"])
def test_type_shape_and_size_are_checked_when_an_array_is_opened(folder, kind) -> None:
  path = folder / "a.npy"
  content = path.read_bytes()
  if kind == "dtype":
    np.save(path, ARRAYS["a"].astype(np.int32))
  elif kind == "shape":
    np.save(path, ARRAYS["a"].reshape(3, 5))
  else:
    changed = {"short": content[:-1], "long": content + b"0", "header": b"no array"}
    path.write_bytes(changed[kind])
  found = array_folder.ArrayFolder(folder, IDENTITY)
  with pytest.raises(checksummed_json.StoreError, match="a.npy is damaged"):
    found["a"]
  np.testing.assert_array_equal(found["b"], ARRAYS["b"])
  [(file, _)] = array_folder.damage(folder, IDENTITY)
  assert file == "a.npy"


def test_changed_bytes_are_found_when_an_array_is_opened(folder) -> None:
  found = array_folder.ArrayFolder(folder, IDENTITY)
  np.testing.assert_array_equal(found["a"], ARRAYS["a"])
  np.save(folder / "a.npy", -ARRAYS["a"])
  for arrays in (found, array_folder.ArrayFolder(folder, IDENTITY)):
    with pytest.raises(checksummed_json.DamageError, match="a.npy is damaged: its dig"):
      arrays["a"]
  np.save(folder / "a.npy", ARRAYS["a"])
  np.testing.assert_array_equal(found["a"], ARRAYS["a"])


def test_a_file_is_read_whole_once_in_a_process(folder, monkeypatch) -> None:
  paths, digest_of = [], checksummed_json.file_digest
  monkeypatch.setattr(
    checksummed_json, "file_digest", lambda path: paths.append(path) or digest_of(path)
  )
  checksummed_json._digest_once.cache_clear()
  for _ in range(3):
    arrays = array_folder.ArrayFolder(folder, IDENTITY)
    assert [arrays["a"].sum(), arrays["b"].sum()] == [a.sum() for a in ARRAYS.values()]
  assert sorted(path.name for path in paths) == ["a.npy", "b.npy"]


def test_every_changed_byte_is_found_and_its_file_named(folder) -> None:
  assert list(array_folder.damage(folder, IDENTITY)) == []
  for name in ("a.npy", "b.npy", "record.json"):
    content = (folder / name).read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
      changed = bytearray(content)
      changed[place] ^= 1
      (folder / name).write_bytes(changed)
      assert [file for file, _ in array_folder.damage(folder, IDENTITY)] == [name]
    (folder / name).write_bytes(content)
  assert list(array_folder.damage(folder, IDENTITY)) == []


def test_a_verified_array_has_the_recorded_bytes(folder) -> None:
  found = array_folder.ArrayFolder(folder, IDENTITY)
  np.testing.assert_array_equal(found.read_verified("a"), ARRAYS["a"])
  path = folder / "a.npy"
  path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
  with pytest.raises(checksummed_json.StoreError, match="digest"):
    found.read_verified("a")


def test_a_digest_of_a_file_is_that_of_its_content(tmp_path, monkeypatch) -> None:
  monkeypatch.setattr(checksummed_json, "_PART_BYTES", 7)
  path = array_folder.epath.Path(tmp_path / "file")
  for size in (0, 6, 7, 20):
    content = np.random.default_rng(size).bytes(size)
    path.write_bytes(content)
    assert checksummed_json.file_digest(path) == checksummed_json.digest(content)


def test_the_record_says_what_made_the_arrays(folder) -> None:
  record = json.loads((folder / "record.json").read_text())
  assert record["made_by"]["jaxdm"] and record["identity"]["seed"] == 1
