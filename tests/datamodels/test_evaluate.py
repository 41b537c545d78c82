"""Scores in any unit, judged as SciPy judges them in float64."""

import numpy as np
import pytest
import scipy.stats
from support.planted_weights import models

import jaxdm
from jaxdm.attribution.scores import ScoreRows
from jaxdm.datamodels import metrics
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import predictions

M, N, T = 120, 40, 70
_RNG = np.random.default_rng(0)
SCORES = _RNG.normal(size=(T, N))
MASKS = jaxdm.random_subsets(num_models=M, num_train=N, alpha=0.5, seed=0)
OF_MANY_SIZES = _RNG.random((M, N)) < _RNG.random((M, 1))
NOISE = _RNG.normal(size=(M, T))


def expected_lds(scores, masks, margins) -> np.ndarray:
  guess = masks @ scores.T
  pairs = zip(guess.T, margins.T, strict=True)
  return np.array([scipy.stats.spearmanr(a, b)[0] for a, b in pairs])


UNITS = {
  "plus 1e9": lambda x: x + 1e9,
  "minus 1e12": lambda x: x - 1e12,
  "times 1e-300": lambda x: x * 1e-300,
  "times 1e300": lambda x: x / np.abs(x).max() * 1e300,
  "about 1e-300": lambda x: (x + 1e6) * 1e-300,
  "of a target each": lambda x: x * 10.0 ** (4 * np.arange(T)[:, None] - 140),
  "of one target": lambda x: x + 1e9 * (np.arange(T)[:, None] == 69),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("masks", [MASKS, OF_MANY_SIZES], ids=["one size", "many sizes"])
def test_the_unit_of_scores_does_not_change_the_lds(unit, masks) -> None:
  scores, margins = UNITS[unit](SCORES), masks @ SCORES.T + NOISE
  found = jaxdm.evaluate_scores(scores, masks, margins)
  if masks is MASKS:  # A mean is the same for all subsets.
    expected = expected_lds(SCORES, masks, margins)
    assert np.mean(expected) > 0.8
  else:  # Of 40 terms, so that float64 holds sums of 40 means and more.
    expected = expected_lds(scores, masks, margins)
  np.testing.assert_allclose(found.lds_t, expected, atol=5e-3)
  assert all(np.isfinite(interval).all() for interval in found[:3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0, 1e-9, 5, 50])
def test_scores_of_usual_size_are_summed_as_they_are(dtype, mean) -> None:
  scores = (SCORES + mean).astype(dtype)
  margins = MASKS @ SCORES.T + NOISE
  found = jaxdm.evaluate_scores(scores, MASKS, margins)
  expected = metrics.evaluate(predictions(MASKS, scores), margins, MASKS)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_equal_scores_predict_nothing() -> None:
  for value in (0.3, 1e300, -1e9):
    found = jaxdm.evaluate_scores(np.full((T, N), value), MASKS, NOISE)
    np.testing.assert_array_equal(found.lds_t, 0)


def test_scores_are_read_once_and_named_where_they_are_not_finite() -> None:
  read = []

  def rows_of(targets):
    read.append(len(targets))
    return SCORES[targets]

  jaxdm.evaluate_scores(ScoreRows((T, N), rows_of), MASKS, NOISE)
  assert read == [T]
  for value in (np.inf, np.nan, -np.inf):
    scores = SCORES.copy()
    scores[66, 5] = value
    with pytest.raises(jaxdm.UserError, match="scores must be .* for target 66 and tr"):
      jaxdm.evaluate_scores(scores, MASKS, NOISE)


def test_a_target_without_a_datamodel_is_not_judged() -> None:
  masks, margins = models(80)
  given = margins.copy()
  given[:, 1] = np.nan
  fit = fit_datamodels(masks, given)
  with pytest.warns(UserWarning, match="1 of 4 targets"):
    found = fit.evaluate(masks, margins)
  assert np.isnan(found.lds_t).tolist() == [False, True, False, False]


@pytest.mark.parametrize("noise", [0, 1, 100])
def test_the_r2_that_is_reported_is_the_share_that_can_be_predicted(noise) -> None:
  rng = np.random.default_rng(0)
  masks, weights = rng.random((2000, 10)) < 0.5, np.linspace(-1, 1, 10)
  margins, lines = masks @ weights + noise * rng.normal(size=2000), []
  fit_datamodels(masks, margins[:, None], report=lines.append)
  [line] = [text for text in lines if "validation R2" in text]
  signal = (weights**2).sum() / 4  # The variance of a mask is a quarter.
  assert float(line.split()[-1]) == pytest.approx(signal / (signal + noise**2), abs=0.05)
