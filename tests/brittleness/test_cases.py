"""Which targets and sizes are searched, against their definitions."""

import numpy as np
import pytest

from jaxdm.brittleness import cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.targets import right_targets


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


@pytest.mark.parametrize("dtype", ["u1", "u4", "i2", "?", ">f4", "f2", "f8"])
def test_scores_of_any_real_type_rank_alike(dtype) -> None:
  scores = np.array([[0, 5, 0, 3, 1, 2], [1, 0, 0, 0, 0, 1]]).astype(dtype)
  labels, config = np.array([0, 1] * 3), SearchConfig(max_share=0.99)
  found = cases.make_cases(
    "m", scores, [0, 1], labels, np.array([0, 1]), config=config, same_class=False
  )
  for case, row in zip(found, scores.tolist(), strict=True):
    by_score = sorted(range(6), key=lambda i, row=row: (-float(row[i]), i))
    assert case.ranking.tolist() == by_score[:2]


def test_a_class_without_examples_offers_nothing_to_choose() -> None:
  given = np.zeros((1, 4)), np.array([0]), np.array([0, 0, 2, 2]), np.array([1])
  with pytest.raises(ValueError, match="target_labels hold 1, which no training example"):
    cases.make_cases("m", *given, config=SearchConfig(), same_class=True)


def test_models_that_diverged_say_nothing_of_which_targets_are_right() -> None:
  margins = np.array(
    [[1, -1, np.nan, 2], [np.nan] * 4, [3, -1, np.nan, -1], [1, 2, 3, -9]]
  )
  assert right_targets(margins).tolist() == [True, False, True, False]
  assert right_targets(-margins).tolist() == [False, False, False, True]
  assert not right_targets(np.full((2, 3), np.nan)).any()


def test_targets_are_numbered_from_0() -> None:
  given = np.zeros((2, 4)), np.array([0, -1, 2]), np.zeros(4, int), np.zeros(2, int)
  with pytest.raises(ValueError, match=r"must be in \[0, 2\), got \[-1, 2\]"):
    cases.make_cases("m", *given, config=SearchConfig(), same_class=False)


def test_one_size_is_the_largest() -> None:
  assert cases.candidate_sizes(25, 1).tolist() == [25]


@pytest.mark.parametrize("new_label", [None, 0])
def test_two_classes_remain_after_every_change(new_label) -> None:
  labels = np.array([0] * 6 + [1] * 3)
  ranking = np.array([6, 0, 7, 8, 1, 2])
  found = cases.leaving_two_classes(ranking, labels, new_label)
  assert found.tolist() == [6, 0, 7]
  three = np.append(labels, 2)  # Of three classes, one may go.
  np.testing.assert_array_equal(cases.leaving_two_classes(ranking, three), ranking)
  one = np.zeros(9, int)  # Where labels say nothing, nothing is left out.
  np.testing.assert_array_equal(cases.leaving_two_classes(ranking, one), ranking)
