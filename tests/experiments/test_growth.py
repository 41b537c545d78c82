"""Workdirs that are asked for more, or for something else, than they were begun with."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from absl.testing import flagsaver
from support import planted
from support.programs import TOY, contents, start

from experiments import brittleness, fit_datamodels, label_flip, train_subsets
from experiments.config import settings as settings_lib
from experiments.runtime import data_source, progress_bar
from experiments.runtime.run import Run
from experiments.runtime.workdir import WorkdirError
from experiments.studies import efficiency, removal_curves
from jaxdm.data.dataset import Dataset
from jaxdm.training.trainer import Trainer

MORE = {"num_models": "180", "num_held_out": "30", "held_out_seeds": "4"}


def run(folder: pathlib.Path, *stages, **changes: str | None) -> Run:
  with planted.experiment(folder, **changes) as opened:
    for stage in stages:
      stage.main(opened)
  return opened


def bank_of(folder: pathlib.Path) -> dict[str, bytes]:
  return contents(folder / "bank")


def record(folder: pathlib.Path, stage: str) -> dict:
  return json.loads((folder / "stages" / f"{stage}.json").read_text())


def searched(folder: pathlib.Path, stage: str = "brittleness") -> dict[str, set[int]]:
  """The targets of each method in a stage's table."""
  found: dict[str, set[int]] = {}
  for row in csv.DictReader((folder / f"{stage}.csv").open()):
    found.setdefault(row["method"], set()).add(int(row["target"]))
  return found


def test_more_models_join_those_that_are_there(tmp_path) -> None:
  folder = tmp_path / "run"
  before = run(folder, train_subsets, fit_datamodels)
  small, old = bank_of(folder), record(folder, "fit_datamodels")["summary"]
  held_out = before.subsets.held_out_rows()
  grown = run(folder, train_subsets, fit_datamodels, **MORE)
  # What was held out still is, and no model is both fitted to and judged on.
  fitted, judged = grown.subsets.fitted_rows(), grown.subsets.held_out_rows()
  assert len(fitted.numbers) == 180 and len(judged[0].numbers) == 30 and len(judged) == 4
  assert not np.isin(fitted.numbers, judged[0].numbers).any()
  for one, two in zip(held_out, judged, strict=False):
    np.testing.assert_array_equal(one.masks.bits, two.masks.bits[:24])
    np.testing.assert_array_equal(one.margins_mt[:], two.margins_mt[:][:24])
  # Only what was missing has been trained.
  lines = (folder / "logs" / "host-0-of-1.jsonl").read_text().splitlines()
  told = [line for line in map(json.loads, lines) if line["what"].endswith("of subsets")]
  assert (told[0]["total"], told[-1]["total"]) == (174, 36)
  after = bank_of(folder)
  whole = {name: data for name, data in small.items() if name.endswith("-32.json")}
  assert whole and whole.items() <= after.items()
  new = record(folder, "fit_datamodels")["summary"]
  assert (old["models_fitted_to"], new["models_fitted_to"]) == (150, 180)
  assert new["held_out_models"] == 120
  # A workdir that was begun with as many holds the same.
  alike = run(
    tmp_path / "at once", train_subsets, fit_datamodels, held_out_from="150", **MORE
  )
  np.testing.assert_array_equal(
    alike.subsets.fitted_rows().margins_mt[:], fitted.margins_mt[:]
  )
  at_once = record(tmp_path / "at once", "fit_datamodels")["summary"]
  assert at_once["lds"] == new["lds"]


@pytest.mark.parametrize(
  "models,held_out,first,fitted",
  [
    (5, 2, None, [0, 1, 2, 3, 4]),
    (7, 2, 5, [0, 1, 2, 3, 4, 7, 8]),
    (7, 4, 5, [0, 1, 2, 3, 4, 9, 10]),
    (3, 2, 5, [0, 1, 2]),
    (3, 2, 0, [2, 3, 4]),
  ],
)
def test_the_first_models_that_are_not_held_out_are_fitted_to(
  models, held_out, first, fitted
) -> None:
  config = settings_lib.CollectConfig(
    num_models=models, num_held_out=held_out, held_out_from=first
  )
  assert config.fitted_numbers.tolist() == fitted
  start = models if first is None else first
  assert config.held_out_numbers.tolist() == list(range(start, start + held_out))


def test_later_stages_wait_for_models_and_fits_that_are_asked_for(tmp_path) -> None:
  folder = tmp_path / "run"
  run(folder, train_subsets, fit_datamodels)
  with pytest.raises(WorkdirError, match="lacks 36 of 210 models; run .*train_su"):
    run(folder, fit_datamodels, **MORE)
  with pytest.raises(WorkdirError, match="holds other fitted_rows, held_"):
    run(folder, train_subsets, brittleness, **MORE)
  # Nothing of what was asked for and could not be done stays.
  assert record(folder, "fit_datamodels")["complete"]
  run(folder, fit_datamodels, brittleness, **MORE)
  assert record(folder, "fit_datamodels")["summary"]["models_fitted_to"] == 180


def test_a_larger_search_keeps_what_a_smaller_one_trained(tmp_path) -> None:
  folder = tmp_path / "run"
  stages = train_subsets, fit_datamodels, brittleness
  run(folder, *stages)
  small, models = searched(folder), bank_of(folder)
  run(folder, brittleness, num_targets="9", methods="datamodel,random,pixels")
  large = searched(folder)
  assert large.keys() == {"datamodel", "random", "pixels"}
  assert small["datamodel"] < large["datamodel"] and len(large["datamodel"]) == 9
  assert models.items() <= bank_of(folder).items()
  # What is not said again is what was said last.
  run(folder, label_flip, num_targets=None, methods=None)
  flipped = searched(folder, "label_flip")
  assert flipped.keys() == {*large, "relabel"}
  assert set(map(frozenset, flipped.values())) == {frozenset(large["datamodel"])}


@pytest.mark.parametrize("stage", [removal_curves, efficiency])
def test_a_study_of_other_sizes_is_a_study_beside_the_first(tmp_path, stage) -> None:
  folder = tmp_path / "run"
  run(folder, train_subsets, fit_datamodels)
  flag = {removal_curves: "curve_sizes", efficiency: "sizes"}[stage]
  with flagsaver.as_parsed(**{flag: "12"}):
    run(folder, stage)
  before = contents(folder)
  with flagsaver.as_parsed(**{flag: "12,20"}):
    run(folder, stage)
  after = contents(folder)
  kept = {
    name: data
    for name, data in before.items()
    if name.startswith(("bank/", "efficiency.parts/"))
  }
  assert kept and kept.items() <= after.items()
  lines = after[f"{stage.STAGE}.csv"].decode().splitlines()
  assert set(before[f"{stage.STAGE}.csv"].decode().splitlines()) < set(lines)


@pytest.mark.parametrize("where", ["_fit", "_evaluate"])
def test_a_stage_that_failed_has_not_happened(tmp_path, monkeypatch, where) -> None:
  """Settings, places and results are those of the last one that has."""
  folder = tmp_path / "run"
  run(folder, train_subsets, fit_datamodels)
  before = {name: contents(folder / name) for name in ("stages", "datamodels")}

  def fail(*_, **__) -> None:
    raise ValueError("tol is not what I like")

  with monkeypatch.context() as patch:
    patch.setattr(fit_datamodels, where, fail)
    with pytest.raises(ValueError, match="tol is not"):
      run(folder, fit_datamodels, num_lambdas="5")
  assert {name: contents(folder / name) for name in before} == before
  opened = run(folder, num_lambdas=None)
  assert opened.experiment.fit.num_lambdas == 4


def test_a_first_stage_that_was_killed_binds_nothing(tmp_path, monkeypatch) -> None:
  """Its stores are there, for models of its settings, and empty."""
  folder = tmp_path / "run"

  def killed(*_, **__) -> None:
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Trainer, "collect", killed)
    with pytest.raises(KeyboardInterrupt):
      run(folder, train_subsets, width="5", keep_logits="true")
  assert list((folder / "bank").glob("*/manifest.json"))
  opened = run(folder, train_subsets, fit_datamodels, width="4", keep_logits=None)
  assert opened.experiment.train.width == 4
  with pytest.raises(WorkdirError, match="holds other models .*--width: stored 4"):
    run(folder, width="5")


def test_images_bind_with_the_models_too(tmp_path, monkeypatch) -> None:
  folder, load = tmp_path / "run", data_source.load

  def changed(*args) -> Dataset:
    found = load(*args)
    images = found.train_images.copy()
    images[-1, -1, -1] ^= 1
    return dataclasses.replace(found, train_images=images)

  def killed(*_, **__) -> None:
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Trainer, "collect", killed)
    with pytest.raises(KeyboardInterrupt):
      run(folder, train_subsets)
  monkeypatch.setattr(data_source, "load", changed)
  run(folder, train_subsets)
  monkeypatch.setattr(data_source, "load", load)
  with pytest.raises(WorkdirError, match="was begun with other images"):
    run(folder)


def test_names_of_classes_are_part_of_the_set(tmp_path, monkeypatch) -> None:
  folder, load = tmp_path / "run", data_source.load
  run(folder, train_subsets)

  def renamed(*args) -> Dataset:
    return dataclasses.replace(load(*args), class_names=("one", "other"))

  monkeypatch.setattr(data_source, "load", renamed)
  with pytest.raises(WorkdirError, match="other images, labels or class names than"):
    run(folder)


def test_a_fit_with_other_settings_follows_one_that_was_stopped(
  tmp_path, monkeypatch
) -> None:
  folder = tmp_path / "run"
  run(folder, train_subsets)

  def stop(done: int, total: int) -> None:
    if done:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(progress_bar, "make", lambda *_, **__: stop)
    with pytest.raises(KeyboardInterrupt):
      run(folder, fit_datamodels)
  assert list((folder / "datamodels.parts").glob("*/*.npz"))
  run(folder, fit_datamodels, num_lambdas="5")
  assert record(folder, "fit_datamodels")["settings"]["fit"]["num_lambdas"] == 5
  assert not (folder / "datamodels.parts").exists()


@pytest.mark.parametrize("wrong", [{"downscale": "14"}, {"peak_learning_rate": "1e30"}])
def test_settings_bind_when_models_depend_on_them(tmp_path, wrong) -> None:
  """A first stage that made nothing leaves nothing that the right value must match."""
  toy = {**TOY, "downscale": "7"}
  with pytest.raises(SystemExit, match=f"error: --{next(iter(wrong))}"):
    start(train_subsets.PROGRAM, tmp_path / "run", toy=toy | wrong)
  assert not (tmp_path / "run" / "stages" / "train_subsets.json").exists()
  start(train_subsets.PROGRAM, tmp_path / "run", toy=toy)
  # Now they do.
  with pytest.raises(SystemExit, match=f"holds other models .*--{next(iter(wrong))}"):
    start(train_subsets.PROGRAM, tmp_path / "run", toy=toy | wrong | {"downscale": "4"})
