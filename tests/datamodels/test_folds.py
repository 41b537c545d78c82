"""How models are divided to choose among penalties and priors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdm.datamodels import path
from jaxdm.datamodels.config import FitConfig


@given(
  m=st.integers(20, 300),
  folds=st.integers(1, 6),
  share=st.floats(0.1, 0.5),
  seed=st.integers(0, 2**32 - 1),
)
def test_no_model_is_both_fitted_to_and_checked_on(m, folds, share, seed) -> None:
  config = FitConfig(folds=folds, validation_share=share, seed=seed)
  found = path.folds(m, config)
  assert len(found) == folds
  for fold in found:
    assert sorted([*fold.fit, *fold.check]) == list(range(m))
  sizes = [len(fold.check) for fold in found]
  if folds == 1:
    # A share counts as the fraction of at most ten digits that is nearest to it.
    assert abs(sizes[0] - share * m) <= 0.5 + m * 1e-10
  else:  # Every model is checked on once.
    assert sorted(np.concatenate([fold.check for fold in found])) == list(range(m))
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("folds", [1, 5])
def test_another_seed_divides_otherwise(folds) -> None:
  """Two random fifths of 1,000 share 40, give or take 5.1 (hypergeometric)."""
  first, again, other = (
    path.folds(1000, FitConfig(folds=folds, seed=seed))[0].check for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert abs(len(np.intersect1d(first, other)) - 40) < 5 * 5.1
  # Nor are they neighbours: a random fifth has a fifth of its followers.
  assert abs(len(np.intersect1d(first, first + 1)) - 40) < 5 * 5.1


@pytest.mark.parametrize(
  "m,folds,share,enough",
  [(10, 1, 0.1, False), (10, 1, 0.2, True), (3, 1, 0.6, False), (4, 1, 0.5, True)]
  + [(9, 5, 0.2, False), (10, 5, 0.2, True), (3, 2, 0.2, False), (4, 2, 0.2, True)],
)
def test_two_models_at_least_are_fitted_to_and_two_are_checked_on(
  m, folds, share, enough
) -> None:
  config = FitConfig(folds=folds, validation_share=share)
  if enough:
    sizes = [size for fold in path.folds(m, config) for size in map(len, fold[:2])]
    assert min(sizes) >= 2
  else:
    with pytest.raises(ValueError, match=f"{m} models are too few"):
      path.folds(m, config)


@pytest.mark.parametrize("field", ["num_lambdas", "folds", "patience", "max_steps"])
def test_counts_begin_at_one(field) -> None:
  assert getattr(FitConfig(**{field: 1}), field) == 1
  with pytest.raises(ValueError, match=f"{field} must be an integer >= 1, got 0"):
    FitConfig(**{field: 0})


@pytest.mark.parametrize("field", ["lambda_min_ratio", "validation_share"])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_shares_are_between_0_and_1(field, value) -> None:
  with pytest.raises(ValueError, match=rf"{field} must be in \(0, 1\)"):
    FitConfig(**{field: value})


@pytest.mark.parametrize("field", ["tol", "path_tol"])
@pytest.mark.parametrize("value", [0.0, -1e-9, np.nan])
def test_tolerances_are_positive(field, value) -> None:
  with pytest.raises(ValueError, match=f"{field} must be positive"):
    FitConfig(**{field: value})
