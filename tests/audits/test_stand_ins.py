"""Pairs of examples of which one can replace the other."""

import numpy as np
import pytest

from jaxdm.audits import stand_ins
from jaxdm.training_sets import PackedMasks


@pytest.fixture
def bank() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Examples 3 and 8 help each other, 5 helps 6 alone, 1 and 2 differ in their labels."""
  rng = np.random.default_rng(0)
  masks = rng.random((400, 30)) < 0.5
  margins = rng.normal(size=(400, 30)) + masks
  for one, two in ((3, 8), (8, 3), (6, 5), (1, 2), (2, 1)):
    margins[:, one] += 2 * masks[:, two] * ~masks[:, one]
  labels = np.arange(30) // 15
  labels[2] = 1
  return masks, margins, labels


def test_planted_pairs_are_found_and_no_others(bank, monkeypatch) -> None:
  masks, margins, labels = bank
  [pair] = stand_ins.find_pairs(*bank)
  assert (pair.first, pair.second) == (3, 8)
  effects, errors = [], []
  for one, two in ((3, 8), (8, 3)):
    out = ~masks[:, one]
    parts = [margins[out & (masks[:, two] == held), one] for held in (True, False)]
    effects.append(parts[0].mean() - parts[1].mean())
    errors.append(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))
  assert pair.effect == pytest.approx(min(effects), rel=1e-4)
  assert pair.z == pytest.approx(np.min(np.divide(effects, errors)), rel=1e-4)
  monkeypatch.setattr(stand_ins, "_BLOCK_EXAMPLES", 7)
  monkeypatch.setattr(stand_ins, "_BLOCK_MODELS", 90)
  packed = PackedMasks.of([masks])
  [again] = stand_ins.find_pairs(packed, margins, labels)
  assert again == pytest.approx(pair, rel=1e-4)


def test_chance_is_hardly_ever_a_pair() -> None:
  found = 0
  for seed in range(8):
    rng = np.random.default_rng(seed)
    masks, margins = rng.random((60, 40)) < 0.5, rng.normal(size=(60, 40))
    found += len(stand_ins.find_pairs(masks, margins, np.zeros(40, int)))
  assert found <= 1


@pytest.mark.parametrize("alpha,m", [(0.5, 64), (0.9, 1000), (0.8, 400)])
def test_chance_makes_no_pairs_where_few_models_lack_both(alpha, m) -> None:
  """Margins share noise, as those of one model do; the level is 5 % of runs."""
  false = 0
  for seed in range(8):
    rng = np.random.default_rng(seed)
    masks = rng.random((m, 150)) < alpha
    margins = rng.normal(size=(m, 150)) + 3 * rng.normal(size=(m, 1))
    false += bool(stand_ins.find_pairs(masks, margins, np.zeros(150, int)))
  assert false <= 2  # More than 2 of 8 by chance: .6 %.


@pytest.mark.parametrize("unit,offset", [(1, 1e7), (1e-25, 0), (1e30, 0)])
def test_units_and_offsets_of_margins_make_no_other_pairs(bank, unit, offset) -> None:
  masks, margins, labels = bank
  [expected] = stand_ins.find_pairs(masks, margins, labels)
  [found] = stand_ins.find_pairs(masks, margins * unit + offset, labels)
  assert (found.first, found.second) == (expected.first, expected.second)
  assert found.effect == pytest.approx(expected.effect * unit, rel=1e-4)
  assert found.z == pytest.approx(expected.z, rel=1e-4)


def test_the_strongest_pairs_come_first() -> None:
  rng = np.random.default_rng(0)
  masks, margins = rng.random((400, 30)) < 0.5, rng.normal(size=(400, 30))
  for one, two, size in ((3, 8, 2), (8, 3, 2), (20, 25, 6), (25, 20, 6)):
    margins[:, one] += size * masks[:, two] * ~masks[:, one]
  found = stand_ins.find_pairs(masks, margins, np.zeros(30, int))
  assert [(pair.first, pair.second) for pair in found] == [(20, 25), (3, 8)]


def test_a_few_models_without_both_are_no_evidence() -> None:
  """Six lack both examples; those without one have the other nearly always."""
  masks = np.ones((60, 4), bool)
  masks[:30, 0] = masks[30:, 1] = masks[:3, 1] = masks[30:33, 0] = False
  noise = 1e-3 * np.random.default_rng(0).normal(size=(60, 4))
  margins = 5 * masks[:, [1, 0, 2, 3]] + noise
  assert stand_ins.find_pairs(masks, margins, np.zeros(4, int)) == []
