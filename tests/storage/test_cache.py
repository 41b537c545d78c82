"""Parts of a long computation: read back as they were written, or refused by name."""

import io
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from etils import epath

from jaxdm import identity
from jaxdm.errors import UserError
from jaxdm.storage import cache


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
  """A part of three numbers, written by a cache; where it is."""
  made = cache.Cache(folder, {})(name, lambda: {"numbers": np.arange(3.0)})
  assert made.keys() == {"numbers"}
  np.testing.assert_array_equal(made["numbers"], np.arange(3.0))
  return folder / f"{name}.npz"


def _array(_: bytes) -> bytes:
  """A file of one array."""
  file = io.BytesIO()
  np.save(file, np.arange(3.0))
  return file.getvalue()


def _change(before: bytes, offset: int, value: int) -> Callable[[bytes], bytes]:
  """Sets a byte behind the last place of some bytes."""

  def damage(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[content.rindex(before) + offset] = value
    return bytes(changed)

  return damage


@pytest.mark.parametrize(
  "damage",
  [
    _array,
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    _change(b"PK\x01\x02", 8, 1),  # Flags: encrypted.
    _change(b"PK\x01\x02", 10, 99),  # An unknown compression.
    _change(b"PK\x05\x06", 19, 0x7F),  # The end record: where the directory begins.
    _change(b"PK\x05\x06", 15, 0x7F),  # The end record: how long the directory is.
  ],
)
def test_damage_of_every_kind_is_named(tmp_path, damage) -> None:
  path = _path(tmp_path / "parts", "a")
  path.write_bytes(damage(path.read_bytes()))
  parts = cache.Cache(tmp_path / "parts", {})
  with pytest.raises(UserError, match="a.npz is damaged: .*; remove it, and it is made"):
    parts("a", dict)
  path.unlink()
  _path(tmp_path / "parts", "a")


def test_parts_that_were_exchanged_are_not_taken_for_each_other(tmp_path) -> None:
  first, second = (_path(tmp_path / "parts", name) for name in "ab")
  first.rename(tmp_path / "other")
  second.rename(first)
  with pytest.raises(
    UserError, match="a.npz is another part, or of another fit; remove it"
  ):
    cache.Cache(tmp_path / "parts", {})("a", dict)


def test_parts_of_earlier_versions_have_no_name(tmp_path) -> None:
  path = _path(tmp_path / "parts", "a")
  np.savez(path, numbers=np.arange(4.0))
  found = cache.Cache(tmp_path / "parts", {})("a", dict)
  assert found.keys() == {"numbers"} and len(found["numbers"]) == 4


def test_a_part_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch) -> None:
  def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")

  path = epath.Path(_path(tmp_path / "parts", "a"))
  monkeypatch.setattr(cache.np, "load", refuse)
  with pytest.raises(PermissionError):
    cache.read(path)


def test_parts_by_other_software_are_used_with_a_warning(tmp_path, monkeypatch) -> None:
  _path(tmp_path, "a")
  other = identity.made_by() | {"jax": "0.0.1"}
  monkeypatch.setattr(identity, "made_by", lambda: other)
  with pytest.warns(
    UserWarning, match="was begun otherwise .*jax: stored .*asked '0.0.1'"
  ):
    found = cache.Cache(tmp_path, {})("a", dict)
  np.testing.assert_array_equal(found["numbers"], np.arange(3.0))


@pytest.mark.filterwarnings("error")
def test_parts_by_the_same_software_are_used_in_silence(tmp_path) -> None:
  path = _path(tmp_path, "a")
  assert path.exists() and cache.Cache(tmp_path, {})("a", dict).keys() == {"numbers"}
