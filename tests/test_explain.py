"""One target's story."""

import json

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from programs import start

from experiments import explain, launcher


def test_outcomes_have_exact_and_student_t_intervals() -> None:
  margins = np.array([1.0, 2.0, -0.5, 0.5, np.nan])
  found = explain.outcome("x", margins)
  t = scipy.stats.t.interval(0.95, 3, 0.75, scipy.stats.sem(margins[:4]))
  np.testing.assert_allclose(found.margin, [0.75, *t])
  # Clopper and Pearson: the upper end for 3 of 4 solves P(at most 3) = .025.
  assert found.accuracy[0] == 0.75 and found.models == 4
  np.testing.assert_allclose(scipy.stats.binom.cdf(3, 4, found.accuracy[2]), 0.025)


@pytest.mark.slow
def test_a_story_removes_and_relabels_what_each_method_names(finished_copy) -> None:
  start(explain.PROGRAM, finished_copy, target="3", ks="2,4", explain_models="3")
  record = json.loads((finished_copy / "stages/explain_3.json").read_text())["summary"]
  names = [outcome["change"] for outcome in record["outcomes"]]
  kinds = ("removed", "relabelled")
  expected = [
    f"{k} {kind}: {m}" for kind in kinds for m in explain.METHODS for k in (2, 4)
  ]
  assert names == ["nothing changed", *expected]
  assert all(outcome["models"] <= 4 for outcome in record["outcomes"])
  assert (finished_copy / "explain_3.png").stat().st_size > 1000
  with flagsaver.as_parsed(workdir=str(finished_copy)):
    opened = launcher.open_lab()
  scores = explain.methods.scores(opened, explain.METHODS)
  for change in explain.changes_of(opened, scores, 3, [2, 4]):
    label = opened.target_labels[3]
    assert len(change.removed) + len(change.relabelled) in (2, 4)
    assert (opened.labels[change.relabelled] == label).all()
    if "datamodel" not in change.name:
      assert (opened.labels[change.removed] == label).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag,value,message",
  [
    ("target", "20", r"--target must be in \[0, 20\), got 20"),
    ("ks", "2,24", r"--ks must be numbers in \[1, 24\), got 2,24"),
    ("ks", "few", r"--ks must be numbers in \[1, 24\), got few"),
  ],
)
def test_bad_flags_are_named(finished, flag, value, message) -> None:
  with (
    flagsaver.as_parsed(workdir=str(finished), **{flag: value}),
    pytest.raises(SystemExit, match=message),
  ):
    explain.PROGRAM.start(["prog"])
