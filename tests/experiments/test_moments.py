"""The study of moments: means of what `attribution_scores` computes."""

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import start

import jaxdm
from experiments import brittleness
from experiments.runtime import base_models, launcher, subset_models
from experiments.studies import moments
from jaxdm.errors import UserError
from jaxdm.report import tables


@pytest.mark.slow
def test_the_rows_are_those_of_the_library(finished_copy) -> None:
  flags = {"most_models": "4", "moment_counts": "1,2", "dampings": "0.2,1"}
  start(moments.PROGRAM, finished_copy, **flags)
  rows = tables.read_rows(finished_copy / "moments.csv")
  found = {(r["models"], r["moments"], r["damping"]): float(r["lds"]) for r in rows}
  assert len(found) == 2 * 2 * 2
  with flagsaver.as_parsed(workdir=str(finished_copy)):
    run = launcher.open_run()
  masks, margins = subset_models.join(run.subsets.held_out_rows())
  # All four models, two moments, the damping of the settings: what the stage computed.
  scores = base_models.load(run).scores["influence"]
  lds = jaxdm.evaluate_scores(scores, masks, margins).lds.estimate
  assert found["4", "2", "0.2"] == pytest.approx(lds, abs=2e-3)
  # Of one model at the end of training, the mean over each of the four.
  one = [
    jaxdm.evaluate_scores(x, masks, margins).lds.estimate
    for x in moments.model_scores(run.trainer, [1], [1.0], 4)[1, 1.0]
  ]
  assert found["1", "1", "1.0"] == pytest.approx(np.mean(one), abs=2e-3)


@pytest.mark.slow
def test_the_study_is_done_again_and_changes_no_other_stage(finished_copy) -> None:
  flags = {"most_models": "2", "moment_counts": "1", "dampings": "0.2"}
  record = finished_copy / "stages" / "moments.json"

  def run(**more: str) -> float:
    start(moments.PROGRAM, finished_copy, **flags, **more)
    [row] = tables.read_rows(finished_copy / "moments.csv")[-1:]
    return float(row["lds"])

  before = run()
  written = record.stat().st_mtime_ns
  assert run() == before and record.stat().st_mtime_ns == written
  assert run(gradient_dim="8") != before
  # The experiment's own gradients are still those of 64 dimensions.
  start(brittleness.PROGRAM, finished_copy)


def test_rows_are_models_and_moments_and_columns_dampings() -> None:
  points = [
    moments.Point(64, models, count, damping, models / 100 + count / 10 + damping / 50)
    for models in (1, 4)
    for count in (2, 6)
    for damping in (0.5, 1.0)
  ]
  assert moments._lines(points, [1.0, 0.5]) == [
    "| models | moments | damping 1.0 | damping 0.5 |",
    "| --- | --- | --- | --- |",
    "| 1 | 2 | 0.230 | 0.220 |",
    "| 1 | 6 | 0.630 | 0.620 |",
    "| 4 | 2 | 0.260 | 0.250 |",
    "| 4 | 6 | 0.660 | 0.650 |",
  ]


def test_groups_are_powers_of_four_and_all() -> None:
  assert moments.group_sizes(32) == [1, 4, 16, 32]
  assert moments.group_sizes(1) == [1] and moments.group_sizes(16) == [1, 4, 16]


def test_a_model_that_diverged_is_left_out_everywhere() -> None:
  scores = np.random.default_rng(0).normal(size=(2, 4, 2, 3))
  scores[0, 2, 1, 1] = np.nan
  found, count = moments.without_diverged({(1, 0.5): scores[0], (2, 0.5): scores[1]})
  assert count == 3
  for one, expected in zip(found.values(), scores, strict=True):
    np.testing.assert_array_equal(one, expected[[0, 1, 3]])
  with pytest.raises(UserError, match="all models on all data diverged"):
    moments.without_diverged({(1, 0.5): scores[0] * np.nan})
