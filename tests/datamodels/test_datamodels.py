import numpy as np
import pytest
from sklearn import linear_model
from support.planted_weights import WEIGHTS, models

import jaxdm
from jaxdm import matrices, prng, training_sets
from jaxdm.datamodels import model, outcomes, path, priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import Datamodels, predictions, predictions_by_subset
from jaxdm.errors import UserError
from jaxdm.storage import checkpoint


def test_planted_weights_come_back_in_the_zero_one_basis() -> None:
  fit = fit_datamodels(*models(2000))
  np.testing.assert_allclose(fit.weights_tn, WEIGHTS, atol=0.06)
  np.testing.assert_allclose(fit.intercepts_t, 0.7, atol=0.15)
  assert fit.gap_t.max() <= FitConfig().tol
  for t in range(4):
    assert fit.top(t, 1)[0] == WEIGHTS[t].argmax()


def test_the_choice_of_lambda_equals_scikit_learns_on_the_same_split() -> None:
  masks, margins = models(200, noise=2.0)
  config = FitConfig(num_lambdas=12, path_tol=1e-6, patience=12)
  fit = fit_datamodels(masks, margins, config=config)
  order = prng.generator_for(0, "validation").permutation(200)
  fit_rows, check_rows = order[40:], order[:40]
  x, y = masks.astype(float), margins
  top = np.abs((x - x.mean(0)).T @ (y - y.mean(0))).max(0) / len(x)
  x, y = masks[fit_rows].astype(float), margins[fit_rows]
  for t in range(4):
    grid = top[t] * np.geomspace(1, config.lambda_min_ratio, 12)
    errors = []
    for lam in grid:
      peer = linear_model.Lasso(alpha=lam, tol=1e-8, max_iter=50_000).fit(x, y[:, t])
      errors.append(
        np.mean((peer.predict(masks[check_rows]) - margins[check_rows, t]) ** 2)
      )
    np.testing.assert_allclose(fit.lambdas_t[t], grid[int(np.argmin(errors))], rtol=1e-4)


@pytest.mark.parametrize("folds", [1, 3])
def test_weighted_models_choose_as_those_of_scikit_learn(folds) -> None:
  masks, margins = models(200, noise=2.0)
  order = prng.generator_for(0, "validation").permutation(200)
  s = 10.0 ** np.random.default_rng(1).uniform(-1, 1, 200)
  s[order[:40]] *= 20  # So that folds count differently.
  config = FitConfig(num_lambdas=12, path_tol=1e-6, patience=12, folds=folds, tol=1e-6)
  fit = fit_datamodels(masks, margins, config=config, sample_weight=s)
  x, y = masks.astype(float), margins.astype(float)
  centred_x, centred_y = (a - np.average(a, axis=0, weights=s) for a in (x, y))
  top = np.abs((centred_x.T * s) @ centred_y).max(axis=0) / s.sum()
  parts = [order[:40]] if folds == 1 else np.array_split(order, folds)
  for t in range(4):
    grid, errors = top[t] * np.geomspace(1, config.lambda_min_ratio, 12), np.zeros(12)
    for part in parts:
      rest = np.setdiff1d(order, part)
      for i, lam in enumerate(grid):
        peer = linear_model.Lasso(alpha=lam, tol=1e-8, max_iter=50_000)
        peer.fit(x[rest], y[rest, t], sample_weight=s[rest])
        errors[i] += s[part] @ (peer.predict(x[part]) - y[part, t]) ** 2
    lam = grid[errors.argmin()]
    np.testing.assert_allclose(fit.lambdas_t[t], lam, rtol=1e-4)
    peer = linear_model.Lasso(alpha=lam, tol=1e-10, max_iter=50_000)
    peer.fit(x, y[:, t], sample_weight=s)
    np.testing.assert_allclose(fit.weights_tn[t], peer.coef_, atol=0.01)
    np.testing.assert_allclose(fit.intercepts_t[t], peer.intercept_, atol=0.01)


def test_models_of_weight_0_are_left_out_whatever_their_margins(tmp_path) -> None:
  masks, margins = models(100, noise=1.0)
  weights = np.where(np.arange(100) % 4 == 1, 0, np.arange(100) % 3 + 1)
  used = weights > 0
  broken = np.where(used[:, None], margins, np.nan)
  packed = training_sets.PackedMasks.of([masks])
  for prior in (priors.Prior(), priors.Prior(offset=WEIGHTS)):
    for sizes in (weights, used):
      expected = fit_datamodels(
        masks[used],
        margins[used],
        sample_weight=sizes[used],
        candidates={"": prior},
      )
      for given in (masks, packed):
        fit = fit_datamodels(given, broken, sample_weight=sizes, candidates={"": prior})
        for name, value in vars(expected).items():
          np.testing.assert_array_equal(getattr(fit, name), value)
  broken[2, 1] = np.nan
  with pytest.raises(ValueError, match="margins of 1 models are not finite: rows 2"):
    fit_datamodels(masks, broken, sample_weight=weights)


def test_an_offset_is_scaled_by_the_models_that_count() -> None:
  """Half of the models follow twice the offset, and half, which weigh little, none."""
  masks, margins = models(400, noise=0.1)
  light = np.arange(400) % 2 == 0
  margins[light] = np.random.default_rng(1).normal(size=(200, 4))
  margins[~light] = 2 * (margins[~light] - 0.7)
  fits = [
    fit_datamodels(
      masks,
      margins,
      sample_weight=weights,
      candidates={"": priors.Prior(offset=WEIGHTS)},
      config=FitConfig(num_lambdas=1),  # All that is left is the offset.
    )
    for weights in (None, np.where(light, 1e-4, 1.0))
  ]
  np.testing.assert_allclose(fits[0].weights_tn, WEIGHTS, atol=0.3)
  np.testing.assert_allclose(fits[1].weights_tn, 2 * WEIGHTS, atol=0.2)


@pytest.mark.parametrize(
  "informed",
  [
    priors.Prior(factors=np.where(WEIGHTS != 0, 0.2, 2.0)),
    priors.Prior(offset=7 * WEIGHTS),
    priors.Prior(offset=lambda part: 0.1 * WEIGHTS[part]),
  ],
)
def test_held_out_models_choose_the_better_prior(informed) -> None:
  masks, margins = models(200, noise=1.0)
  for order in (("none", "informed"), ("informed", "none")):
    candidates = {"none": priors.Prior(), "informed": informed}
    lines: list[str] = []
    fit = fit_datamodels(
      masks,
      margins,
      config=FitConfig(folds=5),
      candidates={name: candidates[name] for name in order},
      report=lines.append,
    )
    assert order[fit.choice_t[0]] == "informed"
    assert sum("validation R2" in line for line in lines) == 2


def test_an_offset_is_scaled_and_what_it_lacks_is_fitted() -> None:
  masks, margins = models(2000)
  wrong = WEIGHTS.copy()
  wrong[:, :5] = np.random.default_rng(1).normal(size=(4, 5))
  few = {"offset": priors.Prior(offset=3 * WEIGHTS)}, None
  config = FitConfig(folds=5)
  with_offset, without = (
    fit_datamodels(masks[:25], margins[:25], candidates=c, config=config) for c in few
  )
  error, plain = (np.std(f.weights_tn - WEIGHTS) for f in (with_offset, without))
  assert error < plain / 4
  many = {"offset": priors.Prior(offset=wrong)}
  fit = fit_datamodels(masks, margins, candidates=many)
  np.testing.assert_allclose(fit.weights_tn, WEIGHTS, atol=0.08)
  predicted = masks @ fit.weights_tn.T + fit.intercepts_t
  np.testing.assert_allclose(fit.predict(masks), predicted, atol=1e-4)


def test_the_mean_of_an_offset_stays_out_where_subsets_have_one_size() -> None:
  rng = np.random.default_rng(3)
  masks = rng.permuted(np.tile(np.arange(30) < 15, (200, 1)), axis=1)
  margins = (masks @ WEIGHTS.T + rng.normal(size=(200, 4))).astype(np.float32)
  fits = [
    fit_datamodels(masks, margins, candidates={"": priors.Prior(offset=WEIGHTS + shift)})
    for shift in (0.0, 5.0)
  ]
  for fit in fits:  # All data have twice the examples, of which nothing is known.
    full = fit.predict(np.ones((1, 30), bool))[0]
    np.testing.assert_allclose(full, margins.mean(axis=0), atol=0.5)
  np.testing.assert_allclose(fits[0].weights_tn, fits[1].weights_tn, atol=1e-3)


def test_an_offset_of_the_wrong_sign_is_left_out() -> None:
  masks, margins = models(100)
  wrong = fit_datamodels(
    masks, margins, candidates={"wrong": priors.Prior(offset=-WEIGHTS)}
  )
  without = fit_datamodels(masks, margins)
  np.testing.assert_array_equal(wrong.weights_tn, without.weights_tn)


def test_an_offset_that_is_no_number_is_named() -> None:
  bad = {"offset": priors.Prior(offset=np.full((4, 30), np.nan))}
  with pytest.raises(ValueError, match="offset must be finite"):
    fit_datamodels(*models(40), candidates=bad)


class KilledError(Exception):
  """Stands for a killed process."""


def test_a_killed_fit_continues_and_ends_with_the_same_bits(tmp_path) -> None:
  masks, margins = models(100, noise=1.0)
  options = {"config": FitConfig(num_lambdas=5), "tile": 2}
  whole = fit_datamodels(masks, margins, **options)
  folder = tmp_path / "parts"
  for stop in (1, 2, 3):  # Four tiles: two of the path, two of the fit.

    def killed(done: int, total: int, stop: int = stop) -> None:
      assert total == 4
      if done == stop:
        raise KilledError

    with pytest.raises(KilledError):
      fit_datamodels(masks, margins, folder=folder, progress=killed, **options)
    assert len(list(folder.glob("*.npz"))) == stop
  again = fit_datamodels(masks, margins, folder=folder, **options)
  for name, value in vars(whole).items():
    np.testing.assert_array_equal(getattr(again, name), value)
  with pytest.raises(ValueError, match="holds parts of another fit"):
    fit_datamodels(masks, margins + 1, folder=folder, **options)


def test_folds_choose_by_the_error_over_all_models() -> None:
  masks, margins = models(60, noise=2.0)
  config = FitConfig(num_lambdas=8, folds=3, patience=8, path_tol=1e-6)
  fit = fit_datamodels(masks, margins, config=config)
  order = prng.generator_for(0, "validation").permutation(60)
  x, y = masks.astype(float), margins.astype(float)
  top = np.abs((x - x.mean(0)).T @ (y - y.mean(0))).max(0) / 60
  for t in range(4):
    grid, errors = top[t] * np.geomspace(1, config.lambda_min_ratio, 8), np.zeros(8)
    for part in np.array_split(order, 3):
      rest = np.setdiff1d(order, part)
      for i, lam in enumerate(grid):
        peer = linear_model.Lasso(alpha=lam, tol=1e-8, max_iter=50_000)
        guess = peer.fit(x[rest], y[rest, t]).predict(x[part])
        errors[i] += np.sum((guess - y[part, t]) ** 2)
    np.testing.assert_allclose(fit.lambdas_t[t], grid[errors.argmin()], rtol=1e-4)


def test_a_path_ends_once_held_out_models_have_turned() -> None:
  grid = np.geomspace(1, 0.01, 40)[:, None] * np.ones(4)
  calls = []

  class Solver:
    def solve(self, tile, lam_t, start, **options):
      calls.append(lam_t.copy())
      return type("State", (), {"w_tn": len(calls)})

  turned = np.array([3, 10, 0, 6])  # The lambda at which each error is smallest.
  errors = path.errors(
    Solver(),
    type("Tile", (), {"size": 4}),
    grid,
    lambda call: np.abs(call - 1 - turned) + 1.0,
    FitConfig(patience=5),
  )
  np.testing.assert_array_equal(errors.argmin(axis=0), turned)
  np.testing.assert_array_equal(np.isfinite(errors).sum(axis=0), turned + 6)
  assert len(calls) == 16
  np.testing.assert_array_equal(calls[-1][2], grid[5, 2])


def test_saved_datamodels_load_as_they_were(tmp_path) -> None:
  fit = fit_datamodels(*models(100))
  fit.save(tmp_path / "fit")
  again = Datamodels.load(tmp_path / "fit")
  for name, value in vars(fit).items():
    np.testing.assert_array_equal(getattr(again, name), value)
  with pytest.raises(ValueError):
    fit.save(tmp_path / "fit")
  fit.save(tmp_path / "fit", overwrite=True)
  with pytest.raises(FileNotFoundError, match="no checkpoint at"):
    Datamodels.load(tmp_path / "none")


def test_bad_input_is_named() -> None:
  masks, margins = models(40)
  bad = margins.copy()
  bad[7, 1] = np.inf
  for a, b, message in [
    (masks[1:], margins, "39 rows, margins 40"),
    (masks * 2, margins, "numbers 0 and 1, got 2 in row"),
    (masks, bad, "1 models are not finite: rows 7"),
    (masks[:3], margins[:3], "too few"),
    (masks[0], margins, r"\[m, n\]"),
    (masks[:, :0], margins, "must not be empty"),
  ]:
    with pytest.raises(ValueError, match=message):
      fit_datamodels(a, b)


def test_predictions_are_joined_from_blocks_of_models_and_tiles_of_targets(
  monkeypatch,
) -> None:
  monkeypatch.setattr(model, "_TILE_TARGETS", 3)
  monkeypatch.setattr(matrices, "BLOCK_BYTES", 8 * 30 * 4)
  rng = np.random.default_rng(0)
  masks, weights = rng.random((10, 30)) < 0.5, rng.normal(size=(7, 30))
  expected = np.array([[w[mask].sum() for w in weights] for mask in masks])
  packed = training_sets.PackedMasks.of([masks])
  for design_mn in (masks, packed):
    found = predictions(design_mn, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_masks_that_are_there_several_times_are_multiplied_once(monkeypatch) -> None:
  rng = np.random.default_rng(0)
  masks, weights = rng.random((6, 30)) < 0.5, rng.normal(size=(4, 30))
  rows = np.array([3, 0, 1, 2, 3, 4, 5, 0, 3])
  expected = masks[rows].astype(float) @ weights.T
  multiplied, product = [], predictions
  monkeypatch.setattr(
    model, "predictions", lambda x, w: multiplied.append(x.shape[0]) or product(x, w)
  )
  packed = training_sets.PackedMasks.of([masks[rows]])
  found = predictions_by_subset(packed, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  zeros_t = np.zeros(4, np.float32)
  models = Datamodels(weights, zeros_t + 2, *[zeros_t] * 4)
  np.testing.assert_allclose(models.predict(packed), expected + 2, rtol=1e-5, atol=1e-5)
  assert multiplied == [6, 6]


def test_the_mean_of_an_offset_counts_for_nothing_where_subsets_have_one_size() -> None:
  """Scores with a large common part, whose predictions differ by rounding alone."""
  rng = np.random.default_rng(0)
  masks = jaxdm.random_subsets(400, 2000, 0.5, 0)
  weights = 0.05 * rng.normal(size=(5, 2000))
  margins = masks @ weights.T + 0.1 * rng.normal(size=(400, 5))
  offset = (weights / weights.std() + 300).astype(np.float32)
  fit = jaxdm.fit_datamodels(masks, margins, candidates={"": priors.Prior(offset=offset)})
  # How large the sum of all weights is, such subsets do not tell.
  np.testing.assert_allclose(fit.predict(np.ones(2000, bool)), weights.sum(1), atol=10)


def test_only_checkpoints_and_empty_folders_are_overwritten(tmp_path) -> None:
  fit = fit_datamodels(*models(100))
  folder = tmp_path / "mine"
  folder.mkdir()
  fit.save(folder, overwrite=True)
  for name in ("_METADATA", "manifest.ocdbt"):  # As a killed removal leaves it.
    (folder / name).unlink()
  fit.save(folder, overwrite=True)
  np.testing.assert_array_equal(Datamodels.load(folder).weights_tn, fit.weights_tn)
  (tmp_path / "notes").mkdir()
  for file in (tmp_path / "notes" / "a.txt", tmp_path / "b.txt"):
    file.write_text("mine")
  with pytest.raises(UserError, match="notes is not overwritten.*holds a.txt"):
    fit.save(tmp_path / "notes", overwrite=True)
  with pytest.raises(UserError, match="b.txt is a file and cannot be overwritten"):
    fit.save(tmp_path / "b.txt", overwrite=True)
  with pytest.raises(UserError, match="notes exists already"):
    fit.save(tmp_path / "notes")
  for file in (tmp_path / "notes" / "a.txt", tmp_path / "b.txt"):
    assert file.read_text() == "mine"


def test_what_is_no_checkpoint_of_datamodels_is_named(tmp_path) -> None:
  empty, other, damaged = (tmp_path / name for name in ("empty", "other", "damaged"))
  empty.mkdir()
  with pytest.raises(UserError, match="empty cannot be read: it is no checkpoint"):
    Datamodels.load(empty)
  checkpoint.save(other, {"x": np.zeros(3)})
  with pytest.raises(UserError, match=r"no checkpoint of datamodels.*holds x$"):
    Datamodels.load(other)
  checkpoint.save(damaged, {"x": np.zeros(3)})
  for file in damaged.glob("**/d/*"):
    file.write_bytes(b"damaged")
  with pytest.raises(UserError, match="damaged cannot be read: it is damaged"):
    Datamodels.load(damaged)


def test_masks_of_other_numbers_are_not_taken_for_those_of_0_and_1() -> None:
  rng = np.random.default_rng(0)
  fit = fit_datamodels(rng.random((80, 5)) < 0.5, rng.normal(size=(80, 2)))
  rows = np.stack([np.full(5, 0.5), np.ones(5), np.full(5, 0.25)])
  expected = rows @ fit.weights_tn.T + fit.intercepts_t
  np.testing.assert_allclose(fit.predict(rows), expected, rtol=1e-5)
  signs = np.where(rng.random((60, 5)) < 0.5, 1.0, -1.0)
  with pytest.raises(ValueError, match="masks must be bool, or numbers 0 and 1"):
    jaxdm.evaluate_scores(fit.weights_tn, signs, rng.normal(size=(60, 2)))


def test_a_target_without_a_datamodel_is_not_searched() -> None:
  rng = np.random.default_rng(0)
  masks, margins = rng.random((80, 6)) < 0.5, rng.normal(size=(80, 2)) + 5
  margins[:, 1] = np.nan
  fit = fit_datamodels(masks, margins)

  def retrain(masks, labels, seeds):
    return np.ones((len(masks), 2))

  labels = np.arange(6) % 2
  jaxdm.find_removals(fit, retrain, labels, [0, 1], targets=[0])
  with pytest.raises(UserError, match="targets: scores has no datamodel of target 1"):
    jaxdm.find_removals(fit, retrain, labels, [0, 1], targets=[0, 1])


@pytest.mark.parametrize("scales", [(1, 1), (1, 0.2), (0.2, 1), (0, 1), (2, 0)])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.02)])
def test_both_scales_of_an_offset_are_fitted_together(scales, shares) -> None:
  """The outcomes are what both parts predict, so that nothing is left of them."""
  rng = np.random.default_rng(0)
  masks = rng.random((100, 30)) < np.repeat(shares, 15)
  offset = rng.normal(size=(4, 30)) + 0.5
  mean = offset.mean(axis=1, keepdims=True)
  truth = scales[0] * (offset - mean) + scales[1] * mean
  made = outcomes.Outcomes(
    masks,
    masks @ truth.T,
    None,
    np.zeros(4, bool),
    priors.Prior(offset=offset),
    [slice(4)],
  )
  np.testing.assert_allclose(made.offset(slice(4)), truth, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1e3, 1e5])
def test_a_large_mean_of_an_offset_hides_nothing(offset) -> None:
  rng = np.random.default_rng(0)
  masks, scores = rng.random((100, 30)) < 0.5, rng.normal(size=(4, 30))
  given = priors.Prior(offset=scores + offset)
  margins = 2 * masks @ (scores - scores.mean(axis=1, keepdims=True)).T
  made = outcomes.Outcomes(
    masks, margins, None, np.zeros(4, bool), given, [slice(2), slice(2, 4)]
  )
  left = np.concatenate([made.of_tile(slice(2)), made.of_tile(slice(2, 4))], axis=1)
  assert np.abs(left - left.mean(axis=0)).max() < 1e-2 * np.abs(margins).max()
