"""What results say of how they were made."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath

from experiments.ops import bank, status
from experiments.runtime import launcher, processes, provenance, records, stages
from experiments.runtime.workdir import Workdir
from jaxdm import devices, identity
from jaxdm.storage import store, zarr_arrays

SETTINGS = {"group": {"size": 3}}


def run(folder, stage: str = "stage", settings=SETTINGS, work=dict) -> dict:
  opened = Workdir(str(folder))
  with opened.lock():
    return stages.run(opened, stage, settings, work)


def other_version(monkeypatch) -> dict[str, str]:
  """From here on, results are made by another version, which is returned."""
  other = {**identity.made_by(), "code": "0123456789abcdef", "jax": "0.0.1"}
  monkeypatch.setattr(identity, "made_by", lambda: other)
  return other


_KILLED = """
import sys, time
from absl import flags
flags.FLAGS(["killed"])
from experiments.runtime import provenance
import test_provenance
provenance._WRITE_SECONDS = 0.1
test_provenance.run(sys.argv[1], work=lambda: time.sleep(600))
"""


def test_the_seconds_of_a_killed_start_count(tmp_path) -> None:
  folder = tmp_path / "run"
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  process = subprocess.Popen([sys.executable, "-c", _KILLED, str(folder)], env=env)
  deadline = time.monotonic() + 120
  while not list(folder.glob("starts/*.json")) and time.monotonic() < deadline:
    time.sleep(0.02)
  began = time.monotonic()
  time.sleep(1.5)
  process.send_signal(signal.SIGKILL)
  process.wait()
  killed_after = time.monotonic() - began
  before = stages.starts_by_stage(Workdir(str(folder)))["stage"]
  assert killed_after - 1.0 < before.seconds < killed_after + 1.0
  assert before.starts == 1
  summary = run(folder, work=lambda: time.sleep(0.3) or {})
  record = json.loads((folder / "stages" / "stage.json").read_text())
  assert record["starts"] == 2 and record["processes"] == 1
  assert before.seconds + 0.29 <= record["seconds"] <= before.seconds + 0.3 + 5
  assert summary["seconds"] == record["seconds"]
  assert record["started"] == before.started <= record["finished"]
  assert record["made_by"] == [identity.made_by()]
  # The process that was killed had one device.
  assert record["devices"] == provenance.distinct(["1 x cpu", devices.describe()])


def test_a_finished_stage_stays_as_it_was_made(tmp_path, monkeypatch) -> None:
  run(tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
  other_version(monkeypatch)
  run(tmp_path)
  assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


def test_only_starts_on_the_same_result_count(tmp_path) -> None:
  run(tmp_path)
  run(tmp_path, "stage_2")
  (tmp_path / "stages" / "stage.json").unlink()
  run(tmp_path, settings={"group": {"size": 4}})
  found = stages.starts_by_stage(Workdir(str(tmp_path)))
  assert [made.starts for made in found.values()] == [1, 1]
  assert len(list((tmp_path / "starts").iterdir())) == 3


def test_a_damaged_start_is_not_counted_and_ends_nothing(tmp_path) -> None:
  run(tmp_path)
  [path] = (tmp_path / "starts").iterdir()
  path.write_bytes(path.read_bytes()[:-20])
  stages.reopen(Workdir(str(tmp_path)), "stage")
  with pytest.warns(UserWarning, match="this start is not counted"):
    run(tmp_path)
  record = json.loads((tmp_path / "stages" / "stage.json").read_text())
  assert record["complete"] and record["starts"] == 1


def test_processes_of_a_job_are_summed(tmp_path, monkeypatch) -> None:
  with provenance.Start(epath.Path(tmp_path), "stage", {}):
    time.sleep(0.2)
  monkeypatch.setattr(processes, "share", lambda: (1, 2))
  with provenance.Start(epath.Path(tmp_path), "stage", {}):
    time.sleep(0.2)
  found = provenance.of_stage(epath.Path(tmp_path), "stage", {})
  assert (found.starts, found.processes) == (2, 2) and found.seconds >= 0.4


def mixed(folder, monkeypatch) -> None:
  """A workdir whose store and one of whose stages are of two versions."""
  opened = Workdir(str(folder))

  def write(chunk: int) -> dict:
    columns = {"margins": zarr_arrays.ArraySpec("float32", 3)}
    made = store.Store(opened.bank / "subsets", columns=columns, settings={})
    made.write(chunk, {"margins": np.zeros((2, 3))})
    return {stages.UNFINISHED: 1 - chunk}

  run(folder, "first")
  run(folder, "second", work=lambda: write(0))
  assert stages.mixtures(opened) == []
  other_version(monkeypatch)
  run(folder, "second", work=lambda: write(1))


def test_several_versions_are_named_by_status_and_verify(
  tmp_path, monkeypatch, capsys
) -> None:
  mine, folder = identity.made_by(), tmp_path / "run"
  mixed(folder, monkeypatch)
  codes = sorted([mine["code"][:12], "0123456789ab"])
  how = f"jax 0.0.1 or {mine['jax']}; code {' or '.join(codes)}"
  expected = [
    f"the store subsets was made by 2 versions: {how}",
    f"the stage second was made by 2 versions: {how}",
  ]
  assert stages.mixtures(Workdir(str(folder))) == expected
  record = json.loads((folder / "stages" / "second.json").read_text())
  assert record["made_by"] == [mine, identity.made_by()]
  with flagsaver.as_parsed(workdir=str(folder)):
    launcher.Program(status.main, launcher.open_workdir, "not").start(["prog"])
    printed = capsys.readouterr().out
    assert all(f"note: {line}" in printed for line in expected)
    bank.check(bank.ImportedWorkdir(launcher.open_workdir()), repair=False)
  printed = capsys.readouterr().out
  assert all(f"note: {line}" in printed for line in expected)
  assert "every byte is as it was written" in printed


def test_stages_of_one_version_each_may_differ_from_each_other(
  tmp_path, monkeypatch
) -> None:
  run(tmp_path, "first")
  other_version(monkeypatch)
  run(tmp_path, "second")
  [line] = stages.mixtures(Workdir(str(tmp_path)))
  assert line.startswith("the workdir, stage by stage, was made by 2 versions: jax ")


def test_starts_of_another_workdir_are_taken_over(tmp_path) -> None:
  for name in ("mine", "other"):
    run(tmp_path / name)
  mine, other = (epath.Path(tmp_path / name) for name in ("mine", "other"))
  for _ in range(2):  # The second time they are there.
    provenance.take_over(mine, other)
    assert (
      provenance.of_stage(mine, "stage", {"settings": SETTINGS, "inputs": {}}).starts == 2
    )


def test_settings_that_may_grow_are_no_part_of_a_result() -> None:
  def result(models: int, alpha: float = 0.5, **more: bool) -> dict:
    groups = {"collect": {"num_models": models, "alpha": alpha}, "audit": more}
    return records.result_of({"settings": groups, "inputs": {}})

  found = result(10, audit=True)
  assert found == result(20, audit=False) != result(10, 0.4, audit=True)


def test_a_follower_waits_for_a_record_of_its_own_settings(tmp_path, monkeypatch) -> None:
  run(tmp_path)
  ready = []
  monkeypatch.setattr(
    processes, "wait_until", lambda is_ready, _: ready.append(is_ready())
  )
  for size in (3, 4):
    depends_on = {"settings": {"group": {"size": size}}, "inputs": {}}
    stages._follow(Workdir(str(tmp_path)), "stage", depends_on, dict, ())
  assert ready == [True, False]
