import jax
import numpy as np
import pytest

from jaxdm import bank, fleet, prng, retrain


class CountingFleet(fleet.Fleet):
  """Counts the models that it trains."""

  trained = 0

  def train_chunk(self, sets, keys):
    self.trained += len(sets.counts)
    return super().train_chunk(sets, keys)


@pytest.fixture
def lab(tiny_config, tiny_images, tmp_path):
  images, labels = tiny_images
  models = CountingFleet(tiny_config, images, 2, fleet.Speed(chunk=2))

  def build() -> retrain.Retrainer:
    store = bank.Bank(tmp_path, num_targets=10, num_train=24, settings={})
    return retrain.Retrainer(models, store, labels, images[:10], labels[:10], seed=3)

  return models, build, labels


def test_only_missing_models_are_trained(lab) -> None:
  models, build, _ = lab
  masks = np.ones((7, 24), bool)
  masks[np.arange(7), np.arange(7)] = False
  seeds = [prng.Seed("subset", i) for i in range(7)]
  seen = []
  first = build()(masks[:4], seeds[:4])
  assert models.trained == 4
  again = build()(masks, seeds, progress=lambda done, total: seen.append((done, total)))
  assert models.trained == 7
  np.testing.assert_array_equal(again[:4], first)
  assert seen[0] == (4, 7) and seen[-1] == (7, 7)


def test_another_number_of_models_compiles_nothing(lab, caplog) -> None:
  _, build, _ = lab
  masks = np.ones((9, 24), bool)
  masks[np.arange(9), np.arange(9)] = False
  seeds = [prng.Seed("verify", i) for i in range(9)]
  build()(masks[:2], seeds[:2])
  with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
    build()(masks, seeds)
  assert "Compiling" not in caplog.text, caplog.text


def test_a_request_may_repeat_itself_and_nothing_may_be_left_to_do(lab) -> None:
  models, build, _ = lab
  masks, seeds = np.ones((3, 24), bool), [prng.Seed("base", i) for i in (0, 1, 0)]
  margins = build()(masks, seeds)
  assert models.trained == 2
  np.testing.assert_array_equal(margins[0], margins[2])
  assert not np.array_equal(margins[0], margins[1])
  np.testing.assert_array_equal(build()(masks, seeds), margins)
  assert models.trained == 2


def test_labels_are_part_of_a_models_identity(lab) -> None:
  models, build, labels = lab
  flipped = labels.copy()
  flipped[0] ^= 1
  masks, seeds = np.ones((2, 24), bool), [prng.Seed("verify", 0)] * 2
  margins = build()(masks, seeds, labels_mn=np.stack([labels, flipped]))
  assert models.trained == 2
  assert not np.array_equal(margins[0], margins[1])
