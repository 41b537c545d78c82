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


MASKS = np.arange(12).reshape(3, 4) % 5 > 0
LABELS, SEEDS = np.array([0, 1, 2, 1]), np.arange(3)


def specs(masks=MASKS, labels=LABELS, seeds=SEEDS) -> training_sets.ModelSpecs:
  return training_sets.model_specs(masks, labels, seeds, num_train=4, num_classes=3)


def test_all_forms_of_the_same_models_are_accepted() -> None:
  labels_mn = np.tile(LABELS, (3, 1)).astype(np.int32)
  for masks in (MASKS, MASKS.tolist(), MASKS.astype("f4"), MASKS.astype("u1")):
    for labels in (LABELS, LABELS.tolist(), labels_mn, labels_mn[:1], labels_mn == 1):
      found = specs(masks, labels, range(3))
      np.testing.assert_array_equal(found.masks_mn, MASKS)
      np.testing.assert_array_equal(found.labels_mn, np.broadcast_to(labels, (3, 4)))
      np.testing.assert_array_equal(found.seeds, SEEDS)
      assert found.masks_mn.dtype == bool and found.labels_mn.dtype == np.int32
  packed = training_sets.PackedMasks(np.packbits(MASKS, axis=1), 4)
  np.testing.assert_array_equal(specs(packed).masks_mn, MASKS)
  assert len(specs(np.zeros((0, 4), bool), LABELS, []).seeds) == 0
  found = specs(MASKS, labels_mn)
  assert np.shares_memory(found.masks_mn, MASKS)
  assert np.shares_memory(found.labels_mn, labels_mn)


@pytest.mark.parametrize(
  "changed,message",
  [
    ({"masks": MASKS * 2.0 - 1}, r"masks .*numbers 0 and 1, got -1.0 in row 0"),
    ({"masks": np.where(MASKS, 1, np.nan)}, "masks .*0 and 1, got nan in row 0"),
    ({"masks": MASKS.astype(str)}, "masks must be bool, or numbers 0 and 1, got <U5"),
    ({"masks": MASKS[0]}, r"masks must be bool\[m, n\] with n = 4 .*masks\[None\]"),
    ({"masks": [0, 3]}, r"masks .*got int64\[2\]; of indices"),
    ({"masks": [[0, 3], [1]]}, "masks must be an array"),
    ({"masks": MASKS & [[1], [0], [1]] > 0}, "masks must hold .* each; row 1 has none"),
    ({"masks": MASKS[:, :3]}, r"masks .* n = 4 training examples, got bool\[3, 3\]"),
    ({"labels": LABELS[:3]}, r"labels must be int\[m, n\] = \[3, 4\].*, got \[3\]"),
    ({"labels": np.tile(LABELS, (2, 1))}, r"labels must be .*, got \[2, 4\]"),
    ({"labels": LABELS + 1}, r"labels must be in \[0, 3\), got 3"),
    ({"labels": LABELS - 1}, r"labels must be in \[0, 3\), got -1"),
    ({"labels": LABELS * 0.9}, "labels must be integers, got float64"),
    ({"labels": LABELS * np.nan}, "labels must be integers, got float64"),
    ({"labels": list("abca")}, r"labels must be integers, got <U1; numpy.unique"),
    ({"seeds": SEEDS[:2]}, r"seeds must be int\[m\], one a mask, \[3\], got \[2\]"),
    ({"seeds": 0}, r"seeds must be int\[m\], one a mask, \[3\], got \[\]"),
    ({"seeds": SEEDS + 0.5}, "seeds must be integers, got float64"),
    ({"seeds": SEEDS - 1}, r"seeds must be .*in \[0, 2\*\*32\), got -1"),
    ({"seeds": SEEDS + 2**32}, r"seeds must be .*in \[0, 2\*\*32\), got 4294967298"),
  ],
)
def test_what_is_no_request_for_models_is_named(changed, message) -> None:
  with pytest.raises(ValueError, match=f"^{message}"):
    specs(**changed)


@pytest.mark.parametrize(
  "changed,message",
  [
    ({"alpha": 0.01}, "alpha must give subsets of 1 to 5 of the 6 .* subsets of 0"),
    ({"alpha": 0.99}, "alpha must give subsets of 1 to 5 of the 6 .* subsets of 6"),
    ({"seed": 2**32}, r"seed must be .*in \[0, 2\*\*32\), got 4294967296"),
    ({"num_models": -1}, "num_models must be an integer >= 0, got -1"),
    ({"num_models": 1.5}, "num_models must be an integer >= 0, got 1.5"),
    ({"num_train": 1}, "num_train must be an integer >= 2, got 1"),
  ],
)
def test_what_gives_no_random_subsets_is_named(changed, message) -> None:
  given = {"num_models": 2, "num_train": 6, "alpha": 0.5, "seed": 0}
  assert training_sets.random_subsets(**given).sum() == 6
  with pytest.raises(ValueError, match=f"^{message}"):
    training_sets.random_subsets(**given | changed)
