"""What is asked of a `retrain` function, and what it may return."""

import numpy as np
import pytest

from jaxdm.brittleness import retraining
from jaxdm.brittleness.cases import Case

MASKS = np.arange(12).reshape(3, 4) % 3 > 0
LABELS, SEEDS = np.arange(12).reshape(3, 4), np.array([5, 6, 7])


class Retrain:
  """Margins of some targets: 10 times the target, and the place of the model."""

  def __init__(self, targets: list[int], dtype: str = "f4"):
    self.column_targets, self.dtype = np.array(targets), dtype

  def __call__(self, masks, labels, seeds):
    np.testing.assert_array_equal(masks, MASKS)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(seeds, SEEDS)
    return (10 * self.column_targets + np.arange(3)[:, None]).astype(self.dtype)


def changes(*targets: int) -> list[tuple[Case, int]]:
  return [(Case(t, "m", np.arange(4), np.array([1])), 1) for t in targets]


def trained(retrain, *targets: int, **options) -> np.ndarray:
  train = retraining.TrainChanges(retrain, lambda _: (MASKS, LABELS), 9)
  return train(changes(*targets), SEEDS, **options)


def test_every_change_has_the_margin_of_its_own_target() -> None:
  np.testing.assert_array_equal(trained(Retrain([4, 0, 8]), 8, 4, 8), [80, 41, 82])
  with pytest.raises(ValueError, match=r"no margins of targets \[1, 7\]"):
    trained(Retrain([4, 0, 8]), 7, 4, 1)


@pytest.mark.parametrize("given,found", [("f2", "f2"), ("f4", "f4"), ("i4", "f8")])
def test_whole_numbers_become_float64_and_floats_stay(given, found) -> None:
  assert trained(Retrain([0], given), 0, 0, 0).dtype == np.dtype(found)
  for wrong in ("?", "c8"):
    with pytest.raises(
      ValueError, match=r"float\[m, t\] = \[3, 1\](, got|: they must hold real)"
    ):
      trained(Retrain([0], wrong), 0, 0, 0)


class WithoutSignature(Retrain):
  """As some functions written in C."""

  __signature__ = 0


class WithProgress(Retrain):
  """Tells of the first of three models."""

  def __call__(self, masks, labels, seeds, *, progress):
    progress(1, 3)
    return super().__call__(masks, labels, seeds)


@pytest.mark.parametrize(
  "kind,expected",
  [(Retrain, [(3, 3)]), (WithoutSignature, [(3, 3)]), (WithProgress, [(1, 3), (3, 3)])],
)
def test_progress_is_told_by_those_who_can_and_at_the_end(kind, expected) -> None:
  told = []
  trained(kind([2]), 2, 2, 2, progress=lambda *counts: told.append(counts))
  assert told == expected


class WithFlag(Retrain):
  """Has an argument of this name that is something else."""

  def __call__(self, masks, labels, seeds, progress=True):
    assert progress is True
    return super().__call__(masks, labels, seeds)


def test_an_argument_that_can_be_given_by_place_is_not_ours() -> None:
  np.testing.assert_array_equal(trained(WithFlag([2]), 2, 2, 2), [20, 21, 22])


def test_labels_of_the_test_set_do_not_say_what_the_columns_are() -> None:
  retrain = Retrain(list(range(9)))
  retrain.targets = np.arange(9)[::-1]  # As data sets of other packages call labels.
  np.testing.assert_array_equal(trained(retrain, 8, 4, 8), [80, 41, 82])


@pytest.mark.parametrize("wrong", [[0, 1, 1], [0, 9], [-1], [0.0, 1.0], [[0]], ["a"]])
def test_columns_are_of_different_targets(wrong) -> None:
  retrain = Retrain([0])
  retrain.column_targets = wrong
  with pytest.raises(ValueError, match=r"column_targets must be different integers in"):
    trained(retrain, 0, 0, 0)
