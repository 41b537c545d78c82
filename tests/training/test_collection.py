"""Predictions of the training examples, collected with the models or later."""

import pathlib

import numpy as np
import pytest
from support.counting_fleet import CountingFleet
from support.stores import lose_chunk

from jaxdm.storage.store import Store
from jaxdm.training import fleet
from jaxdm.training.collection import Collection, Subsets, missing_models
from jaxdm.training.outputs import Outputs
from jaxdm.training.trainer import Trainer

HALVES, MODELS = Subsets(alpha=0.5), 7


@pytest.fixture
def lab(tiny_config, tiny_images, tmp_path):
  images, labels = tiny_images
  labels = np.where(np.arange(24) < 3, 1 - labels, labels)  # Some are hard to predict.
  models = CountingFleet(tiny_config, images, 2, fleet.Speed(chunk=2))
  targets = images[:10], labels[:10]
  return models, Trainer.of(models, tmp_path, labels, *targets, seed=3)


def collected(
  trainer: Trainer, name: str, *, audit: bool, models: int = MODELS
) -> Collection:
  opened = trainer.open_subsets(
    name, HALVES, models, predict_training=audit, rows_per_chunk=3
  )
  trainer.collect(opened)
  return opened


def contents(store: Store) -> dict[str, bytes]:
  path = pathlib.Path(store.path)
  files = [p for p in path.rglob("*") if p.is_file()]
  return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_they_are_those_of_models_whose_targets_are_the_training_examples(
  lab, tiny_images, tmp_path
) -> None:
  models, trainer = lab
  images, labels = tiny_images[0], trainer.labels
  of_all = Trainer.of(models, tmp_path / "all", labels, images, labels, seed=3)
  expected = collected(of_all, "some", audit=False).store.read("margins", slice(0, 7))
  found = collected(trainer, "some", audit=True).training
  margins, classes = (found.read(n, slice(0, 7)) for n in ("margins", "classes"))
  np.testing.assert_allclose(margins, expected, rtol=2e-3, atol=1e-4)
  chosen = np.where(expected > 0, labels, 1 - labels)
  np.testing.assert_array_equal(classes, chosen)
  assert 0 < (margins > 0).mean() < 1


def test_the_models_own_store_does_not_change(lab) -> None:
  _, trainer = lab
  without, with_them = (
    contents(collected(trainer, name, audit=audit).store)
    for name, audit in (("without", False), ("with", True))
  )
  assert without == with_them


def test_models_that_are_there_are_trained_again_for_them(lab) -> None:
  models, trainer = lab
  before = contents(collected(trainer, "later", audit=False).store)
  assert models.trained == 7
  opened = trainer.open_subsets(
    "later", HALVES, 10, predict_training=True, rows_per_chunk=3
  )
  assert missing_models(opened) == [range(3), range(3, 6), range(6, 9), range(9, 10)]
  grown = collected(trainer, "later", audit=True)
  assert models.trained == 14 and contents(grown.store) == before
  at_once = collected(trainer, "at once", audit=True)
  assert contents(grown.training) == contents(at_once.training)
  # More of both; a chunk that one store lacks; then nothing.
  done = models.trained
  collected(trainer, "later", audit=True, models=10)
  assert models.trained == done + 3
  lose_chunk(grown.training, 1)
  assert missing_models(collected(trainer, "later", audit=True, models=10)) == []
  assert models.trained == done + 6
  assert missing_models(collected(trainer, "later", audit=True, models=10)) == []
  assert models.trained == done + 6


class Overflows:
  """Two models a call, of which the second's logits of one example overflow."""

  rows = num_classes = 2
  provenance, values = {}, np.zeros((6, 2), np.float32)

  def identity(self) -> dict[str, str]:
    return {"models": "overflow"}

  def settle(self) -> None:
    pass

  def train_models(self, calls, values, *, predict_training):
    for _ in calls:
      training = np.ones((2, 6, 2), np.float32) * [1, 3]
      training[1, 4] = np.inf
      yield Outputs(np.arange(2), np.ones((2, len(values), 2), np.float32), training)


def of_overflows(folder) -> Trainer:
  labels = np.arange(6) % 2
  return Trainer.of(
    Overflows(), folder, labels, np.zeros((3, 2), np.float32), labels[:3], seed=0
  )


def test_a_model_that_diverges_on_one_example_predicts_none(tmp_path) -> None:
  found = collected(of_overflows(tmp_path), "some", audit=True, models=2).training
  finite = np.isfinite(found.read("margins", slice(0, 2)))
  np.testing.assert_array_equal(finite, [[True] * 6, [False] * 6])


def test_a_trainer_in_another_folder_has_other_changes(tmp_path) -> None:
  one = of_overflows(tmp_path / "a")
  found = [str(t.changes.path) for t in (one, one.in_folder(tmp_path / "b"))]
  assert found == [str(tmp_path / name / "changes") for name in "ab"]
