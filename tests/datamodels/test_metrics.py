import functools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from support.planted_weights import models

from experiments.bench import coverage
from jaxdm import training_sets
from jaxdm.datamodels import metrics, spearman
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import Datamodels
from jaxdm.datamodels.quality import Quality


@functools.cache
def fitted() -> Datamodels:
  return fit_datamodels(*models(300, noise=2.0))


def test_lds_and_pooled_correlation_equal_scipys() -> None:
  fit = fitted()
  masks, margins = models(150, noise=2.0, seed=1)
  found = fit.evaluate(masks, margins)
  predicted = fit.predict(masks)
  spearman = [scipy.stats.spearmanr(predicted[:, t], margins[:, t])[0] for t in range(4)]
  np.testing.assert_allclose(found.lds_t, spearman, atol=1e-6)
  np.testing.assert_allclose(found.lds.estimate, np.mean(spearman), atol=1e-6)
  pearson = scipy.stats.pearsonr(predicted.ravel(), margins.ravel())[0]
  np.testing.assert_allclose(found.pooled_correlation.estimate, pearson, atol=1e-5)
  assert found.lds.low < found.lds.estimate < found.lds.high
  assert found.num_models == 150
  r2 = sklearn.metrics.r2_score(margins, predicted)
  np.testing.assert_allclose(found.r2.estimate, r2, atol=1e-5)
  assert found.ceiling is None


@pytest.mark.slow
def test_the_lds_interval_covers_fresh_estimates() -> None:
  fit = fitted()
  low, high = fit.evaluate(*models(200, noise=2.0, seed=1))[0][1:]
  fresh = [fit.evaluate(*models(2000, noise=2.0, seed=s)).lds.estimate for s in (2, 3)]
  assert low < np.mean(fresh) < high


def test_a_constant_prediction_scores_zero_and_not_nan() -> None:
  guess = np.column_stack([np.zeros(5), np.arange(5)])
  margins = np.column_stack([np.arange(5.0)] * 2)
  found = metrics.evaluate(guess, margins, np.eye(5, dtype=bool))
  np.testing.assert_allclose(found.lds_t, [0, 1], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_ceiling_is_the_lds_of_the_expected_margin(noise) -> None:
  masks, margins = models(1500, noise=noise)
  again = models(1500, noise=0.0)[1] + noise * np.random.default_rng(2).normal(
    size=margins.shape
  )
  twice = np.concatenate([margins, again]), np.concatenate([masks, masks])
  expected = np.concatenate([models(1500, noise=0.0)[1]] * 2)
  found = metrics.evaluate(expected, *twice)
  assert found.ceiling is not None
  np.testing.assert_allclose(found.ceiling.estimate, found.lds.estimate, atol=0.05)
  assert found.ceiling.low < found.ceiling.estimate < found.ceiling.high


def test_models_on_one_subset_are_left_out_of_the_jackknife_together() -> None:
  masks, margins = models(60, noise=2.0)
  predicted = fitted().predict(masks)
  once = metrics.evaluate(predicted, margins, masks).lds
  many = [np.concatenate([a] * 9) for a in (predicted, margins, masks)]
  repeated = metrics.evaluate(*many).lds
  np.testing.assert_allclose(repeated.high - repeated.low, once.high - once.low, rtol=0.1)


def _scores(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """LDS, pooled correlation, R2 and mean correlation of two models on one subset."""
  t = truth.shape[1]
  swapped = np.stack([truth[1::2], truth[::2]], axis=1).reshape(truth.shape)
  again = [scipy.stats.spearmanr(truth[:, i], swapped[:, i])[0] for i in range(t)]
  return np.array(
    [
      np.mean([scipy.stats.spearmanr(guess[:, i], truth[:, i])[0] for i in range(t)]),
      scipy.stats.pearsonr(guess.ravel(), truth.ravel())[0],
      sklearn.metrics.r2_score(truth, guess),
      np.mean(again),
    ]
  )


def test_intervals_are_those_of_a_jackknife_that_recomputes_every_score() -> None:
  rng = np.random.default_rng(0)
  s, t = 60, 3
  mean = 2 * rng.normal(size=(s, t))
  guess = np.repeat(mean + rng.normal(size=(s, t)), 2, axis=0)
  guess[:, 1] = np.round(guess[:, 1])  # Many ties.
  truth = np.repeat(mean, 2, axis=0) + rng.normal(size=(2 * s, t)) + np.arange(t)
  masks = np.repeat(np.eye(s, dtype=bool), 2, axis=0)
  shuffled = rng.permutation(2 * s)
  found = metrics.evaluate(guess[shuffled], truth[shuffled], masks[shuffled])
  estimates = _scores(guess, truth)
  without = [np.delete(np.arange(2 * s), [2 * i, 2 * i + 1]) for i in range(s)]
  pseudo = s * estimates - (s - 1) * np.array(
    [_scores(guess[r], truth[r]) for r in without]
  )
  slopes = 1 / np.array(
    [*(1 - estimates[:2] ** 2), 1 - estimates[2], 1 - estimates[3] ** 2]
  )
  freedom = 2 * s / (2 + scipy.stats.kurtosis(pseudo))
  quantile = scipy.stats.t.ppf(0.975, np.minimum(freedom, s - 1))
  error = scipy.stats.sem(pseudo) * slopes
  skewness = scipy.stats.skew(pseudo)
  shift = error * skewness / (6 * np.sqrt(s)) * (1 + 2 * 1.96**2)
  scales = [np.arctanh, np.arctanh, lambda r2: -np.log(1 - r2), np.arctanh]
  back = [np.tanh, np.tanh, lambda z: 1 - np.exp(-z), lambda z: np.sqrt(np.tanh(z))]
  intervals = found.lds, found.pooled_correlation, found.r2, found.ceiling
  for i, interval in enumerate(intervals):
    assert interval is not None
    middle = scales[i](estimates[i]) + (pseudo.mean(axis=0) - estimates)[i] * slopes[i]
    half = quantile[i] * error[i]
    low, high = (back[i](middle + shift[i] + side) for side in (-half, half))
    # Influence functions stand in for recomputed ranks, exact jackknives for the rest.
    atol = (0.02 if i in (0, 3) else 1e-9) * (high - low)
    np.testing.assert_allclose(interval[1:], [low, high], atol=atol)
  np.testing.assert_allclose(found.lds.estimate, estimates[0])
  np.testing.assert_allclose(found.ceiling.estimate, np.sqrt(estimates[3]))


@pytest.mark.parametrize("name", ["4 targets", "high LDS", "low LDS"])
def test_intervals_cover_the_truth_of_made_up_populations(name) -> None:
  setting = coverage.SETTINGS[name]
  made = coverage.population(setting._replace(targets=min(setting.targets, 5)))
  shares = coverage.coverage(made, coverage.truth(made), 60, 400)
  # Of 400 samples 376 to 384 are expected; a percentile bootstrap covers 350.
  assert (shares[0] >= 0.91).all() and (shares[0] <= 0.985).all(), shares
  assert (shares[1:] <= 0.055).all(), shares


@pytest.mark.parametrize("correlation", [0.3, 0.9])
def test_the_bias_of_spearmans_correlation_is_known(correlation) -> None:
  rng = np.random.default_rng(0)
  a = rng.normal(size=(40_000, 9))
  b = correlation * a + np.sqrt(1 - correlation**2) * rng.normal(size=a.shape)
  ranks = [scipy.stats.rankdata(x, axis=1) - 5 for x in (a, b)]
  samples = (ranks[0] * ranks[1]).sum(axis=1) / 60
  expected = 6 / np.pi * np.arcsin(correlation / 2)
  np.testing.assert_allclose(
    samples.mean() - expected,
    spearman.sampling_bias(np.array(expected), 9),
    atol=4 * samples.std() / 200,
  )


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_the_bias_of_the_correlation_of_models_on_one_subset_is_known(
  correlation,
) -> None:
  rng = np.random.default_rng(0)
  a = rng.normal(size=(20_000, 30))
  b = correlation * a + np.sqrt(1 - correlation**2) * rng.normal(size=a.shape)
  ranks = scipy.stats.rankdata(np.concatenate([a, b], axis=1), axis=1) - 30.5
  samples = (ranks * np.roll(ranks, 30, axis=1)).sum(axis=1) / (60 * (60**2 - 1) / 12)
  expected = 6 / np.pi * np.arcsin(correlation / 2)
  bias = spearman.neighbours_bias(np.array(expected), 30)
  error = samples.std() / np.sqrt(len(samples))
  # The bias is known to first order.
  np.testing.assert_allclose(
    samples.mean() - expected, bias, atol=4 * error + abs(bias) / 10
  )


def _held_out(m: int = 80, t: int = 5, seed: int = 0):
  """Predictions, margins and masks; two models on each subset."""
  rng = np.random.default_rng(seed)
  masks = np.repeat(rng.random((m // 2, 30)) < 0.5, 2, axis=0)
  predicted = (masks @ rng.normal(size=(30, t))).astype(np.float32)
  return predicted, predicted + rng.normal(size=(m, t)).astype(np.float32), masks


def _assert_same(found: Quality, expected: Quality) -> None:
  for a, b in zip(found[:4], expected[:4], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  kept = np.isfinite(found.lds_t)
  np.testing.assert_allclose(found.lds_t[kept], expected.lds_t, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e5])
def test_models_and_targets_without_margins_are_left_out_and_counted(bad) -> None:
  predicted, margins, masks = _held_out()
  margins = margins.astype(np.float16 if bad == 1e5 else np.float32)
  rows, columns = np.r_[0:10, 20:80], [0, 1, 3, 4]
  broken = margins.copy()
  with np.errstate(over="ignore"):
    broken[10:19] = bad  # Models that diverged.
    broken[19, 3] = bad  # A model that has one margin too few.
    broken[:, 2] = bad  # A target without margins.
  with pytest.warns(UserWarning, match="10 held-out models.*1 of 5 targets") as said:
    found = metrics.evaluate(predicted, broken, masks)
  assert len(said) == 1
  assert (found.num_models, found.num_left_out) == (70, 10)
  assert (found.num_subsets, found.num_targets_left_out) == (35, 1)
  assert np.isnan(found.lds_t).tolist() == [False, False, True, False, False]
  kept = np.ix_(rows, columns)
  _assert_same(found, metrics.evaluate(predicted[kept], margins[kept], masks[rows]))


@pytest.mark.parametrize("failed,models,targets", [(41, 0, 1), (40, 0, 1), (39, 39, 0)])
def test_a_target_whose_margins_fail_often_costs_no_models(
  failed, models, targets
) -> None:
  predicted, margins, masks = _held_out()
  margins[:failed, 1] = np.nan
  with pytest.warns(UserWarning, match=r"\d+ (of 5 targets|held-out models)"):
    found = metrics.evaluate(predicted, margins, masks)
  assert (found.num_left_out, found.num_targets_left_out) == (models, targets)


def test_tiles_of_targets_change_no_score(monkeypatch) -> None:
  predicted, margins, masks = _held_out()
  whole = metrics.evaluate(predicted, margins, masks)
  for numbers in (160, 1):  # Two targets at a time, and one.
    monkeypatch.setattr(metrics, "_TILE_NUMBERS", numbers)
    _assert_same(metrics.evaluate(predicted, margins, masks), whole)


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "f8"])
def test_numbers_that_float32_cannot_tell_apart_are_ranked(dtype) -> None:
  ranks = np.random.default_rng(0).permutation(60)[:, None]
  margins = (2**26 + ranks).astype(dtype)
  found = metrics.evaluate(ranks, margins, np.eye(60, dtype=bool))
  np.testing.assert_allclose(found.lds_t, 1)
  np.testing.assert_allclose(found.pooled_correlation.estimate, 1)


def test_the_ceiling_needs_two_subsets_and_takes_two_models_of_each() -> None:
  predicted, margins, _ = _held_out(m=12)
  subsets = np.eye(12, dtype=bool)

  def ceiling(subset_of: list[int], margins: np.ndarray = margins):
    return metrics.evaluate(predicted, margins, subsets[subset_of]).ceiling

  assert ceiling([*range(11), 0]) is None
  assert ceiling([*range(10), 0, 1]) is not None
  subset_of = [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
  changed = margins.copy()
  changed[[2, 5]] *= -1
  assert ceiling(subset_of) == ceiling(subset_of, changed)
  changed[1] *= -1
  assert ceiling(subset_of) != ceiling(subset_of, changed)


def test_constant_margins_are_left_out_of_every_score() -> None:
  predicted, margins, masks = _held_out()
  constant = margins.copy()
  constant[:, [0, 3]] = 1.5
  with pytest.warns(UserWarning, match="2 of 5 targets"):
    found = metrics.evaluate(predicted, constant, masks)
  left = [1, 2, 4]
  _assert_same(found, metrics.evaluate(predicted[:, left], margins[:, left], masks))
  # Constant only among the models that are left.
  margins[:, 0] = 1.5
  margins[5, 0], margins[5, 1] = 2.0, np.nan
  with pytest.warns(UserWarning, match="1 held-out models.*1 of 5 targets"):
    found = metrics.evaluate(predicted, margins, masks)
  assert np.isnan(found.lds_t).tolist() == [True, False, False, False, False]


@pytest.mark.filterwarnings("error")
def test_constant_predictions_count_as_0() -> None:
  predicted, margins, masks = _held_out()
  whole = metrics.evaluate(predicted, margins, masks)
  predicted[:, 1] = 7.0
  found = metrics.evaluate(predicted, margins, masks)
  assert found.lds_t[1] == 0 and found.num_targets_left_out == 0
  np.testing.assert_allclose(found.lds_t[2:], whole.lds_t[2:])
  nothing = metrics.evaluate(np.zeros_like(predicted), margins, masks)
  assert nothing.lds == (0, 0, 0)


@pytest.mark.filterwarnings("error")
def test_perfect_predictions_have_an_interval_without_width() -> None:
  _, margins, masks = _held_out()
  margins[1::2] = margins[::2]
  found = metrics.evaluate(margins, margins, masks)
  for interval in found[:4]:
    np.testing.assert_allclose(interval, 1, atol=1e-6)


@pytest.mark.parametrize(
  "dtype", [">f8", "f2", ">f4", "i1", "i8", "u4", "bool", "g", list]
)
def test_every_kind_of_number_gives_the_scores_of_float64(dtype) -> None:
  predicted, margins, masks = (x[:40] for x in _held_out(m=40, t=3))
  margins = np.abs(margins)
  if dtype == "bool":
    margins = margins > np.median(margins)
  margins = np.round(margins) if dtype is list else margins.astype(dtype)
  expected = metrics.evaluate(predicted, margins.astype(float), masks)
  given = margins.tolist() if dtype is list else margins
  _assert_same(metrics.evaluate(predicted.tolist(), given, masks.tolist()), expected)
  packed = training_sets.PackedMasks.of([masks])
  _assert_same(metrics.evaluate(predicted, given, packed), expected)


def test_scores_do_not_depend_on_the_order_of_models_and_targets() -> None:
  predicted, margins, masks = _held_out()
  rng = np.random.default_rng(1)
  rows, columns = rng.permutation(80), rng.permutation(5)
  found = metrics.evaluate(predicted, margins, masks)
  kept = np.ix_(rows, columns)
  again = metrics.evaluate(predicted[kept], margins[kept], masks[rows])
  for a, b in zip(again[:4], found[:4], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_scores_do_not_depend_on_the_unit_of_margins(unit) -> None:
  predicted, margins, masks = (x.astype(float) for x in _held_out())
  found = metrics.evaluate(predicted * unit, margins * unit, masks)
  _assert_same(found, metrics.evaluate(predicted, margins, masks))


def test_what_cannot_be_evaluated_is_named() -> None:
  predicted, margins, masks = _held_out()
  evaluate = metrics.evaluate
  with pytest.raises(ValueError, match="same shape"):
    evaluate(predicted[:, :3], margins, masks)
  with pytest.raises(ValueError, match="masks must be .* m = 80"):
    evaluate(predicted, margins, masks[:79])
  with pytest.raises(ValueError, match="margins must be .*got shape"):
    evaluate(predicted, margins[:, 0], masks)
  with pytest.raises(ValueError, match="not empty"):
    evaluate(predicted[:0], margins[:0], masks[:0])
  with pytest.raises(ValueError, match="real numbers"):
    evaluate(predicted + 1j, margins, masks)
  with pytest.raises(
    ValueError, match="at least 2 different training sets, got 1 models"
  ):
    evaluate(predicted[:1], margins[:1], masks[:1])
  with pytest.raises(ValueError, match="got 2 models with finite margins on 1"):
    evaluate(predicted[:2], margins[:2], masks[:2])
  with pytest.raises(ValueError, match="all 80 held-out models are not finite"):
    evaluate(predicted, margins * np.nan, masks)
  with pytest.raises(ValueError, match="all 5 targets are the same"):
    evaluate(predicted, margins * 0, masks)
  predicted[3, 2] = np.inf
  with pytest.raises(
    ValueError, match="predictions must be finite, and are not of target 2"
  ):
    evaluate(predicted, margins, masks)
  margins[3] = np.nan  # No one asks what the predictions say of a model without margins.
  with pytest.warns(UserWarning, match="1 held-out models"):
    evaluate(predicted, margins, masks)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("subsets", [2, 3, 4])
def test_few_subsets_say_nothing_of_the_truth(subsets) -> None:
  predicted, margins, masks = (x[: 2 * subsets] for x in _held_out())
  found = metrics.evaluate(predicted, margins, masks)
  assert found.lds[1:] == found.pooled_correlation[1:] == (-1, 1)
  assert found.r2[1:] == (-np.inf, 1) and found.ceiling is not None
  assert found.ceiling[1:] == (0, 1)


@pytest.mark.filterwarnings("error")
def test_an_interval_holds_its_estimate() -> None:
  made = coverage.population(coverage.SETTINGS["high LDS"]._replace(targets=3))
  for start in range(0, 400, 8):
    rows = slice(start, start + 8)
    predicted = np.repeat(made.predicted_st[rows], 2, axis=0)
    margins = made.margins_s2t[rows].reshape(predicted.shape)
    masks = np.repeat(np.eye(8, dtype=bool), 2, axis=0)
    for interval in metrics.evaluate(predicted, margins, masks)[:4]:
      assert interval.low <= interval.estimate <= interval.high


def test_datamodels_predict_each_subset_once_and_refuse_other_masks() -> None:
  fit = fitted()
  masks = np.repeat(models(20)[0], 3, axis=0)[np.random.default_rng(0).permutation(60)]
  expected = masks.astype(float) @ fit.weights_tn.T.astype(float) + fit.intercepts_t
  np.testing.assert_allclose(fit.predict(masks), expected, atol=1e-4)
  np.testing.assert_allclose(fit.predict(masks.tolist()), expected, atol=1e-4)
  np.testing.assert_allclose(fit.predict(masks[0]), expected[0], atol=1e-4)
  for wrong in (masks[0, 1:], masks[:, 1:]):
    with pytest.raises(ValueError, match=r"masks must be \[m, n\] with n ="):
      fit.predict(wrong)
