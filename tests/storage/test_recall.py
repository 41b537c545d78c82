"""Which models are trained, in which parts, and which are read."""

import numpy as np
import pytest

import jaxdm
from jaxdm import prng
from jaxdm.storage import bank as bank_lib
from jaxdm.storage import polling
from jaxdm.storage import recall as recall_lib
from jaxdm.training_sets import ModelSpecs

SETS, EXAMPLES, TARGETS = 9, 7, 3


def open_bank(path) -> bank_lib.Bank:
  sizes = {"num_targets": TARGETS, "num_train": EXAMPLES, "label_classes": 4}
  store = bank_lib.open_store(path, settings={}, rows_per_chunk=4, **sizes)
  return bank_lib.Bank(store)


def some_models() -> ModelSpecs:
  """Different in their sets, labels or seeds; the fourth and the last are there twice."""
  rng = np.random.default_rng(0)
  masks = rng.random((SETS, EXAMPLES)) < 0.8
  labels = rng.integers(0, 4, (SETS, EXAMPLES)).astype(np.int32)
  models = ModelSpecs(masks, labels, prng.model_seeds("verify", SETS))
  return models.rows(np.array([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8]))


def margins_of(models: ModelSpecs) -> np.ndarray:
  """Told apart by every part of a model."""
  sums = (models.masks_mn * models.labels_mn) @ np.arange(1, EXAMPLES + 1)
  return (sums[:, None] + models.seeds[:, None] / 8 + np.arange(TARGETS)).astype("f4")


class Trainer:
  """Notes the seeds of the models that it trains, part by part."""

  def __init__(self, bank: bank_lib.Bank):
    self.bank, self.parts, self.stored = bank, [], []

  def __call__(self, parts):
    for part in parts:
      self.stored.append(len(self.bank))
      self.parts.append((part.seeds - prng.model_seeds("verify", 1)).tolist())
      yield margins_of(part)


def test_parts_are_stored_before_the_next_is_trained(tmp_path) -> None:
  bank, models = open_bank(tmp_path), some_models()
  trainer, told = Trainer(bank), []
  options = {"rows": 2, "progress": lambda *counts: told.append(counts)}
  found = recall_lib.recall(bank, models, trainer, **options)
  np.testing.assert_array_equal(found, margins_of(models))
  assert trainer.parts == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
  assert trainer.stored == [0, 2, 4, 6, 8]
  assert told == [(0, 11), (2, 11), (5, 11), (7, 11), (9, 11), (11, 11)]
  told.clear()
  again = recall_lib.recall(open_bank(tmp_path), models, Trainer(bank), **options)
  np.testing.assert_array_equal(again, found)
  assert told == [(11, 11)] and len(trainer.parts) == 5


def test_only_what_another_run_left_is_trained(tmp_path) -> None:
  models, told = some_models(), []
  recall_lib.recall(open_bank(tmp_path), models.rows(np.array([3, 10, 0])), Trainer([]))
  bank = open_bank(tmp_path)
  trainer = Trainer(bank)
  found = recall_lib.recall(
    bank, models, trainer, rows=4, progress=lambda *counts: told.append(counts)
  )
  np.testing.assert_array_equal(found, margins_of(models))
  assert trainer.parts == [[1, 2, 4, 5], [6, 7]]
  assert told == [(5, 11), (9, 11), (11, 11)]


def test_processes_share_what_no_other_trains_and_wait_for_the_rest(
  tmp_path, monkeypatch
) -> None:
  """Each waits once its part is stored; here the others then run before it goes on."""
  models, trained, waited = some_models(), [], []

  def process(index: int) -> None:
    bank = open_bank(tmp_path)
    trainer = Trainer(bank)

    def until(stored, what) -> None:
      assert not stored()
      waited.append((index, what))
      if index < 2:
        process(index + 1)
      assert stored()

    monkeypatch.setattr(polling, "until", until)
    found = recall_lib.recall(bank, models, trainer, rows=8, share=(index, 3))
    np.testing.assert_array_equal(found, margins_of(models))
    trained.extend(trainer.parts)

  process(0)
  assert sorted(trained) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
  assert waited == [(i, "its share of the models") for i in (0, 1)]


def test_labels_of_every_class_come_back(tmp_path) -> None:
  """A byte holds 256 classes, of which the last one may be that of a target only."""
  for dtype, labels, targets in (
    ("uint16", [0, 256], [0]),
    ("uint16", [0, 1], [256, 0]),
    ("uint8", [0, 1], [255]),
  ):
    path = tmp_path / str((labels, targets))

    def retrain(masks, labels, seeds, count=len(targets)):
      return np.zeros((len(masks), count))

    keep = jaxdm.remember(retrain, np.array(labels), targets, folder=path, depends_on=[1])
    keep(np.ones((1, 2), bool), [max(*labels, *targets), 0], [3])
    assert keep._bank._store.columns["labels"].dtype == dtype
    # The ids of models are digests of their labels.
    assert len(keep._bank) == 1 and not list(keep._bank.wrong_chunks())


def test_margins_of_some_targets_cannot_be_remembered(tmp_path) -> None:
  keep = jaxdm.remember(
    lambda *models: np.zeros((2, 2)),
    np.arange(4),
    [0, 1, 2],
    folder=tmp_path,
    depends_on=1,
  )
  with pytest.raises(ValueError, match=r"\[m, t\] = \(2, 3\), got \(2, 2\)"):
    keep(np.ones((2, 4), bool), np.arange(4), [0, 1])
  with pytest.raises(jaxdm.UserError, match="target_labels"):
    jaxdm.remember(print, np.arange(4), [0, 1, 1], folder=tmp_path, depends_on=1)


def test_no_models_have_no_margins(tmp_path) -> None:
  labels, masks = np.array([0, 0, 1, 1]), np.ones((2, 4), bool)
  calls = []

  def train(masks, labels, seeds):
    calls.append(len(seeds))
    return np.ones((len(seeds), 3))

  retrain = jaxdm.remember(train, labels, [0, 1, 1], folder=tmp_path, depends_on="v1")
  for _ in range(2):  # Of an empty folder, and of one that holds models.
    found = retrain(masks[:0], labels, np.zeros(0, int))
    assert found.shape == (0, 3) and found.dtype == np.float32
    retrain(masks, labels, [0, 1])
  assert calls == [2]


def test_requests_are_checked_before_a_function_gets_them(tmp_path) -> None:
  calls = []
  keep = jaxdm.remember(calls.append, [0, 1], [0], folder=tmp_path, depends_on=1)
  ones = np.ones((2, 2), bool)
  for wrong in (
    (ones, [0, 1], [0]),
    (-ones.astype(int), [0, 1], [0, 1]),
    (ones, [0, 256], [0, 1]),
  ):
    with pytest.raises(ValueError, match="must be"):
      keep(*wrong)
  assert not calls
