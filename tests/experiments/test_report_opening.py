import copy
from typing import Any

import numpy as np
import pytest

from experiments.report_page import words
from experiments.report_page.opening import constant_accuracy, opening, warning

METHOD = {
  "targets": 24,
  "share_flipped": 9 / 24,
  "median_k": [None, 12.0, None],
  "censored_above": 25,
  "largest_k_tried": 25,
  "unfinished": 0,
}
SUMMARY: dict[str, Any] = {
  "train_subsets": {
    "num_train": 200,
    "num_targets": 120,
    "base_accuracy": 0.848,
    "subset_accuracy": 0.811,
  },
  "fit_datamodels": {
    "lds": {"estimate": 0.6},
    "lds_ceiling": {"estimate": 0.75},
  },
  "brittleness": {"methods": {"datamodel": METHOD}, "comparisons": []},
  "label_flip": {"methods": {"datamodel": METHOD | {"median_k": [6.0, 3.0, 8.0]}}},
  "settings": {"collect": {"alpha": 0.5}, "search": {"max_share": 0.25}},
  "constant_accuracy": 0.5,
  "hardly_right": 0,
}


def text_of(**changes: Any) -> str:
  """The paragraphs, with some values changed by 'group__name'."""
  summary = copy.deepcopy(SUMMARY)
  for name, value in changes.items():
    group, _, field = name.partition("__")
    if field:
      summary[group][field] = value
    else:
      summary[group] = value
  return " ".join([warning(summary), *opening(summary)])


@pytest.mark.parametrize(
  "changes,said,not_said",
  [
    ({}, "classify 84.8 % of the 120 targets correctly", "poor"),
    ({}, "constant answer is correct for 50.0 %", "hardly right"),
    ({}, "of 0.60, which is 80 % of what is possible", "That is low"),
    ({}, "flips 9 of 24 targets; for the median target, 25 were not enough.", "needs"),
    ({}, "relabelling at most 25 training images", "None"),
    ({}, "for the median target, 6 were enough.", "6.0"),
    ({}, "It is so for 15 of 24 targets", "9 of 24 targets. They"),
    ({}, "at most 25 images (25 % of a class", "Holm"),
    ({"train_subsets__base_accuracy": 0.56}, "These models are poor", "hardly right"),
    ({"train_subsets__base_accuracy": 0.6}, "classify 60.0 %", "poor"),
    ({}, "trained on random 50 % of the images 81.1 %.", "random 25 %"),
    (
      {"brittleness__methods": {"datamodel": METHOD | {"unfinished": 2}}},
      "flips at least 9 of 24 targets; 2 searches are not finished.",
      "25 were not enough",
    ),
    (
      {"fit_datamodels__lds_ceiling": {"estimate": 0.0}},
      "(LDS) of 0.60.",
      "what is possible",
    ),
    ({"hardly_right": 3}, "searched but are hardly right: 3.", "poor"),
    ({"fit_datamodels__lds_ceiling": None}, "(LDS) of 0.60.", "what is possible"),
    ({"fit_datamodels__lds": {"estimate": 0.1}}, "That is low", "poor"),
  ],
)
def test_the_opening_follows_the_results(changes, said, not_said) -> None:
  text = text_of(**changes)
  assert said in text
  assert not_said not in text


def test_a_constant_answer_is_right_as_often_as_the_largest_class() -> None:
  labels = np.array([2, 0, 2, 1, 2])
  assert constant_accuracy(labels) == max((labels == c).mean() for c in range(3)) == 0.6


def test_methods_are_told_apart_only_where_they_differ_clearly() -> None:
  pairs = [("a", "c", 9, 0, 0.004), ("b", "c", 9, 1, 0.05), ("a", "b", 5, 3, 0.9)]
  names = ("first", "second", "wins", "losses", "p")
  text = words.comparisons([dict(zip(names, pair, strict=True)) for pair in pairs])
  assert "a needs fewer images than c (9 to 0 targets)" in text
  assert "b needs fewer images than c (9 to 1 targets)" in text
  assert "no clear difference between a and b (5 to 3)" in text
  text = words.comparisons([dict(zip(names, pairs[2], strict=True))])
  assert text.endswith("no clear difference between any two of them.")
