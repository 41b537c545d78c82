"""Every launcher's main on a toy size, and what bad input gets."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from support.programs import TOY, contents, start

from experiments import (
  brittleness,
  fit_datamodels,
  label_flip,
  pipeline,
  report,
  train_subsets,
)
from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from experiments.ops import status
from experiments.runtime import launcher, progress_bar, provenance, relabel, stages
from experiments.runtime.workdir import Workdir
from jaxdm.brittleness import label_flips as label_flip_lib
from jaxdm.brittleness.config import SearchConfig
from jaxdm.errors import UserError
from jaxdm.storage import checksummed_json
from jaxdm.training.trainer import Trainer

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_the_pipeline_leaves_everything_it_promises(finished) -> None:
  summary = json.loads((finished / "summary.json").read_text())
  assert summary["settings"]["collect"]["num_models"] == 40
  assert summary["train_subsets"]["num_train"] == 48
  for stage in ("train_subsets", "fit_datamodels", "brittleness", "label_flip"):
    made = summary["provenance"][stage]
    assert made["starts"] == 1 and made["seconds"] == summary[stage]["seconds"] > 0
    assert made["made_by"] == [provenance.maker()] and made["started"].endswith("Z")
  assert summary["mixtures"] == []
  for name in ("brittleness", "label_flip"):
    rows = list(csv.DictReader((finished / f"{name}.csv").open()))
    methods = [*settings_lib.METHODS, *(["relabel"] if name == "label_flip" else [])]
    assert [r["method"] for r in rows] == [m for m in methods for _ in range(3)]
    for row in rows:
      examples = np.array(row["examples"].split(), int)
      assert int(row["k_tried"]) <= len(examples) == int(row["largest"]) <= 6
      assert (row["censored"] == "True") == (row["k"] == "-1")
      if row["censored"] == "False":
        assert float(row["margin_high"]) <= 0
  ceiling = summary["fit_datamodels"]["lds_ceiling"]
  assert summary["fit_datamodels"]["held_out_models"] == 16
  assert 0 <= ceiling["low"] <= ceiling["high"] <= 1
  targets = list(csv.DictReader((finished / "targets.csv").open()))
  wrong = [row for row in targets if row["right"] == "False"]
  assert len(targets) == 20 and summary["wrong_targets"] == wrong
  page = (finished / "report.html").read_text()
  assert page.count("data:image/png;base64") >= 2
  assert (finished / "figures" / "brittleness.png").stat().st_size > 1000


def test_a_workdirs_seed_is_that_of_stages_to_come_as_well() -> None:
  begun = dataclasses.asdict(settings_lib.CollectConfig(seed=7))
  searched = dataclasses.asdict(SearchConfig(seed=3))
  with flagsaver.as_parsed():
    assert experiment_flags.experiment({"collect": begun}).search.seed == 7
    assert (
      experiment_flags.experiment({"collect": begun, "search": searched}).search.seed == 3
    )
    assert experiment_flags.experiment({"removal_curves": {"seed": 5}}).search.seed == 0
  with flagsaver.as_parsed(seed="9"):
    chosen = experiment_flags.experiment({"collect": begun, "search": searched})
    assert chosen.collect.seed == chosen.search.seed == 9


def test_settings_of_another_version_are_named() -> None:
  begun = dataclasses.asdict(settings_lib.CompareConfig()) | {"greed": 1}
  with (
    flagsaver.as_parsed(),
    pytest.raises(ValueError, match="workdir was begun with another version.* greed"),
  ):
    experiment_flags.experiment({"compare": begun})


@pytest.mark.slow
def test_a_search_whose_budget_ran_out_is_drawn(finished_copy) -> None:
  folder = finished_copy
  (folder / "stages" / "brittleness.json").unlink()
  (folder / "report.html").unlink()
  start(brittleness.PROGRAM, folder, budget_models="4", search_models="1")
  with flagsaver.as_parsed(workdir=str(folder)):
    report.PROGRAM.start(["prog"])
  text = (folder / "report.html").read_text()
  assert "The budget of retrained models ran out: " in text


@pytest.mark.slow
def test_later_stages_remember_the_preset(tmp_path) -> None:
  toy = {name: value for name, value in TOY.items() if name != "num_targets"}
  with flagsaver.as_parsed(workdir=str(tmp_path / "run"), preset="fashion-all", **toy):
    train_subsets.PROGRAM.start(["prog"])
  with flagsaver.as_parsed(workdir=str(tmp_path / "run")):
    opened = launcher.open_run()
  assert opened.experiment.search.num_targets == 120
  with (
    flagsaver.as_parsed(workdir=str(tmp_path / "run"), preset="fashion", **toy),
    pytest.raises(SystemExit, match="--preset: stored 'fashion-all', asked 'fashion'"),
  ):
    train_subsets.PROGRAM.start(["prog"])


def test_later_stages_remember_where_the_images_are(tmp_path, monkeypatch) -> None:
  images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
  parts = {"train_images": images, "train_labels": labels}
  np.savez(tmp_path / "mine.npz", **parts, test_images=images, test_labels=labels)
  toy = {"dataset": "arrays", "alpha": "0.5", "batch_size": "2", "workdir": "run"}
  monkeypatch.chdir(tmp_path)

  def stage(opened) -> None:
    stages.run(opened.workdir, "stage", {"search": {"seed": 0}}, dict)

  with flagsaver.as_parsed(**toy, arrays="mine.npz"):
    launcher.Program(stage).start(["prog"])
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  found = []
  toy["workdir"] = str(tmp_path / "run")
  with flagsaver.as_parsed(**toy):
    launcher.Program(lambda opened: found.append(opened.dataset)).start(["prog"])
  np.testing.assert_array_equal(found[0].train_labels, labels)
  with (
    flagsaver.as_parsed(**toy, arrays="gone.npz"),
    pytest.raises(SystemExit, match="error: --arrays=.*gone.npz cannot be read"),
  ):
    launcher.Program(stage).start(["prog"])
  # Nor is what a refused run was given.
  np.savez(tmp_path / "other.npz", **parts, test_images=images, test_labels=labels)

  def refused(opened) -> None:
    def work() -> dict[str, Any]:
      raise UserError("width", "is wrong")

    stages.run(opened.workdir, "next", {}, work)

  with (
    flagsaver.as_parsed(**toy, arrays=str(tmp_path / "other.npz")),
    pytest.raises(SystemExit, match="--width is wrong"),
  ):
    launcher.Program(refused).start(["prog"])
  before = (tmp_path / "run" / "places.json").read_text()
  with flagsaver.as_parsed(**toy):
    launcher.Program(stage).start(["prog"])
  assert (tmp_path / "run" / "places.json").read_text() == before
  assert "mine.npz" in before


def test_a_place_for_stores_that_cannot_be_used_is_not_remembered(tmp_path) -> None:
  def stage(opened) -> None:
    stages.run(opened.workdir, "stage", {}, dict)

  with pytest.raises(SystemExit, match="^error: --bank_dir=/proc/bank cannot be used"):
    start(launcher.Program(stage), tmp_path / "run", bank_dir="/proc/bank")
  other = tmp_path / "bank"
  start(launcher.Program(stage), tmp_path / "run", bank_dir=str(other))
  assert other.exists() and not (tmp_path / "run" / "bank").exists()
  shutil.rmtree(other)
  with pytest.raises(SystemExit, match="bank is not there, and the stores .* were"):
    start(
      launcher.Program(lambda opened: stages.run(opened.workdir, "next", {}, dict)),
      tmp_path / "run",
    )


@pytest.mark.slow
def test_finished_stages_are_not_done_again(finished_copy) -> None:
  before = contents(finished_copy)
  for stage in (train_subsets, fit_datamodels, brittleness, label_flip):
    start(stage.PROGRAM, finished_copy)
  assert contents(finished_copy) == before
  # Flags that are not given take what the workdir holds, not the preset.
  start(report.PROGRAM, finished_copy, toy={})
  assert contents(finished_copy)["brittleness.csv"] == before["brittleness.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["inputs", "summary"])
def test_old_or_unfinished_label_flips_are_left_out(
  finished_copy, change, capsys
) -> None:
  path = epath.Path(finished_copy / "stages" / "label_flip.json")
  record = checksummed_json.read(path)
  if change == "inputs":
    record["inputs"]["models"] = "others"
  else:  # As a process that was killed leaves it.
    del record["summary"]
    record["complete"] = False
  checksummed_json.write(path, record)
  start(report.PROGRAM, finished_copy, toy={})
  assert "label_flip is not in the report: it was not" in capsys.readouterr().out
  assert 'id="flips"' not in (finished_copy / "report.html").read_text()


FLIPS = ('id="flips"', "relabelling", "Dashed", "Relabelled images have")


@pytest.mark.slow
def test_label_flips_can_be_left_out_and_added_later(finished_copy) -> None:
  def report_of() -> tuple[dict, str]:
    summary = json.loads((finished_copy / "summary.json").read_text())
    return summary, (finished_copy / "report.html").read_text()

  before, _ = report_of()
  (finished_copy / "stages" / "label_flip.json").unlink()
  (finished_copy / "label_flip.csv").unlink()
  start(pipeline.PROGRAM, finished_copy, label_flip="false")
  assert not (finished_copy / "stages" / "label_flip.json").exists()
  summary, page = report_of()
  assert set(before) - set(summary) == {"label_flip"}
  assert 'id="removals"' in page
  assert not any(word in page for word in FLIPS)
  start(label_flip.PROGRAM, finished_copy)
  start(report.PROGRAM, finished_copy, toy={})
  summary, page = report_of()
  assert summary["label_flip"]["methods"] == before["label_flip"]["methods"]
  assert all(word in page for word in FLIPS)


def flipped_again(folder: pathlib.Path) -> bytes:
  """The table of label flips of a finished workdir, made once more."""
  (folder / "stages" / "label_flip.json").unlink()
  (folder / "label_flip.csv").unlink()
  start(label_flip.PROGRAM, folder)
  return (folder / "label_flip.csv").read_bytes()


@pytest.mark.slow
def test_wildcards_in_a_workdirs_path_stand_for_themselves(
  finished, tmp_path, capsys
) -> None:
  folder = tmp_path / "[a]*? {b}" / "run[0-9]"
  shutil.copytree(finished, folder)
  assert flipped_again(folder) == (finished / "label_flip.csv").read_bytes()
  capsys.readouterr()
  start(status.PROGRAM, folder, toy={})
  said = capsys.readouterr().out
  for path in (*finished.glob("stages/*.json"), *finished.glob("bank/*")):
    assert f"\n{path.stem} " in said, (path, said)


@pytest.mark.slow
def test_jaxs_doubles_change_no_label_flip(finished, finished_copy) -> None:
  shutil.rmtree(finished_copy / "bank" / "changes")  # So that models are trained.
  jax.config.update("jax_enable_x64", True)
  try:
    found = flipped_again(finished_copy)
  finally:
    jax.config.update("jax_enable_x64", False)
  assert found == (finished / "label_flip.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
  "program,flag,value,stored",
  [
    (pipeline.PROGRAM, "alpha", "0.4", "--alpha: stored 0.5, asked 0.4"),
    (train_subsets.PROGRAM, "epochs", "2", "--epochs: stored 1.0, asked 2.0"),
    (fit_datamodels.PROGRAM, "width", "8", "--width: stored 4, asked 8"),
    (brittleness.PROGRAM, "test_per_class", "9", "--test_per_class: stored 10, asked 9"),
    (label_flip.PROGRAM, "margin_dtype", "float16", "--margin_dtype: stored 'float32'"),
    (pipeline.PROGRAM, "seed", "1", "--seed: stored 0, asked 1"),
    (pipeline.PROGRAM, "preset", "cifar10", "--preset: stored 'fashion', asked 'cif"),
  ],
)
def test_settings_of_other_models_stop_with_the_difference(
  finished, program, flag, value, stored
) -> None:
  before = contents(finished)
  with pytest.raises(SystemExit, match=f"^error: .*holds other models .*{stored}"):
    start(program, finished, **{flag: value})
  assert contents(finished) == before


@pytest.mark.slow
def test_labels_are_flipped_to_what_was_asked_for(tmp_path, monkeypatch) -> None:
  toy = {"classes": "T-shirt,shirt,coat", "methods": "similar", "priors": "none"}
  toy |= {"epochs": "4", "train_per_class": "16"}
  start(train_subsets.PROGRAM, tmp_path / "run", **toy)
  start(fit_datamodels.PROGRAM, tmp_path / "run", **toy)
  rows = list(csv.DictReader((tmp_path / "run" / "targets.csv").open()))
  right, wrong = (
    {r["target"]: r["class"] for r in rows if r["right"] == b} for b in ("True", "False")
  )
  some = ",".join(list(right)[:3])
  for asked, message in [
    (
      {"flip_to": right[some.split(",")[0]], "search_targets": some},
      "flip_to must not be the class",
    ),
    ({"search_targets": next(iter(wrong), "0")}, "search_targets: models on all data"),
  ][: 2 if wrong else 1]:
    with pytest.raises(SystemExit, match=message):
      start(label_flip.PROGRAM, tmp_path / "run", **toy, **asked)
    # So that the right value can be given next.
    assert not (tmp_path / "run" / "stages" / "label_flip.json").exists()
  trained, train = [], Trainer.__call__

  def spy(self, masks_mn, labels_mn, seeds, **more):
    assert masks_mn.all()
    trained.extend(labels_mn)
    return train(self, masks_mn, labels_mn, seeds, **more)

  monkeypatch.setattr(Trainer, "__call__", spy)
  start(label_flip.PROGRAM, tmp_path / "run", **toy, flip_to="best", search_targets=some)
  with flagsaver.as_parsed(workdir=str(tmp_path / "run")):
    opened = launcher.open_run()
    targets = np.array([int(target) for target in some.split(",")])
    best_un = label_flip_lib.best_class(
      relabel.scores(opened, targets), opened.trainer.labels
    )
  assert trained
  for labels_n in trained:
    changed = np.flatnonzero(labels_n != opened.trainer.labels)
    own = opened.trainer.labels[changed]
    assert changed.size and len(set(own)) == 1  # Of one target's class.
    mine = opened.trainer.target_labels[targets] == own[0]
    assert (best_un[mine][:, changed] == labels_n[changed]).all(axis=1).any()
  found = list(csv.DictReader((tmp_path / "run" / "label_flip.csv").open()))
  assert [r["method"] for r in found] == ["similar"] * 3 + ["relabel"] * 3
  assert ",".join(r["target"] for r in found[:3]) == some


def test_workdirs_that_cannot_serve_are_named(tmp_path) -> None:
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").write_text("do not touch")
  (tmp_path / "file").write_text("")
  for folder, message in [
    (tmp_path / "full", "--workdir=.*full is not empty and holds no experiment"),
    (tmp_path / "file", "--workdir=.*file cannot be read"),
    ("", "--workdir is needed"),
  ]:
    with pytest.raises(SystemExit, match=message):
      start(pipeline.PROGRAM, folder)
  assert (tmp_path / "full" / "thesis.txt").read_text() == "do not touch"


def test_a_stage_before_its_time_says_what_to_run(tmp_path) -> None:
  with pytest.raises(SystemExit, match="run python -m experiments.train_subsets"):
    start(fit_datamodels.PROGRAM, tmp_path / "run")


@pytest.mark.parametrize("name", ["stages/train_subsets.json", "places.json"])
def test_a_damaged_note_of_a_workdir_is_named(tmp_path, name) -> None:
  folder = tmp_path / "run"
  (folder / "stages").mkdir(parents=True)
  (folder / name).write_text('{"complete": tr')
  with pytest.raises(SystemExit, match=f"^error: .*{name} is damaged"):
    start(pipeline.PROGRAM, folder)


def test_logs_tell_how_far_a_process_is(tmp_path) -> None:
  (tmp_path / "run").mkdir()
  update = progress_bar.Log(tmp_path / "run", "models of subsets", lambda: 3)
  for done in (0, 1, 8):
    update(done, 8)
  text = (tmp_path / "run" / "logs" / "host-0-of-1.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  # The first and the last; those between only every few seconds.
  assert [line["done"] for line in lines] == [0, 8]
  last = lines[-1]
  assert last["diverged"] == 3 and last["total"] == 8 and last["memory_bytes"] > 0
  assert last["seconds_left"] == 0 and last["per_second"] > 0


def test_a_second_process_is_kept_out(tmp_path) -> None:
  def again(opened) -> None:
    start(launcher.Program(lambda _: None), tmp_path / "run")

  with pytest.raises(SystemExit, match="in use by another process"):
    start(launcher.Program(again), tmp_path / "run")


def test_what_a_killed_run_left_half_written_is_swept_away(tmp_path) -> None:
  folder = Workdir(str(tmp_path / "run"))
  left = folder.path / "stages" / "report.json.0123456789ab.partial"
  with folder.lock(0, 2):
    left.write_text("")
  with folder.lock(1, 2):
    assert left.exists()  # Process 0 may be writing it.
  with folder.lock():
    assert not left.exists()


@pytest.mark.slow
def test_diverged_models_end_in_one_line(tmp_path) -> None:
  with pytest.raises(SystemExit, match="--peak_learning_rate is too large: 4 of 4"):
    start(train_subsets.PROGRAM, tmp_path / "run", peak_learning_rate="1e30")


def stored(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file of a workdir's stores, half-written ones left out."""
  files = contents(folder / "bank")
  return {name: data for name, data in files.items() if not name.endswith(".partial")}


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(finished, tmp_path) -> None:
  folder = tmp_path / "killed"
  flags = [f"--{name}={value}" for name, value in {**TOY, "workdir": str(folder)}.items()]
  command = [sys.executable, "-m", "experiments.pipeline", *flags]
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  while not list(folder.glob("bank/*/done/*.json")) and time.monotonic() < deadline:
    time.sleep(0.02)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert stored(folder)
  assert not (folder / "report.html").exists()
  subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
  assert stored(folder) == stored(finished)
  for name in ("brittleness.csv", "label_flip.csv"):
    assert (folder / name).read_bytes() == (finished / name).read_bytes()
