"""The study of moments: means of what `attribution_scores` computes."""

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import start

import jaxdm
from experiments import brittleness
from experiments.runtime import base_models, launcher, subset_models
from experiments.studies import moments
from jaxdm.report import tables

pytestmark = pytest.mark.slow


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
