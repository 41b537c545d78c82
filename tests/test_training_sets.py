import numpy as np
import pytest

from jaxdm import training_sets


def test_subsets_have_exactly_alpha_n_examples_and_replay() -> None:
  masks = training_sets.random_masks(3, 101, 0.3, np.arange(50))
  assert (masks.sum(axis=1) == 30).all()
  again = training_sets.random_masks(3, 101, 0.3, np.array([17, 4]))
  np.testing.assert_array_equal(again, masks[[17, 4]])
  other = training_sets.random_masks(4, 101, 0.3, np.arange(50))
  assert (other != masks).any(axis=1).all()


def test_every_example_and_pair_is_included_at_its_rate() -> None:
  masks = training_sets.random_masks(0, 20, 0.5, np.arange(4000)).astype(float)
  rates = masks.mean(axis=0)
  assert np.abs(rates - 0.5).max() < 5 * np.sqrt(0.25 / 4000)
  pairs = (masks.T @ masks / 4000)[np.triu_indices(20, 1)]
  expected = 10 * 9 / (20 * 19)
  assert np.abs(pairs - expected).max() < 5 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5, -1.0, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
  with pytest.raises(ValueError, match="alpha must be in"):
    training_sets.subset_size(100, alpha)


def test_sets_hold_the_masked_examples_and_their_labels() -> None:
  rng = np.random.default_rng(0)
  masks, labels = rng.random((6, 15)) < 0.5, rng.integers(0, 3, 15)
  sets = training_sets.from_masks(masks, labels)
  for row, mask in enumerate(masks):
    count = sets.counts[row]
    np.testing.assert_array_equal(sets.indices[row, :count], np.flatnonzero(mask))
    np.testing.assert_array_equal(sets.labels[row, :count], labels[mask])
    assert not sets.indices[row, count:].any() and not sets.labels[row, count:].any()

  numbers = training_sets.from_masks(masks.astype(int).tolist(), labels)
  for part, expected in zip(numbers, sets, strict=True):
    np.testing.assert_array_equal(part, expected)


def test_packed_masks_are_the_masks() -> None:
  masks = np.random.default_rng(0).random((7, 19)) < 0.5
  packed = training_sets.PackedMasks.of(iter([masks[:4], masks[4:]]))
  assert packed.shape == (7, 19) and packed.dtype == bool
  some = np.array([5, 0, 5])
  for rows in (slice(None), slice(2, 6), some):
    np.testing.assert_array_equal(packed[rows], masks[rows])
  assert packed[some].dtype == bool
  taken = packed.take(some)
  assert taken.shape == (3, 19)
  np.testing.assert_array_equal(taken[:], masks[some])


def test_changes_and_labels_that_do_not_fit_together_are_an_error() -> None:
  labels, one = np.array([0, 1]), [np.array([0])]
  with pytest.raises(ValueError):
    training_sets.relabel(labels, one * 2, one)
  with pytest.raises(ValueError):
    training_sets.fingerprints(np.ones((3, 2), bool), np.zeros((2, 2), int))


def test_removal_and_relabelling_touch_only_what_they_name() -> None:
  labels = np.array([0, 0, 1, 1])
  masks = training_sets.removal_masks(4, [np.array([1]), np.array([0, 3])])
  np.testing.assert_array_equal(masks, [[1, 0, 1, 1], [0, 1, 1, 0]])
  flipped = training_sets.relabel(
    labels, [np.array([1]), np.array([2])], [np.array([1]), np.array([0])]
  )
  np.testing.assert_array_equal(flipped, [[0, 1, 1, 1], [0, 0, 0, 1]])
  np.testing.assert_array_equal(labels, [0, 0, 1, 1])


def test_fingerprints_tell_sets_and_labels_apart() -> None:
  masks = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0]], bool)
  labels = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
  a, b, c, d = training_sets.fingerprints(masks, labels)
  assert a == b  # They differ only in the label of an example that is left out.
  assert len({a, c, d}) == 3
