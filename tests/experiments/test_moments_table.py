"""The table of the study of moments."""

import numpy as np
import pytest

from experiments.studies import moments
from jaxdm.errors import UserError


def test_rows_are_models_and_moments_and_columns_dampings() -> None:
  points = [
    moments.Point(64, models, count, damping, models / 100 + count / 10 + damping / 50)
    for models in (1, 4)
    for count in (2, 6)
    for damping in (0.5, 1.0)
  ]
  assert moments._lines(points, [1.0, 0.5]) == [
    "| models | moments | damping 1.0 | damping 0.5 |",
    "| --- | --- | --- | --- |",
    "| 1 | 2 | 0.230 | 0.220 |",
    "| 1 | 6 | 0.630 | 0.620 |",
    "| 4 | 2 | 0.260 | 0.250 |",
    "| 4 | 6 | 0.660 | 0.650 |",
  ]


def test_groups_are_powers_of_four_and_all() -> None:
  assert moments.group_sizes(32) == [1, 4, 16, 32]
  assert moments.group_sizes(1) == [1] and moments.group_sizes(16) == [1, 4, 16]


def test_a_model_that_diverged_is_left_out_everywhere() -> None:
  scores = np.random.default_rng(0).normal(size=(2, 4, 2, 3))
  scores[0, 2, 1, 1] = np.nan
  found, count = moments.without_diverged({(1, 0.5): scores[0], (2, 0.5): scores[1]})
  assert count == 3
  for one, expected in zip(found.values(), scores, strict=True):
    np.testing.assert_array_equal(one, expected[[0, 1, 3]])
  with pytest.raises(UserError, match="all models on all data diverged"):
    moments.without_diverged({(1, 0.5): scores[0] * np.nan})
