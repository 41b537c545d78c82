"""What a search is asked for: models on all data, targets, and cases."""

import numpy as np
import pytest

from jaxdm import prng, progress
from jaxdm.brittleness import search_inputs
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.targets import choose_targets
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError

LABELS, TARGET_LABELS = np.array([0, 1, 1, 0, 2]), np.array([1, 0, 2, 1])


def made(retrain=None, labels=LABELS, base=None) -> search_inputs.SearchInputs:
  return search_inputs.make_inputs(retrain, labels, TARGET_LABELS, base, progress.silent)


class OnAllData:
  """Margins by the number of the model; some models diverge."""

  def __init__(self, diverged: int):
    self.diverged, self.column_targets = diverged, [3, 0]

  def __call__(self, masks, labels, seeds):
    assert masks.all() and masks.shape == labels.shape == (16, 5)
    assert (labels == LABELS).all()
    numbers = np.array(seeds) - prng.model_seeds("base", 1)[0]
    margins = numbers[:, None] + [0.25, 0.5]
    margins[: self.diverged] = np.nan
    margins[self.diverged, 0] = np.nan  # Of one target alone: the model stays.
    return margins


def test_models_on_all_data_are_trained_and_those_that_diverge_are_left_out() -> None:
  for diverged in (0, 5, 14):
    inputs = made(OnAllData(diverged))
    np.testing.assert_array_equal(inputs.labels, LABELS)
    np.testing.assert_array_equal(inputs.target_labels, TARGET_LABELS)
    found = inputs.base_margins_rt
    rest = np.arange(diverged, 16)
    assert found.shape == (len(rest), 4)
    np.testing.assert_array_equal(found[:, 0], rest + 0.5)
    np.testing.assert_array_equal(found[1:, 3], rest[1:] + 0.25)
    assert np.isnan(found[0, 3]) and np.isnan(found[:, [1, 2]]).all()
  with pytest.raises(ValueError, match="15 of 16 models on all data have no finite"):
    made(OnAllData(15))


def test_margins_of_models_on_all_data_must_be_a_matrix_of_some() -> None:
  one = np.ones((1, 4))
  np.testing.assert_array_equal(made(base=one.tolist()).base_margins_rt, one)
  for wrong in (np.ones(4), np.ones((3, 5)), np.ones((0, 4)), np.ones((4, 4, 1))):
    with pytest.raises(ValueError, match=r"must be \[r, t\] with t = 4, got"):
      made(base=wrong)


def test_labels_are_integers_from_0() -> None:
  for given in (LABELS.tolist(), LABELS.astype(np.uint8)):
    found = made(labels=given, base=np.ones((2, 4))).labels
    np.testing.assert_array_equal(found, LABELS)
    assert found.dtype == np.asarray(given).dtype
  with pytest.raises(ValueError, match="labels must not be empty"):
    made(labels=LABELS[:0], base=np.ones((2, 4)))
  for wrong in (LABELS * 1.0, LABELS[:, None], LABELS > 0):
    with pytest.raises(ValueError, match="labels must be a vector of integers, got"):
      made(labels=wrong, base=np.ones((2, 4)))
  with pytest.raises(ValueError, match="labels must be >= 0, got -1"):
    made(labels=LABELS - 1, base=np.ones((2, 4)))
  moderate = LABELS * 32_767  # The largest is 65,534.
  assert (made(labels=moderate, base=np.ones((2, 4))).labels == moderate).all()
  many = np.arange(70_000)  # As many classes as examples.
  assert len(made(labels=many, base=np.ones((2, 4))).labels) == 70_000
  for wrong in (2**40, 2**16):
    text = rf"^labels must be class numbers .* below 65536, got {wrong}; numpy.unique\("
    with pytest.raises(UserError, match=text):
      made(labels=np.append(LABELS[:4], wrong), base=np.ones((2, 4)))
  with pytest.raises(UserError, match="^target_labels must be class numbers"):
    targets = [2**40, 0, 0, 0]
    search_inputs.make_inputs(None, LABELS, targets, np.ones((2, 4)), progress.silent)


def test_targets_that_are_named_are_searched_once_and_must_be_right() -> None:
  inputs = made(base=np.array([[1.0, 2, -1, 1]] * 3))
  config = SearchConfig(num_targets=2)

  def chosen(targets) -> list[int]:
    return choose_targets(inputs.base_margins_rt, targets, config).tolist()

  assert chosen([3, 0, 3]) == [0, 3] and chosen(np.array([1])) == [1]
  assert len(chosen(None)) == 2 and set(chosen(None)) < {0, 1, 3}
  assert chosen(np.array([3, 0], np.uint8)) == [0, 3] and chosen([]) == []
  assert chosen([True, False, False, True]) == [0, 3]
  assert chosen(np.array([False, True, False, False])) == [1]
  with pytest.raises(ValueError, match=r"\[0, 4\), got \[-1, 4\]"):
    chosen([4, 0, -1])
  for wrong in ([2.7], [1.0], ["1"], [True, False], [[0, 1]], np.eye(2) > 0):
    with pytest.raises(ValueError, match=r"targets must be indices, .* or bool \[4\]"):
      chosen(wrong)
  with pytest.raises(ValueError, match=r"models on all data get \[2\] wrong"):
    chosen([2, 3])


def test_methods_choose_among_all_classes_unless_they_say_nothing_of_others() -> None:
  scores = np.array([[0.1, 2, 3, 0.5, 9]] * 4)
  inputs, targets = made(base=np.ones((2, 4))), np.array([3, 1])
  config = SearchConfig(max_share=0.99)

  def ranked(given, **options) -> list[tuple[str, int, list[int]]]:
    found = search_inputs.cases_of(given, inputs, targets, config, **options)
    return [(case.method, case.target, case.ranking.tolist()) for case in found]

  everything = [("scores", 3, [4]), ("scores", 1, [4])]
  assert ranked(scores) == ranked(scores.tolist()) == everything
  own = [("mine", 3, [2]), ("mine", 1, [3])]
  assert ranked({"mine": scores}, same_class=True) == own
  # Random scores say nothing of any class.
  both = ranked({"random": scores, "mine": scores})
  assert [row[2] for row in both] == [[2], [3], [4], [4]]
  with pytest.raises(ValueError, match="at least one method"):
    ranked({})


def test_sizes_for_datamodels_follow_from_the_margins_that_they_predict() -> None:
  zeros = np.zeros(1)
  weights = np.array([[3, 2, 1, 0.5, 0, 0]], np.float32)
  models = Datamodels(weights, zeros - 2.5, zeros, zeros, zeros, zeros)
  inputs = search_inputs.SearchInputs(np.zeros(6, int), np.zeros(1, int), np.ones((2, 1)))
  config = SearchConfig(max_share=0.9, size_law="surrogate", num_sizes=2)
  given = {"fitted": models, "alone": weights}
  fitted, alone = search_inputs.cases_of(given, inputs, np.array([0]), config)
  # 4 with all, then 1, -1, -2, -2.5: at most 0 after two removals, -2.5 after four.
  assert fitted.sizes.tolist() == [2, 4] and alone.sizes.tolist() == [1, 5]
