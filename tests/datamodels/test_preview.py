import numpy as np
import pytest
import scipy.stats

from jaxdm import training_sets
from jaxdm.datamodels.preview import preview_lds


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Weights, masks of 400 models, and their margins with noise."""
  rng = np.random.default_rng(0)
  masks = training_sets.random_masks(0, 30, 0.5, np.arange(400))
  weights = rng.normal(size=(30, 5))
  margins = masks @ weights + rng.normal(size=(400, 5))
  return weights, masks, margins.astype(np.float32)


def test_the_lds_is_of_models_that_were_not_fitted_to(planted) -> None:
  _, masks, margins = planted
  expected = []
  for target in range(5):
    guess = np.zeros(80)
    for example in range(30):
      present = masks[:320, example]
      covariance = np.cov(present, margins[:320, target])[0, 1]
      guess += covariance * masks[320:, example]
    expected.append(scipy.stats.spearmanr(guess, margins[320:, target]).statistic)
  assert preview_lds(masks, margins) == pytest.approx(np.mean(expected), abs=1e-6)
  assert np.mean(expected) > 0.8


def test_margins_of_nothing_have_no_lds(planted) -> None:
  _, masks, margins = planted
  shuffled = np.random.default_rng(1).permutation(margins)
  found = preview_lds(masks, shuffled)
  assert found is not None and abs(found) < 0.15


def test_few_models_and_models_that_diverged_do_not_count(planted) -> None:
  _, masks, margins = planted
  assert preview_lds(masks[:19], margins[:19]) is None
  assert preview_lds(masks, np.ones_like(margins)) is None
  lost = np.insert(margins, 3, np.nan, axis=0), np.insert(masks, 3, True, axis=0)
  assert preview_lds(lost[1], lost[0]) == preview_lds(masks, margins)
