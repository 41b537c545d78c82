"""Which label to flip to."""

import numpy as np
import pytest

from experiments.runtime import relabel
from jaxdm.brittleness import label_flips


def test_the_runner_up_is_never_the_own_class() -> None:
  logits = np.array([[[5.0, 1, 2], [0, 3, 9]], [[5.0, 4, 2], [0, 3, 1]]])
  before = logits.copy()
  for own, expected in (([0, 1], [1, 2]), ([1, 0], [0, 2])):
    found = label_flips.runner_up_class(logits, np.array(own))
    np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(logits, before)


def test_a_given_class_must_not_be_a_targets_own() -> None:
  np.testing.assert_array_equal(label_flips.one_class(2, np.array([0, 1])), [2, 2])
  with pytest.raises(ValueError, match="class of a target; it is that of 2 of 3"):
    label_flips.one_class(1, np.array([1, 0, 1]))


def test_the_best_class_takes_most_and_is_another() -> None:
  taken = np.array([[[0.0, -2, -1], [3, 0, 4]]])
  found = label_flips.best_class(taken, np.array([0, 1]))
  np.testing.assert_array_equal(found, [[2, 2]])
  only = label_flips.best_class(np.array([[[9.0, -5]]]), np.array([0]))
  np.testing.assert_array_equal(only, [[1]])


def test_scores_of_some_targets_are_zero_for_all_others() -> None:
  taken = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
  rows = relabel.rows_of_some(taken, np.array([1, 4, 6]), 8)
  expected = np.zeros((8, 4), np.float32)
  expected[1], expected[4], expected[6] = taken
  np.testing.assert_array_equal(rows[:], expected)
  np.testing.assert_array_equal(rows[np.array([6, 0, 1])], expected[[6, 0, 1]])


def test_the_competing_class_has_the_lowest_sum_of_weights() -> None:
  rng = np.random.default_rng(0)
  weights, labels = rng.normal(size=(9, 30)), rng.integers(0, 4, 30)
  target_labels = rng.integers(0, 4, 9)
  found = label_flips.competing_class(weights, labels, target_labels)
  for target, own in enumerate(target_labels):
    sums = {}
    for example, label in enumerate(labels):
      if label != own:
        sums[label] = sums.get(label, 0.0) + weights[target, example]
    assert found[target] == min(sums, key=sums.get)


def test_a_class_without_examples_does_not_compete() -> None:
  weights = np.array([[0.3, 0.2, 0.1, 0.05]])
  found = label_flips.competing_class(weights, [0, 0, 2, 2], np.array([0]))
  assert found.tolist() == [2]
  found = label_flips.competing_class(weights, [0, 0, 2, 2], np.array([4]))
  assert found.tolist() == [2]
