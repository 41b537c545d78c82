from fractions import Fraction

import pytest

from jaxdm import rounding, training_sets
from jaxdm.brittleness import summary as summary_lib
from jaxdm.report import summary_text
from jaxdm.training.config import TrainConfig


def test_shares_of_counts_are_exact() -> None:
  for percent in range(1, 100):
    for count in (1, 7, 45, 100, 150, 350, 50_000):
      exact = Fraction(percent * count, 100)
      assert rounding.share_of(percent / 100, count) == exact
  for part in range(1, 60):
    for whole in range(part, 60):
      assert rounding.share_of(part / whole, 3 * whole) == 3 * part
  assert rounding.share_of(1 - 1e-9, 1000) < 1000


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.2, 0.75, 0.1, 0.9])
def test_subsets_of_usual_shares_have_the_sizes_of_earlier_versions(alpha) -> None:
  for num_train in [*range(1, 3000), 50_000, 1_281_167]:
    assert training_sets.subset_size(num_train, alpha) == round(alpha * num_train)


def test_a_subset_is_rounded_as_its_exact_share() -> None:
  assert round(0.7 * 45) == 31  # Of 31.5, which rounds to 32.
  assert training_sets.subset_size(45, 0.7) == 32


def test_steps_are_not_rounded_up_from_a_whole_number() -> None:
  recipe = TrainConfig(epochs=1.1, epoch_examples=100, batch_size=10)
  assert recipe.num_steps(5) == 11


def test_columns_name_the_exact_number_of_examples(monkeypatch) -> None:
  monkeypatch.setattr(summary_lib, "CLASS_SHARES", (0.29,))
  within = {"class_sizes": [100, 200], "share_flipped_within": {"29%": 0.5}}
  summary = {"m": within | {"largest_k_tried": 58}}
  assert summary_text.parts(summary) == ["<= 29% (29-58)"]
