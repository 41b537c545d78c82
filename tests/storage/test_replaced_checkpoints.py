"""A checkpoint that is replaced: killed anywhere, one of the two can be read."""

import contextlib
import errno
import os
import pathlib

import jax
import numpy as np
import pytest

from jaxdm.storage import checkpoint, step_checkpoints

# What changes names or files on the way.
STEPS = {"rename", "unlink", "rmdir"}


class KilledError(BaseException):
  """Stands for a killed process."""


def save(path: pathlib.Path, value: int) -> None:
  """Replaces a checkpoint by one of this value."""
  checkpoint.save(path, {"x": np.full(9, value)}, overwrite=True)


def value(path: pathlib.Path) -> int:
  """The value of the checkpoint that is read."""
  return int(checkpoint.load(path)["x"][0])


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
  """Ends the process, as it were, before its change of a name or file of that number."""
  done: list[str] = []
  for name in STEPS:
    real = getattr(os, name)

    def call(*args, real=real, name=name, **options) -> None:
      if len(done) >= number:
        raise KilledError
      done.append(name)
      real(*args, **options)

    monkeypatch.setattr(os, name, call)
  return done


def test_killed_anywhere_one_of_two_is_read_and_nothing_stays(tmp_path) -> None:
  found = []
  for number in range(1000):
    path = tmp_path / str(number) / "fit"
    save(path, 1)
    with pytest.MonkeyPatch.context() as patch:
      done = die_at(patch, number)
      with contextlib.suppress(KilledError):
        save(path, 2)
      is_finished = len(done) < number
    found.append(value(path))
    assert checkpoint.exists(path)
    save(path, 3)
    assert value(path) == 3 and os.listdir(path.parent) == ["fit"]
    if is_finished:
      break
  assert is_finished and found == sorted(found) and set(found) == {1, 2}


def test_killed_twice_the_newest_is_read(tmp_path) -> None:
  path = tmp_path / "fit"
  save(path, 1)
  for number in range(1, 12):
    before = value(path)
    with pytest.MonkeyPatch.context() as patch:
      die_at(patch, number)
      with pytest.raises(KilledError):
        save(path, 10 + number)
    assert value(path) in (before, 10 + number)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch, error) -> None:
  path, write = tmp_path / "fit", checkpoint._write
  save(path, 1)

  def failing(place, *args) -> None:
    write(place, *args)
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "_write", failing)
    with pytest.raises(type(error)):
      save(path, 2)
  assert value(path) == 1 and os.listdir(tmp_path) == ["fit"]


def test_the_newest_undamaged_one_is_read(tmp_path) -> None:
  path = tmp_path / "fit"
  for number, suffix in enumerate((".jaxdm-previous", ".jaxdm-next", "")):
    save(path, number)
    if suffix:
      path.rename(tmp_path / f"fit{suffix}")
      (tmp_path / f"fit{suffix}").rename(tmp_path / f"moved{suffix}")
  for suffix in (".jaxdm-previous", ".jaxdm-next"):
    (tmp_path / f"moved{suffix}").rename(tmp_path / f"fit{suffix}")
  assert value(path) == 1
  for file in (tmp_path / "fit.jaxdm-next").glob("**/d/*"):
    file.write_bytes(b"damaged")
  assert value(path) == 2
  checkpoint.remove(path)
  assert os.listdir(tmp_path) == []


def test_a_state_is_read_while_it_is_replaced(tmp_path) -> None:
  states, like = step_checkpoints.Checkpoints(tmp_path, 1.0), jax.numpy.arange(4)
  states.write_state("m", 3, like)
  (tmp_path / "m").rename(tmp_path / "m.jaxdm-previous")
  assert states.read_state("m", like)[0] == 3
  states.write_state("m", 4, like)
  assert states.read_state("m", like)[0] == 4 and os.listdir(tmp_path) == ["m"]


def test_other_names_are_left_alone(tmp_path) -> None:
  save(tmp_path / "fit.next", 5)
  (tmp_path / "fit.jaxdm-incomplete").mkdir()
  (tmp_path / "fit.jaxdm-incomplete" / "thesis").write_text("precious")
  save(tmp_path / "other", 1)
  assert (tmp_path / "fit.jaxdm-incomplete" / "thesis").exists()
  assert value(tmp_path / "fit.next") == 5
