"""How models are divided to choose among penalties and priors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdm import path


@given(
  m=st.integers(20, 300),
  folds=st.integers(1, 6),
  share=st.floats(0.1, 0.5),
  seed=st.integers(0, 2**32 - 1),
)
def test_no_model_is_both_fitted_to_and_checked_on(m, folds, share, seed) -> None:
  config = path.FitConfig(folds=folds, validation_share=share, seed=seed)
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
    path.folds(1000, path.FitConfig(folds=folds, seed=seed))[0].check
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert abs(len(np.intersect1d(first, other)) - 40) < 5 * 5.1
  # Nor are they neighbours: a random fifth has a fifth of its followers.
  assert abs(len(np.intersect1d(first, first + 1)) - 40) < 5 * 5.1
