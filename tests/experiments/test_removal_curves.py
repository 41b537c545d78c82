"""Equal numbers of removals by every method."""

import csv
import types

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from support.programs import start

from experiments.runtime import base_models, launcher
from experiments.studies import removal_curves
from jaxdm import prng
from jaxdm.errors import UserError

ASKED = {"methods": "influence,random", "curve_sizes": "2,6", "curve_models": "3"}


@pytest.mark.slow
def test_curves_are_what_retraining_says(finished_copy, capsys) -> None:
  start(removal_curves.PROGRAM, finished_copy, **ASKED)
  assert "influence" in capsys.readouterr().out
  rows = list(csv.DictReader((finished_copy / "removal_curves.csv").open()))
  assert len(rows) == 2 * 2 * 3
  with flagsaver.as_parsed(workdir=str(finished_copy)):
    opened = launcher.open_run()
  influence = base_models.load(opened).scores["influence"]
  for row in rows[:4]:
    target, k = int(row["target"]), int(row["removed"])
    mask = np.ones(48, bool)
    mask[np.argsort(-influence[target], kind="stable")[:k]] = False
    seeds = prng.model_seeds("curve", 3)
    margins = opened.trainer(np.tile(mask, (3, 1)), opened.trainer.labels, seeds)[
      :, target
    ]
    assert row["method"] == "influence" and row["models"] == "3"
    np.testing.assert_allclose(float(row["mean_margin"]), margins.mean(), rtol=1e-6)


@pytest.mark.parametrize("share", [1e-6, 0.25, 0.5, 0.999999])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 100])
def test_default_sizes_fit_every_class(size, share) -> None:
  data = types.SimpleNamespace(
    train_labels=np.repeat([0, 1], [size, 101]), test_labels=np.array([0, 1])
  )
  targets = np.array([0, 1])
  if size == 1:
    with pytest.raises(UserError, match="^search_targets must be of classes with two"):
      removal_curves._sizes(data, targets, share)
    return
  sizes = removal_curves._sizes(data, targets, share)
  assert sizes and set(sizes) <= set(range(1, size))
  with (
    flagsaver.flagsaver(curve_sizes=[str(size)]),
    pytest.raises(UserError, match="^curve_sizes must be numbers in"),
  ):
    removal_curves._sizes(data, targets, share)


def test_differences_are_paired_by_target() -> None:
  rng = np.random.default_rng(0)
  hard = rng.normal(size=20) * 10
  margins = {"a": hard + rng.normal(size=20), "b": hard - 1 + rng.normal(size=20)}
  rows = [
    removal_curves.Row(target, method, 5, float(margin), 8)
    for method, values in margins.items()
    for target, margin in enumerate(values)
  ]
  first, second = removal_curves.summarise(rows)
  assert first["difference"] == first["standard_error"] == 0
  pairs = margins["b"] - margins["a"]
  assert second["difference"] == pytest.approx(pairs.mean())
  assert second["standard_error"] == pytest.approx(scipy.stats.sem(pairs))
  assert second["flipped"] == (margins["b"] <= 0).mean()


def test_default_sizes_are_the_largest_removal_of_a_search_and_half_of_it() -> None:
  data = types.SimpleNamespace(
    train_labels=np.repeat([0, 1], [40, 101]), test_labels=np.array([0, 1])
  )
  assert removal_curves._sizes(data, np.array([0, 1]), 0.25) == [5, 10]
  assert removal_curves._sizes(data, np.array([1]), 0.25) == [12, 25]


def test_rows_are_means_of_the_models_of_one_removal(monkeypatch) -> None:
  """Of all classes by influence, of the target's class by similarity."""
  labels = np.array([0, 0, 0, 1, 1, 1])
  data = types.SimpleNamespace(train_labels=labels, test_labels=np.array([1, 0]))
  scores = {
    "influence": np.array([[9.0, 1, 2, 8, 3, 4], [5, 6, 0, 9, 1, 2]]),
    "similar": np.array([[9.0, 1, 2, 3, 8, 4], [5, 6, 0, 9, 1, 2]]),
  }
  first_two = {
    ("influence", 0): [0, 3],
    ("influence", 1): [3, 1],
    ("similar", 0): [4, 5],
    ("similar", 1): [1, 0],
  }
  chosen = {}

  def trains(trainer, edit, count):
    def remove(changes, seeds, progress):
      for case, _ in changes:
        chosen.setdefault((case.method, int(case.target)), list(case.ranking[:2]))
      places = np.unique(seeds, return_inverse=True)[1]
      margins = [100 * case.target + 10 * k for case, k in changes] + places
      return np.where((places == 2) & (np.arange(len(places)) < 3), np.nan, margins)

    return remove

  monkeypatch.setattr(removal_curves.methods, "scores", lambda run, names: scores)
  monkeypatch.setattr(removal_curves, "TrainChanges", trains)
  run = types.SimpleNamespace(
    experiment=types.SimpleNamespace(compare=types.SimpleNamespace(names=tuple(scores))),
    dataset=data,
    trainer=None,
    bar=lambda name: None,
  )
  with flagsaver.flagsaver(curve_models=3):
    rows = removal_curves.train(run, np.array([0, 1]), [1, 2])
  assert chosen == first_two
  expected = [
    (target, method, k, 100 * target + 10 * k + 1, 3)
    for method in scores
    for target in (0, 1)
    for k in (1, 2)
  ]
  expected[0] = (0, "influence", 1, 10.5, 2)  # One of the first three has diverged.
  expected[4] = (0, "similar", 1, 10.5, 2)
  assert [tuple(row) for row in rows] == expected


def test_a_mean_margin_of_zero_is_a_flip() -> None:
  rows = [
    removal_curves.Row(target, "mine", 5, margin, 8)
    for target, margin in enumerate((0.0, 0.1, -0.1, 0.2))
  ]
  [found] = removal_curves.summarise(rows)
  assert found["flipped"] == 0.5
