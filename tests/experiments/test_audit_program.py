"""Audits of workdirs and of files."""

import csv
import errno
import json
import os
import pathlib

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from support import planted
from support.programs import TOY, contents, start

from experiments import (
  audit,
  brittleness,
  fit_datamodels,
  label_flip,
  pipeline,
  report,
  train_subsets,
)
from experiments.ops import bank as bank_launcher
from experiments.report_page import opening
from experiments.runtime import datamodels, stages
from experiments.runtime.run import Run
from experiments.runtime.workdir import WorkdirError


def run(folder: pathlib.Path, *stages, **changes: str | None) -> Run:
  with planted.experiment(folder, **changes) as opened:
    for stage in stages:
      stage.main(opened)
  return opened


def rows_of(folder: pathlib.Path) -> list[dict[str, str]]:
  with (folder / "audit.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_a_workdir_is_audited(tmp_path, capsys, monkeypatch) -> None:
  monkeypatch.setattr(opening, "_LEAST_GAIN", 1.0)  # All models are poor.
  folder = tmp_path / "run"
  run(folder, train_subsets, audit, audit="true")
  text = capsys.readouterr().out
  assert "run fit_datamodels first" in text
  assert "these models are poor" in text.partition("suspicious labels: ")[0]
  without = rows_of(folder)
  assert {row["support"] for row in without} == {""}
  opened = run(folder, fit_datamodels, audit)
  text = capsys.readouterr().out
  assert "audit: done again with what is there, since: new " in text
  rows, data = rows_of(folder), opened.dataset
  assert [row["index"] for row in rows] == [str(i) for i in range(48)]
  assert [row["source"] for row in rows] == list(data.train_sources)
  assert [row["label"] for row in rows] == [
    data.class_names[label] for label in data.train_labels
  ]

  def column(name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])

  # The planted truth: margins are normal, of spread 1.
  out_n, in_n = planted.training_margins()
  expected = {
    "consistency": scipy.stats.norm.cdf(out_n),
    "memorisation": scipy.stats.norm.cdf(in_n) - scipy.stats.norm.cdf(out_n),
  }
  for name, truth in expected.items():
    low, high = column(f"{name}_low"), column(f"{name}_high")
    assert np.mean((low <= truth) & (truth <= high)) > 0.85
  assert (column("models_in") + column("models_out") == 174).all()
  weights = datamodels.load(opened.workdir).weights_tn
  np.testing.assert_allclose(column("support"), weights.clip(0).sum(axis=0), rtol=1e-4)
  doubted = [row for row in rows if row["suggested_label"] != row["label"]]
  summary = json.loads((folder / "audit.json").read_text())
  assert summary["other_label_suggested"] == len(doubted) > 0
  sure = [row for row in doubted if float(row["consistency_high"]) < 0.2]
  assert 0 < summary["suspicious"] == len(sure) < len(doubted)
  assert f"suspicious labels: {len(sure)}," in text
  listed = [line.split()[0] for line in text.splitlines() if "fashion:train[" in line]
  sure.sort(key=lambda row: float(row["label_quality"]))
  assert listed == [row["index"] for row in sure[:10]]
  pictures = {path.name for path in folder.glob("audit_*.png")}
  assert pictures >= {"audit_suspicious.png", "audit_memorised.png", "audit_opposed.png"}
  assert summary["captions"].keys() == pictures
  before = contents(folder)
  capsys.readouterr()
  run(folder, audit)
  assert contents(folder) == before
  text = capsys.readouterr().out
  assert all(str(folder / name) in text for name in {"audit.csv", *pictures})
  assert "next: python -m experiments.pipeline" in text


def test_a_table_of_an_audit_that_failed_later_is_not_that_of_the_one_before(
  tmp_path, monkeypatch
) -> None:
  folder = tmp_path / "run"
  opened = run(folder, train_subsets, audit, audit="true")
  first = (folder / "audit.csv").read_bytes()
  run(folder, fit_datamodels)  # The next audit has support and opposition.

  def fill_the_disk(*_: object) -> dict[str, object]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(audit, "summarise", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
      run(folder, audit)
  assert (folder / "audit.csv").read_bytes() != first
  assert not stages.is_finished(opened.workdir, audit.STAGE)
  assert "audit.csv" in stages.changed_files(opened.workdir)
  with pytest.raises(WorkdirError, match="another audit.csv.* than audit has written"):
    stages.summary_of(opened.workdir, audit.STAGE)
  run(folder, audit)
  assert stages.is_finished(opened.workdir, audit.STAGE)
  assert not stages.changed_files(opened.workdir)


def test_a_workdir_without_predictions_says_how_to_add_them(tmp_path) -> None:
  run(tmp_path / "run", train_subsets)
  with pytest.raises(WorkdirError, match="lacks predictions .* --audit, with the same"):
    run(tmp_path / "run", audit)
  with pytest.raises(WorkdirError, match="lacks predictions of 174 of 174 models"):
    run(tmp_path / "run", audit, audit="true")


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
  """A bank of 80 models on 30 examples of three classes; example 4 has a wrong label."""
  rng = np.random.default_rng(0)
  masks, labels = rng.random((80, 30)) < 0.5, np.arange(30) % 3
  margins = rng.normal(size=(80, 30)) + 2
  margins[:, 4] -= 5
  classes = np.where(margins > 0, labels, 2)
  arrays = {
    "masks": masks,
    "train_margins": margins.astype(np.float32),
    "train_labels": labels,
    "train_classes": classes,
  }
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
  return {name: str(tmp_path / f"{name}.npy") for name in arrays}


def test_files_are_audited_and_remembered(tmp_path, files, capsys) -> None:
  folder = tmp_path / "run"
  start(audit.PROGRAM, folder, toy=files)
  rows = rows_of(folder)
  worst = min(rows, key=lambda row: float(row["label_quality"]))
  assert worst["index"] == "4" and worst["suggested_label"] == "2"
  assert not list(folder.glob("*.png"))
  text = capsys.readouterr().out
  assert f"written: {folder / 'audit.csv'}" in text and "next: " not in text
  before = contents(folder)
  start(audit.PROGRAM, folder, toy={})
  assert contents(folder) == before


def test_imported_models_are_audited(tmp_path, files) -> None:
  folder = tmp_path / "run"
  margins = np.random.default_rng(1).normal(size=(80, 5)).astype(np.float32)
  np.save(tmp_path / "margins.npy", margins)
  given = {"masks": files["masks"], "margins": str(tmp_path / "margins.npy")}
  start(bank_launcher.PROGRAM, folder, toy=given, do="import")
  with pytest.raises(SystemExit, match="error: --train_margins is needed to audit"):
    start(audit.PROGRAM, folder, toy={})
  start(fit_datamodels.PROGRAM, folder, toy={"num_held_out": "20", "num_lambdas": "4"})
  pathlib.Path(files.pop("masks")).unlink()  # The store has them.
  start(audit.PROGRAM, folder, toy=files)
  rows = rows_of(folder)
  assert rows[4]["suggested_label"] == "2" and float(rows[4]["label_quality"]) < 0.2
  assert all(row["support"] for row in rows)


@pytest.mark.parametrize(
  "change,message",
  [
    ({"masks": None}, "masks is needed with --train_margins"),
    ({"train_labels": None}, "train_labels is needed with --train_margins"),
    ({"train_margins": None}, "train_margins is needed to audit"),
    ({"train_labels": "masks"}, "train_labels=.* must hold integers"),
    ({"train_margins": "none"}, "train_margins=.* is not a whole .npy file"),
    ({"train_labels": "none"}, "train_labels=.* is not a whole .npy file"),
    ({"train_classes": "few"}, r"train_classes must be .* = \[80, 30\], as the masks"),
  ],
)
def test_bad_files_end_in_one_line(tmp_path, files, change, message) -> None:
  np.save(tmp_path / "few.npy", np.zeros((80, 29), int))
  for name, other in change.items():
    files[name] = other and str(tmp_path / f"{other}.npy")
  given = {name: path for name, path in files.items() if path}
  with pytest.raises(SystemExit, match=f"error: --{message}"):
    start(audit.PROGRAM, tmp_path / "run", toy=given)
  assert not (tmp_path / "run" / "audit.csv").exists()


@pytest.mark.slow
def test_the_pipeline_audits_and_the_report_shows_it(tmp_path) -> None:
  folder = tmp_path / "run"
  start(pipeline.PROGRAM, folder, toy=TOY | {"methods": "datamodel", "priors": "none"})
  with flagsaver.flagsaver():
    start(pipeline.PROGRAM, folder, toy={}, audit="true")
  page = (folder / "report.html").read_text()
  assert "What the models say of the training examples" in page
  assert json.loads((folder / "summary.json").read_text())["audit"]["examples"] == 48
  assert "audit_memorised.png" in page
  start(report.PROGRAM, folder, toy={}, out=str(tmp_path / "out"))
  stages = (train_subsets, fit_datamodels, brittleness, label_flip, report)
  for program in stages:
    start(program.PROGRAM, folder, toy={}, num_models="48")
  page = (folder / "report.html").read_text()
  assert "What the models say of the training examples" not in page  # Of other fits.


@pytest.mark.parametrize(
  "name", ["masks", "train_margins", "train_labels", "train_classes"]
)
def test_other_files_are_audited_again(tmp_path, files, capsys, name) -> None:
  folder = tmp_path / "run"
  start(audit.PROGRAM, folder, toy=files)
  array = np.load(files[name])
  array[-1] = array[0] if array.ndim == 1 else np.roll(array[-1], 1)
  np.save(files[name], array)
  capsys.readouterr()
  start(audit.PROGRAM, folder, toy={})
  assert "audit: done again with what is there, since: digest" in capsys.readouterr().out
