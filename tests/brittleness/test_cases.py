"""Which targets and sizes are searched, against their definitions."""

import numpy as np
import pytest

from jaxdm.brittleness import cases
from jaxdm.brittleness.config import SearchConfig


@pytest.mark.parametrize("num_sizes", [1, 2, 7])
def test_surrogate_sizes_are_the_fewest_removals_at_or_below_each_level(
  num_sizes,
) -> None:
  rng = np.random.default_rng(num_sizes)
  for start in np.repeat([-1, 0, 1, 3], 25):
    predicted = start + rng.integers(-4, 4, 6).cumsum() / 4
    levels = np.linspace(0, min(0, min(predicted)), num_sizes)
    reached = [np.flatnonzero(predicted <= level) + 1 for level in levels]
    expected = {int(sizes[0]) if sizes.size else 6 for sizes in reached}
    found = cases.surrogate_sizes(predicted, num_sizes)
    assert found.tolist() == sorted(expected)


def test_targets_are_numbered_from_0() -> None:
  given = np.zeros((2, 4)), np.array([0, -1, 2]), np.zeros(4, int), np.zeros(2, int)
  with pytest.raises(ValueError, match=r"must be in \[0, 2\), got \[-1, 2\]"):
    cases.make_cases("m", *given, config=SearchConfig(), same_class=False)
