"""Which scores are called wrong, against SciPy and known answers."""

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxdm.brittleness import cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.errors import UserError


@pytest.mark.parametrize("more,refused", [(0.8, True), (1.25, False)])
def test_a_sign_is_wrong_below_a_chance_of_one_in_a_million(more, refused) -> None:
  """With two classes of equal examples, it is Welch's test of their targets."""
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 1])
  targets = np.arange(12) % 2
  noise = rng.normal(size=(12, 2))[:, labels]

  def scores(shift: float) -> np.ndarray:
    return noise - shift * (targets[:, None] == labels)

  def chance(shift: float) -> float:
    found = scores(shift)
    excess = found[:, 0] - found[:, 1:].mean(axis=1)
    samples = excess[targets == 0], excess[targets == 1]
    test = scipy.stats.ttest_ind(*samples, alternative="less", equal_var=False)
    return float(test.pvalue)

  shift = scipy.optimize.brentq(lambda x: np.log(chance(x) / (more * 1e-6)), 0, 100)
  options = {"config": SearchConfig(), "same_class": False}
  given = scores(shift), np.arange(12), labels, targets
  if refused:
    with pytest.raises(ValueError, match="wrong sign"):
      cases.make_cases("m", *given, **options)
  else:
    assert len(cases.make_cases("m", *given, **options)) == 12


def test_noise_that_targets_share_has_no_wrong_sign() -> None:
  """Datamodels of an easy problem are such noise: t by targets is -100 and +100."""
  labels, targets = np.arange(40) % 2, np.arange(30) % 2
  options = {"config": SearchConfig(), "same_class": False}
  for seed in range(200):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(2, 40))[targets]
    scores = shared + 0.01 * rng.normal(size=(30, 40))
    given = np.arange(30), labels, targets
    assert len(cases.make_cases("m", scores, *given, **options)) == 30
  own = targets[:, None] == labels
  with pytest.raises(ValueError, match="wrong sign"):
    cases.make_cases("m", scores - 2 * own, *given, **options)


def test_a_class_with_one_target_says_nothing_of_the_sign() -> None:
  rng = np.random.default_rng(0)
  labels, targets = np.arange(9) % 3, np.append(np.arange(12) % 2, 2)
  noise = 0.1 * rng.normal(size=(13, 9))
  own = targets[:, None] == labels
  given = np.arange(13), labels, targets
  options = {"config": SearchConfig(), "same_class": False}
  with pytest.raises(ValueError, match="wrong sign"):
    cases.make_cases("m", noise - own, *given, **options)
  last = np.arange(13)[:, None] == 12
  for scores in (noise + own, noise + own - 1000 * own * last):
    assert len(cases.make_cases("m", scores, *given, **options)) == 13


@pytest.mark.filterwarnings("error")
def test_scores_without_noise_have_a_sign_too() -> None:
  labels = targets = np.arange(6) % 2
  own = 1.0 * (targets[:, None] == labels)
  options = {"config": SearchConfig(), "same_class": False}
  for scores in (own, 0 * own):
    assert len(cases.make_cases("m", scores, targets, labels, targets, **options)) == 6
  for unit in (1, 1e-300, 1e299):
    with pytest.raises(UserError, match="^scores of m have the wrong sign: .*negate"):
      cases.make_cases("m", -own * unit, targets, labels, targets, **options)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e301])
def test_scores_that_are_not_finite_are_named(value, dtype) -> None:
  with np.errstate(over="ignore"):
    value = dtype(value)
  scores = np.zeros((6, 6), dtype)
  scores[4, 2] = value
  given = np.arange(6), np.arange(6) % 2, np.arange(6) % 2
  text = re.escape(f"got {value} for target 4 and training example 2; give")
  with pytest.raises(UserError, match=f"scores of m must be .*{text}") as caught:
    cases.make_cases("m", scores, *given, config=SearchConfig(), same_class=False)
  assert caught.value.setting == "scores"
