"""LDS by the number of models."""

import dataclasses
import json
import pathlib
import types
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import start
from support.tables import dataset

import jaxdm
from experiments.config import presets
from experiments.runtime import launcher, subset_models
from experiments.studies import efficiency
from jaxdm import training_sets
from jaxdm.datamodels import path, priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.errors import UserError


def test_models_needed_lie_between_the_sizes_by_their_logarithms() -> None:
  curve = {100: 0.2, 400: 0.4, 1600: 0.4}
  for lds, models in [(0.1, 100), (0.2, 100), (0.3, 200), (0.4, 400), (0.5, None)]:
    assert efficiency.models_needed(curve, lds) == pytest.approx(models)


def test_savings_are_against_the_published_method() -> None:
  values = {"published": (0.2, 0.4), "other": (0.3, 0.5)}
  points = [
    efficiency.Point(way, models, lds, 0.0, 0.0)
    for way, pair in values.items()
    for models, lds in zip((100, 400), pair, strict=True)
  ] + [efficiency.Point("scores", 0, 0.9, 0.0, 0.0)]
  assert efficiency.savings(points) == {
    "published": {100: 1.0, 400: 1.0},
    "other": {100: 1.0, 400: 2.0},
  }


@pytest.mark.parametrize("folds,share", [(1, 0.2), (1, 0.01), (5, 0.2), (9, 0.2)])
@pytest.mark.parametrize("models", [2, 9, 10, 17, 40, 300])
def test_default_sizes_can_be_split(models, folds, share) -> None:
  config = FitConfig(folds=folds, validation_share=share)
  base = presets.PRESETS["fashion"]()
  collect = dataclasses.replace(base.collect, num_models=models)
  experiment = dataclasses.replace(base, collect=collect, fit=config)
  if models < 10:
    with pytest.raises(UserError, match=f"^num_models={models} of this workdir are"):
      efficiency._sizes_and_ways(experiment)
    return
  sizes, ways = efficiency._sizes_and_ways(experiment)
  assert sizes[-1] == models
  assert ways == ["published", "none", "influence+covariance"]
  for size in sizes[:-1]:  # All models are all that there are.
    for one in (config, dataclasses.replace(config, folds=1)):
      assert min(len(fold.check) for fold in path.folds(size, one)) >= 2
  with (
    flagsaver.flagsaver(sizes=["9"]),
    pytest.raises(UserError, match="^sizes must be numbers from 10"),
  ):
    efficiency._sizes_and_ways(experiment)


def held_out_of(folder: pathlib.Path) -> tuple[Any, np.ndarray]:
  """Masks and margins that judge fits of a workdir."""
  with flagsaver.as_parsed(workdir=str(folder)):
    return subset_models.join(launcher.open_run().subsets.held_out_rows())


@pytest.mark.slow
def test_every_way_is_fitted_and_judged_and_some_are_saved_as_scores(
  finished_copy, monkeypatch
) -> None:
  flags = {
    "sizes": "20,40",
    "ways": ",".join(efficiency.WAYS),
    "save": "published@20,influence@40",
  }
  start(efficiency.PROGRAM, finished_copy, **flags)
  record = json.loads((finished_copy / "stages/efficiency.json").read_text())["summary"]
  assert set(record["times_fewer_models"]) == {*efficiency.WAYS}
  lines = (finished_copy / "efficiency.csv").read_text().splitlines()
  assert len(lines) == 1 + 6 + 2 * len(efficiency.WAYS)
  ways = [line.split(",")[0] for line in lines if line.split(",")[1] == "20"]
  assert ways == [*efficiency.WAYS]
  assert (finished_copy / "efficiency.png").stat().st_size > 1000
  folder = finished_copy / "efficiency.scores"
  saved = {path.stem: np.load(path) for path in folder.iterdir()}
  assert set(saved) == {"published@20", "influence@40"}
  held_out = held_out_of(finished_copy)
  for name, weights_tn in saved.items():
    way, models = name.split("@")
    [line] = [line for line in lines if line.startswith(f"{way},{models},")]
    lds = jaxdm.evaluate_scores(weights_tn, *held_out).lds.estimate
    assert float(line.split(",")[2]) == pytest.approx(lds, abs=1e-5)
  # Another study of these fits makes none again.
  monkeypatch.setattr(efficiency, "weights", lambda *_: pytest.fail("fitted again"))
  start(efficiency.PROGRAM, finished_copy, **flags | {"ways": "none", "save": ""})
  lines = (finished_copy / "efficiency.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in lines[-2:]] == ["none", "none"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag,value,message",
  [
    ("sizes", "20,many", "--sizes must be numbers from 10 to num_models=40"),
    ("sizes", "41", "--sizes must be numbers from 10 to num_models=40"),
    ("ways", "best", r"--ways must be some of published, .*got \['best'\]"),
    ("save", "none@40,none@41", r"--save must be .*got \['none@41'\]"),
  ],
)
def test_bad_flags_are_named(finished, flag, value, message) -> None:
  with (
    flagsaver.as_parsed(workdir=str(finished), **{flag: value}),
    pytest.raises(SystemExit, match=message),
  ):
    efficiency.PROGRAM.start(["prog"])


WEIGHTS = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
LUCK = np.random.default_rng(2).normal(size=60)


def planted(margins: np.ndarray | None = None) -> efficiency.Problem:
  """Margins that are linear in the training set, plus luck that all targets share."""
  masks = np.random.default_rng(0).random((60, 8)) < 0.5
  if margins is None:
    margins = masks @ WEIGHTS.T + np.outer(3 * LUCK, [1, -1, 2, 0.5, 1])
  labels = np.arange(8) % 2, np.arange(5) % 2
  packed = training_sets.PackedMasks.of([masks])
  return efficiency.Problem(FitConfig(folds=5), dataset(*labels), {}, packed, margins)


@pytest.fixture
def lassos(monkeypatch) -> list[Any]:
  """Folds, prior and margins of each lasso that is fitted; all have `WEIGHTS`."""
  found: list[Any] = []

  def fit(masks, margins_mt, *, config, candidates) -> types.SimpleNamespace:
    [prior] = candidates.values()
    found.append((config.folds, prior, margins_mt))
    return types.SimpleNamespace(weights_tn=WEIGHTS)

  monkeypatch.setattr(efficiency, "fit_datamodels", fit)
  return found


def test_the_published_way_is_a_lasso_on_one_split(lassos) -> None:
  for way, folds in (("published", 1), ("none", 5)):
    found = efficiency.weights(way, planted())["weights"]
    np.testing.assert_array_equal(found, WEIGHTS)
    assert lassos[-1][:2] == (folds, priors.Prior())


def test_the_adaptive_way_trusts_what_is_large_in_a_first_fit(lassos) -> None:
  efficiency.weights("adaptive", planted())
  [(_, first, _), (_, second, _)] = lassos
  assert first == priors.Prior()
  np.testing.assert_array_equal(
    np.argsort(second.factors), np.argsort(-np.abs(WEIGHTS), kind="stable")
  )


def test_the_denoised_way_fits_margins_without_the_luck_of_a_model(lassos) -> None:
  problem = planted()
  efficiency.weights("denoised", problem)
  linear = problem.masks[:] @ WEIGHTS.T
  for (_, prior, margins), rest in zip(lassos, (3, 0), strict=True):
    assert prior == priors.Prior()
    spread = np.abs((margins - linear) / [1, -1, 2, 0.5, 1]).std(axis=0)
    assert (spread > 1).all() if rest else (spread < 1e-4).all()


def test_half_of_the_half_ridge_is_a_lasso(lassos) -> None:
  half, other = (
    efficiency.weights(way, planted())["weights"] for way in ("half-ridge", "components")
  )
  np.testing.assert_allclose(2 * half - WEIGHTS, other, atol=1e-5)


def test_ridges_on_components_turn_with_the_margins() -> None:
  problem = planted()
  turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
  turned = problem._replace(margins_mt=problem.margins_mt @ turn)
  found = efficiency.weights("components", turned)["weights"]
  expected = turn.T @ efficiency.weights("components", problem)["weights"]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.corrcoef(expected.ravel(), (turn.T @ WEIGHTS).ravel())[0, 1] > 0.5


def test_every_ridge_has_a_penalty_of_its_own() -> None:
  masks = planted().masks[:]
  noise = np.random.default_rng(7).normal(size=60)
  margins = np.stack([masks @ WEIGHTS[0], 30 * noise], axis=1)
  clean, none = efficiency.weights("ridge", planted(margins))["weights"]
  np.testing.assert_allclose(clean, WEIGHTS[0], atol=0.1)
  free = np.linalg.lstsq(masks - masks.mean(axis=0), margins[:, 1])[0]
  assert np.linalg.norm(none) < 0.2 * np.linalg.norm(free)
