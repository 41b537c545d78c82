"""What status says, and when it ends."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import start

from experiments.ops import status
from experiments.runtime import stages
from experiments.runtime.workdir import Workdir
from jaxdm import training_sets
from jaxdm.storage import bank


@pytest.fixture
def begun(tmp_path):
  """A workdir with 64 models on subsets, whose stage is not finished."""
  workdir = Workdir(str(tmp_path))
  with workdir.lock():
    stages.run(workdir, "train_subsets", {}, lambda: {stages.UNFINISHED: 1})
  made = bank.open_store(
    workdir.bank / "subsets", num_targets=3, num_train=20, settings={}
  )
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(20, 3))
  for chunk in range(2):
    numbers = np.arange(32 * chunk, 32 * chunk + 32)
    masks = training_sets.random_masks(0, 20, 0.5, numbers)
    margins = (masks @ weights).astype(np.float32)
    bank.write(made, chunk, masks, margins)
  return workdir


def test_a_first_quality_is_shown_before_there_are_datamodels(begun, capsys) -> None:
  start(status.PROGRAM, begun.path, toy={})
  said = capsys.readouterr().out
  [lds] = re.findall(r"LDS so far (0\.\d\d), of a rough fit to 64 models", said)
  assert float(lds) > 0.5
  assert re.search("train_subsets +not finished", said)


def test_what_is_no_line_of_a_log_is_left_out(begun, capsys) -> None:
  logs = begun.path / "logs"
  logs.mkdir(parents=True)
  line = {"what": "models of subsets", "done": 3, "total": 7, "per_second": 0.5}
  line |= {"seconds_left": None, "memory_bytes": 0, "host": "a", "time": "now"}
  texts = [json.dumps(line), "[1]", "3", "null", "{}", '{"done": 1}', '{"wh']
  (logs / "a.jsonl").write_text("\n".join(texts))
  (logs / "b.jsonl").write_text("[2]\n")
  (logs / "c.jsonl").mkdir()
  os.symlink(logs / "nothing", logs / "d.jsonl")
  assert status.last_lines(begun.path) == [line]
  start(status.PROGRAM, begun.path, toy={})
  assert "models of subsets" in capsys.readouterr().out


def test_watching_ends_when_all_that_was_begun_is_finished(
  begun, capsys, monkeypatch
) -> None:
  monkeypatch.setattr(status, "_SECONDS", 0.02)
  monkeypatch.setattr(status, "_CHECK_SECONDS", 0.01)
  monkeypatch.setattr(status, "_IDLE_SECONDS", -1.0)
  checks = iter(range(20))

  def check() -> None:
    if next(checks) == 4:
      with begun.lock():
        stages.run(begun, "train_subsets", {}, dict)

  monkeypatch.setattr(status.preemption, "check", check)
  with flagsaver.flagsaver(watch=True):
    start(status.PROGRAM, begun.path, toy={})
  shown = capsys.readouterr().out
  assert shown.count("stage   ") >= 2
  assert shown.count("not finished") == shown.count("stage   ") - 1
  assert "\033" not in shown  # Of a terminal only.


def test_watching_does_not_end_between_two_stages(begun, capsys, monkeypatch) -> None:
  monkeypatch.setattr(status, "_SECONDS", 0.02)
  monkeypatch.setattr(status, "_CHECK_SECONDS", 0.01)
  with begun.lock():
    stages.run(begun, "train_subsets", {}, dict)
  checks = iter(range(9))

  def check() -> None:
    if next(checks) == 4:  # As much later.
      monkeypatch.setattr(status, "_IDLE_SECONDS", -1.0)

  monkeypatch.setattr(status.preemption, "check", check)
  with flagsaver.flagsaver(watch=True):
    start(status.PROGRAM, begun.path, toy={})
  assert next(checks) > 4


@pytest.mark.slow
def test_a_finished_fit_shows_its_own_quality(finished, tmp_path, capsys) -> None:
  before = shutil.copytree(finished, tmp_path / "run")
  start(status.PROGRAM, before, toy={})
  assert re.search(r"\nLDS -?\d\.\d{3} \[", capsys.readouterr().out)


def test_a_process_is_shown_by_the_newest_line_of_its_log(begun, capsys) -> None:
  logs = begun.path / "logs"
  logs.mkdir(parents=True)
  line = {"what": "models", "total": 7000, "per_second": 0.5, "host": "3/8"}
  times = [(1000, 12000.0, "early"), (6700, 600.0, "late")]
  texts = [
    json.dumps(
      {**line, "done": done, "seconds_left": left, "time": time, "memory_bytes": 3.21e9}
    )
    for done, left, time in times
  ]
  (logs / "a.jsonl").write_text("\n".join([*texts, '{"do']))
  start(status.PROGRAM, begun.path, toy={})
  said = capsys.readouterr().out
  [shown] = [row for row in said.splitlines() if row.startswith("3/8")]
  assert " ".join(shown.split()) == "3/8 models 6,700 7,000 0.50 10.0 min 3,210 late"


def test_models_that_diverged_are_counted_by_store(begun, capsys) -> None:
  made = bank.open_store(begun.bank / "subsets", num_targets=3, num_train=20, settings={})
  margins = np.zeros((32, 3), np.float32)
  margins[:5] = np.nan
  bank.write(made, 2, np.ones((32, 20), bool), margins, about={"diverged": 5})
  start(status.PROGRAM, begun.path, toy={})
  assert re.search(r"\nsubsets +96 +5\n", capsys.readouterr().out)
