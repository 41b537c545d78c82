"""Bars that move while models are still trained."""

import json
import re

import pytest
from absl.testing import flagsaver
from etils import epath
from support import programs

from experiments import train_subsets
from experiments.runtime import launcher, progress_bar


class Clock:
  """A clock that tests move, for bars and logs."""

  def __init__(self) -> None:
    self.now = 100.0

  def __call__(self) -> float:
    return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
  """The time that bars and logs see."""
  made = Clock()
  monkeypatch.setattr(progress_bar.time, "monotonic", made)
  monkeypatch.setattr("tqdm.std.time", made)
  return made


def test_a_bar_moves_before_models_are_finished(tmp_path, clock, capsys) -> None:
  parts = progress_bar.Parts()
  parts.add(1.0)  # No bar waits.
  folder = epath.Path(tmp_path)
  update = progress_bar.make("models", folder=folder, parts=parts)
  parts.add(1.0)  # It has not begun.
  update(0, 20)
  for seconds in (60, 30):  # The first parts are compiled, and say nothing of the speed.
    clock.now += seconds
    parts.add(0.5)
  for _ in range(15):
    clock.now += 1.0
    parts.add(0.5)
  [*_, line] = (tmp_path / "logs" / "host-0-of-1.jsonl").read_text().splitlines()
  logged = json.loads(line)
  assert logged["done"] >= 5.0 and logged["total"] == 20
  assert logged["per_second"] == pytest.approx(0.5)
  assert logged["seconds_left"] == pytest.approx(2 * (20 - logged["done"]))
  shown = re.findall(r"([\d.]+)/20 \[.*?<(\d\d):(\d\d)", capsys.readouterr().err)
  done, minutes, seconds = shown[-1]
  left = 60 * int(minutes) + int(seconds)
  assert float(done) >= 7.0 and left == pytest.approx(2 * (20 - float(done)), abs=2)


def test_the_last_line_is_of_all_the_time_with_compilation(clock, capsys) -> None:
  parts = progress_bar.Parts()
  update = progress_bar.make("models", parts=parts)
  update(0, 16)
  for _ in range(2):
    clock.now += 20
    parts.add(8.0)
  update(16, 16)
  assert "16/16 [00:40<00:00,  2.50s/model]" in capsys.readouterr().err


def test_a_bar_never_goes_back_and_ends_when_all_is_stored(monkeypatch) -> None:
  shown, parts = [], progress_bar.Parts()
  monkeypatch.setattr(
    progress_bar.Log, "__call__", lambda self, done, total: shown.append(done)
  )
  update = progress_bar.make("models", folder=epath.Path("x"), parts=parts)
  update(4, 12)  # Of a former run.
  for done in (8, 12):
    for _ in range(6):  # Of a call of four models, and of the next, that is ahead.
      parts.add(1.0)
    assert shown[-1] < 12
    update(done, 12)
  assert shown == sorted(shown) and shown[-1] == 12
  assert shown[:3] == [4, 5, 6]
  parts.add(1.0)  # The bar has ended.
  assert shown[-1] == 12


@pytest.mark.slow
def test_a_program_passes_on_the_steps_of_all_its_models(tmp_path, monkeypatch) -> None:
  told: list[float] = []
  monkeypatch.setattr(progress_bar.Parts, "add", lambda self, units: told.append(units))
  toy = programs.TOY_OF_DRILL
  programs.start(train_subsets.PROGRAM, tmp_path / "run", toy=toy)
  with flagsaver.as_parsed(workdir=str(tmp_path / "run"), **toy):
    opened = launcher.open_run()
  collections = opened.subsets.collections()
  models = sum(one.models for one in collections) + opened.experiment.collect.num_base
  assert sum(told) == pytest.approx(models)
  assert 0 < min(units for units in told if units) < 1
