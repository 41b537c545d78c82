"""Repairs of planted targets, whose true margins after every change are known."""

import csv
import errno
import json
import os

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from support import pages, planted
from support.programs import start

import jaxdm
from experiments import fit_datamodels, repair, report, train_subsets
from experiments.config import settings as settings_lib
from experiments.config.settings import CompareConfig
from experiments.report_page import opening
from experiments.runtime import base_models, search_targets, stages
from experiments.runtime import methods as methods_lib
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from jaxdm.errors import UserError
from jaxdm.report import tables
from jaxdm.storage import checksummed_json

METHODS = "datamodel,influence,random,pixels"


def rows_of(folder) -> list[dict[str, str]]:
  with open(folder / "repair.csv", newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def prepare(opened: Run) -> np.ndarray:
  """Runs what comes before; returns the targets' expected margins on all data."""
  train_subsets.main(opened)
  fit_datamodels.main(opened)
  return planted.weights(opened).sum(axis=1)


def test_other_changes_than_the_two_are_refused(tmp_path) -> None:
  made, path = pages.planted(), tmp_path / "repair.csv"
  verdicts = made.searches["removed"]
  found = epath.Path(tmp_path / "other.csv")
  tables.write_verdicts(found, verdicts, made.base_margins_rt, made.data)
  header, *rows = found.read_text().splitlines()
  path.write_text("\n".join([f"change,{header}", *(f"removal,{r}" for r in rows), ""]))
  (tmp_path / "stages").mkdir()
  workdir = Workdir(str(tmp_path))
  expected = {"removal": verdicts, "relabel": []}
  assert repr(repair.read_verdicts(workdir)) == repr(expected)  # Some are NaN.
  path.write_text(path.read_text().replace("removal", "Removal"))
  with pytest.raises(UserError, match="row 2, column change: must be one of removal, re"):
    repair.read_verdicts(workdir)


def expected_margin(opened: Run, row: dict[str, str]) -> float:
  """The true margin after the change of a row."""
  data, target = opened.dataset, int(row["target"])
  mask, labels = np.ones((1, planted.NUM_TRAIN), bool), data.train_labels.copy()
  changed = json.loads(row["changed"])
  if row["change"] == "removal":
    mask[0, changed] = False
  else:
    labels[changed] = data.test_labels[target]
  return planted.expected_margins(opened, mask, labels)[0, target]


def test_repairs_make_planted_targets_right(tmp_path, capsys, monkeypatch) -> None:
  monkeypatch.setattr(opening, "_LEAST_GAIN", 1.0)  # All models are poor.
  with planted.experiment(tmp_path / "run", methods=METHODS) as opened:
    full_t = prepare(opened)
    found = repair.main(opened)
    data, rows = opened.dataset, rows_of(tmp_path / "run")
    wrong = np.flatnonzero(full_t < 0)
    assert len(wrong) == found["targets"] > 1 and found["unfinished"] == 0
    assert {int(row["target"]) for row in rows} == set(wrong.tolist())
    methods = METHODS.split(",")
    for change, names in (("removal", methods), ("relabel", [*methods, "relabel"])):
      mine = [r["method"] for r in rows if r["change"] == change]
      assert mine == [name for name in names for _ in wrong]
    weights, claims = planted.weights(opened), 0
    for row in rows:
      target, ranking = int(row["target"]), [*map(int, row["examples"].split())]
      own, changed = data.test_labels[target], json.loads(row["changed"])
      assert changed == ranking[: int(row["k_tried"])] and row["is_repair"] == "True"
      assert row["target_class"] == data.class_names[own]
      others = np.flatnonzero(data.train_labels != own)
      if row["change"] == "relabel" or row["method"] in ("pixels", "random"):
        assert set(ranking) <= set(others.tolist())
      if row["method"] in ("influence", "relabel"):
        allowed = others if row["change"] == "relabel" else np.arange(planted.NUM_TRAIN)
        order = allowed[np.argsort(weights[target, allowed], kind="stable")]
        assert ranking == order[: len(ranking)].tolist()
      if row["censored"] == "False":
        claims += 1
        assert int(row["k"]) == len(changed) and float(row["margin_low"]) >= 0
        assert (
          expected_margin(opened, row) > -3 * planted.NOISE / int(row["models"]) ** 0.5
        )
    assert claims > 2 * len(wrong)
    shares = {
      name: one["share_flipped"] for name, one in found["methods"]["removal"].items()
    }
    assert shares["influence"] > shares["random"]
    assert (tmp_path / "run" / "repair.png").stat().st_size > 1000
    text, folder = capsys.readouterr().out, tmp_path / "run"
    assert f"written: {folder / 'repair.csv'}, {folder / 'repair.png'}\n" in text
    # There is no search for removals yet, without which there is no report.
    assert f"next: python -m experiments.pipeline --workdir={folder} shows" in text
    told_first, _, after = text.partition("targets repaired by removal")
    assert "look first whether the target's own label is right" in told_first
    assert after.count("correct ones should not be removed") == 1
    assert "these models are poor" in text.partition("targets repaired by removal")[0]
    assert "targets repaired by removal" in text and "targets repaired by relabel" in text
    best = [r for r in rows if r["method"] == "datamodel" and r["censored"] == "False"]
    assert all(
      f"target {r['target']} ({r['target_class']}, fashion:test[" in text for r in best
    )


def test_a_budget_ends_both_searches_and_a_larger_one_continues(tmp_path) -> None:
  with planted.experiment(tmp_path / "run") as opened:
    prepare(opened)
    whole = repair.main(opened)
    expected = rows_of(tmp_path / "run")
    used = sum(int(row["models_used"]) for row in expected)
  with (
    planted.experiment(tmp_path / "again") as opened,
    flagsaver.flagsaver(budget_models=used // 2),
  ):
    prepare(opened)
    assert repair.main(opened)["unfinished"] > 0
    rows = rows_of(tmp_path / "again")
    assert sum(int(row["models_used"]) for row in rows) <= used // 2
    with flagsaver.flagsaver(budget_models=used):
      assert repair.main(opened)["methods"] == whole["methods"]
    assert rows_of(tmp_path / "again") == expected


def test_a_table_of_a_repair_that_failed_later_is_not_that_of_the_one_before(
  tmp_path, monkeypatch
) -> None:
  folder, table = tmp_path / "run", tmp_path / "run" / "repair.csv"
  with planted.experiment(folder) as opened:
    prepare(opened)
    repair.main(opened)
  first, picture = table.read_bytes(), (folder / "repair.png").read_bytes()
  with planted.experiment(folder, num_sizes="3", verify_seeds="6") as opened:
    with monkeypatch.context() as patch:
      patch.setattr(repair.page, "png", _fill_the_disk)
      with pytest.raises(OSError, match="No space left"):
        repair.main(opened)
    assert table.read_bytes() != first and (folder / "repair.png").exists()
    assert not stages.is_finished(opened.workdir, repair.STAGE)
    assert stages.changed_files(opened.workdir) == {"repair.csv"}
    with pytest.raises(UserError, match="another repair.csv than repair has written"):
      stages.summary_of(opened.workdir, repair.STAGE)
  with planted.experiment(folder) as opened:
    repair.main(opened)  # With the settings that the record has.
    assert stages.is_finished(opened.workdir, repair.STAGE)
  assert table.read_bytes() == first and (folder / "repair.png").read_bytes() == picture


def _fill_the_disk(_: object) -> bytes:
  """In place of what makes a picture."""
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_targets_that_do_not_fit_are_refused_with_the_next_step(tmp_path) -> None:
  with planted.experiment(tmp_path / "run") as opened:
    full_t = prepare(opened)
    margins_rt = base_models.load(opened).margins_rt
  wrong, right = full_t.argmin(), full_t.argmax()
  search = opened.experiment.search

  def chosen(function, target, margins=margins_rt):
    compare = CompareConfig(search_targets=str(target))
    return function(margins, search, compare).tolist()

  assert chosen(search_targets.choose_wrong, wrong) == [wrong]
  assert chosen(search_targets.choose_right, right) == [right]
  message = rf"get \[{wrong}\] wrong; experiments.repair .*explain --target={wrong} shows"
  with pytest.raises(jaxdm.UserError, match=message):
    chosen(search_targets.choose_right, wrong)
  message = rf"\[{right}\] right, or .*brittleness --search_targets={right}"
  with pytest.raises(jaxdm.UserError, match=message):
    chosen(search_targets.choose_wrong, right)
  with pytest.raises(jaxdm.UserError, match="get no target wrong, so that there is noth"):
    chosen(search_targets.choose_wrong, "", np.abs(margins_rt))


def test_examples_of_third_classes_come_last() -> None:
  rng = np.random.default_rng(0)
  images, labels = np.zeros((30, 2), np.float32), np.arange(30, dtype=np.int32) % 4
  targets = images[:9], labels[:9]
  data = jaxdm.Dataset("mine", images, labels, *targets, tuple("abcd"))
  scores, rivals = rng.normal(size=(9, 30)), (labels[:9] + 1) % 4
  rows = methods_lib.of_class(scores, data, rivals)
  assert rows.shape == (9, 30)
  for target, row in zip(range(9), rows[:], strict=True):
    order = np.argsort(-row, kind="stable")
    others = [i for i in order if labels[i] != labels[target]]
    nearest = sorted(
      np.flatnonzero(labels == rivals[target]), key=lambda i, t=target: -scores[t, i]
    )
    assert others[: len(nearest) - 1] == nearest[:-1]
    own = labels == labels[target]
    np.testing.assert_allclose(row[own], scores[target, own], rtol=1e-6)


@pytest.mark.slow
def test_the_report_shows_repairs_and_other_searches_keep_their_targets(
  finished_copy, capsys
) -> None:
  before = json.loads((finished_copy / "summary.json").read_text())
  start(repair.PROGRAM, finished_copy, toy={})
  rows = rows_of(finished_copy)
  searched = {row["target"] for row in rows}
  assert {row["method"] for row in rows} == {*settings_lib.METHODS, "relabel"} - {"svm"}
  assert "svm is left out" in capsys.readouterr().out
  assert all(float(row["base_mean_margin"]) < 0 for row in rows) and len(searched) == 3
  # Other targets have other relabel scores.
  with open(finished_copy / "targets.csv", newline="", encoding="utf-8") as file:
    table = list(csv.DictReader(file))
  wrong = [
    row["target"]
    for row in table
    if float(row["base_mean_margin"]) < 0 and float(row["base_accuracy"]) < 0.5
  ]
  [new, *_] = [target for target in wrong if target not in searched]
  start(repair.PROGRAM, finished_copy, toy={}, search_targets=new, methods="similar")
  assert {row["target"] for row in rows_of(finished_copy)} == {new}
  start(report.PROGRAM, finished_copy, toy={})
  text = (finished_copy / "report.html").read_text()
  assert "How few training images make wrong predictions right" in text
  assert "by relabelling at most" in text
  summary = json.loads((finished_copy / "summary.json").read_text())
  assert summary["repair"]["targets"] == 1
  assert summary["settings"] == before["settings"]
  # Repairs of other models than there are now are not shown.
  record = epath.Path(finished_copy / "stages" / "repair.json")
  stale = checksummed_json.read(record)
  stale["inputs"]["models"] = "others"
  checksummed_json.write(record, stale)
  capsys.readouterr()
  start(report.PROGRAM, finished_copy, toy={})
  assert "repair is not in the report: it was not finished" in capsys.readouterr().out
  assert "make wrong predictions right" not in (finished_copy / "report.html").read_text()
