import pathlib
from concurrent import futures

import jax
import numpy as np
import pytest
from support.counting_fleet import CountingFleet
from support.stores import lose_chunk

from jaxdm import devices, prng, training_sets
from jaxdm.storage import bank, step_checkpoints
from jaxdm.training import fleet
from jaxdm.training.collection import Collection, Subsets, missing_in_store
from jaxdm.training.trainer import Trainer


@pytest.fixture
def lab(tiny_config, tiny_images, tmp_path):
  images, labels = tiny_images
  models = CountingFleet(tiny_config, images, 2, fleet.Speed(chunk=2))

  def build(share: tuple[int, int] = (0, 1)) -> Trainer:
    targets = images[:10], labels[:10]
    return Trainer.of(models, tmp_path, labels, *targets, seed=3, share=share)

  return models, build, labels


def test_only_missing_models_are_trained(lab) -> None:
  models, build, labels = lab
  masks = np.ones((7, 24), bool)
  masks[np.arange(7), np.arange(7)] = False
  seeds = prng.model_seeds("subset", 7)
  seen = []
  first = build()(masks[:4], labels, seeds[:4])
  assert models.trained == 4
  again = build()(
    masks, labels, seeds, progress=lambda done, total: seen.append((done, total))
  )
  assert models.trained == 7
  np.testing.assert_array_equal(again[:4], first)
  assert seen[0] == (4, 7) and seen[-1] == (7, 7)


def test_processes_of_one_job_train_their_parts_and_read_the_others(
  tiny_config, tiny_images, tmp_path
) -> None:
  images, labels = tiny_images
  masks = np.ones((7, 24), bool)
  masks[np.arange(7), np.arange(7)] = False
  seeds = prng.model_seeds("verify", 7)

  def ask(path, share=(0, 1)) -> tuple[np.ndarray, int]:
    models = CountingFleet(tiny_config, images, 2, fleet.Speed(chunk=2))
    targets = images[:10], labels[:10]
    trainer = Trainer.of(models, tmp_path / path, labels, *targets, seed=3, share=share)
    return trainer(masks, labels, seeds), models.trained

  alone, _ = ask("alone")
  with futures.ThreadPoolExecutor() as pool:
    found = list(pool.map(lambda i: ask("together", (i, 3)), range(3)))
  assert [trained for _, trained in found] == [3, 2, 2]
  for margins, _ in found:
    np.testing.assert_array_equal(margins, alone)


def test_another_number_of_models_compiles_nothing(lab, caplog) -> None:
  _, build, labels = lab
  masks = np.ones((9, 24), bool)
  masks[np.arange(9), np.arange(9)] = False
  seeds = prng.model_seeds("verify", 9)
  build()(masks[:2], labels, seeds[:2])
  with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
    build()(masks, labels, seeds)
  assert "Compiling" not in caplog.text, caplog.text


def test_a_request_may_repeat_itself_and_nothing_may_be_left_to_do(lab) -> None:
  models, build, labels = lab
  masks, seeds = np.ones((3, 24), bool), [0, 1, 0]
  margins = build()(masks, labels, seeds)
  assert models.trained == 2
  np.testing.assert_array_equal(margins[0], margins[2])
  assert not np.array_equal(margins[0], margins[1])
  np.testing.assert_array_equal(build()(masks, labels, seeds), margins)
  assert models.trained == 2


def test_diverged_models_are_counted_and_stored_as_nan(lab, monkeypatch) -> None:
  models, build, labels = lab
  train_models = fleet.Fleet.train_models

  def broken(self, calls, values, **options):
    for outputs in train_models(self, calls, values, **options):
      row = outputs.places[1]
      yield outputs._replace(logits=outputs.logits.at[row, 3].set(np.inf))

  monkeypatch.setattr(fleet.Fleet, "train_models", broken)
  masks = np.ones((models.rows, 24), bool)
  seeds = prng.model_seeds("subset", models.rows)
  trainer = build()
  assert trainer.diverged == 0
  margins = trainer(masks, labels, seeds)
  assert trainer.diverged == 1
  np.testing.assert_array_equal(
    np.isfinite(margins).all(axis=1), np.arange(len(masks)) != 1
  )
  assert build()(masks, labels, seeds).shape == margins.shape  # Read, not trained.


def test_labels_are_part_of_a_models_identity(lab) -> None:
  models, build, labels = lab
  flipped = labels.copy()
  flipped[0] ^= 1
  masks, seeds = np.ones((2, 24), bool), [0, 0]
  margins = build()(masks, np.stack([labels, flipped]), seeds)
  assert models.trained == 2
  assert not np.array_equal(margins[0], margins[1])


HALVES = Subsets(alpha=0.5)


def collection(lab, name: str, count: int = 11) -> Collection:
  _, build, _ = lab
  return build().open_subsets(name, HALVES, count, rows_per_chunk=3)


def collected(
  lab, name: str, *shares: tuple[int, int], count: int = 11
) -> dict[str, bytes]:
  """What is in a store after each of some hosts has done its part."""
  _, build, _ = lab
  opened = collection(lab, name, count)
  for share in shares:
    build(share).collect(opened)
  path = pathlib.Path(opened.store.path)
  files = [p for p in path.rglob("*") if p.is_file()]
  return {str(p.relative_to(path)): p.read_bytes() for p in files}


def lacking(opened: Collection) -> list[range]:
  return missing_in_store(opened.store, opened.models)


def test_shards_make_the_same_store_in_any_order_and_number(lab) -> None:
  one = collected(lab, "one", (0, 1))
  models, _, _ = lab
  assert models.trained == 11
  three = collected(lab, "three", (2, 3), (0, 3), (1, 3))
  # Two of four hosts die, and two others do the rest; one chunk is lost on the way.
  collected(lab, "lost", (3, 4), (0, 4))
  assert len(lacking(collection(lab, "lost"))) == 2
  lose_chunk(collection(lab, "lost").store, 3)
  mended = collected(lab, "lost", (1, 2), (0, 2))
  assert one == three == mended
  assert len(one) == 1 + 2 + 3 * 4
  assert lacking(collection(lab, "lost")) == []


def test_collected_margins_are_those_of_models_asked_for_one_by_one(lab) -> None:
  _, build, labels = lab
  collected(lab, "store", (0, 1), count=5)
  masks = training_sets.random_masks(3, 24, 0.5, np.arange(5))
  asked = build()(masks, labels, prng.model_seeds("subset", 5))
  store = collection(lab, "store").store
  np.testing.assert_array_equal(store.read("margins", slice(0, 5)), asked)
  np.testing.assert_array_equal(bank.packed_masks(store, np.arange(5))[:], masks)


def test_more_models_keep_those_that_are_there(lab) -> None:
  models, _, _ = lab
  collected(lab, "store", (0, 1), count=7)
  before = models.trained
  collected(lab, "store", (0, 1), count=11)
  # The rest of the third chunk, of which there was one row, and the fourth.
  assert models.trained - before == 4
  assert lacking(collection(lab, "store")) == []
  collected(lab, "at once", (0, 1), count=11)
  grown, at_once = (collection(lab, name).store for name in ("store", "at once"))
  for column in ("margins", "masks"):
    rows = slice(0, 11)
    np.testing.assert_array_equal(grown.read(column, rows), at_once.read(column, rows))


def test_models_that_take_long_are_kept_until_they_are_stored(
  tiny_config, tiny_images, tmp_path, monkeypatch
) -> None:
  images, labels = tiny_images

  def build(folder) -> tuple[Trainer, list[int]]:
    # Two models a device in a chunk of the fleet, eight in a chunk of the store.
    checkpoints = step_checkpoints.Checkpoints(folder, 1e-9)
    speed = fleet.Speed(chunk=2)
    models = fleet.Fleet(tiny_config, images, 2, speed, checkpoints=checkpoints)
    ran, advance = [], models._advance
    models._advance = lambda r, s, a, b: ran.append(a) or advance(r, s, a, b)
    targets = images[:10], labels[:10]
    trainer = Trainer.of(models, tmp_path, labels, *targets, seed=3)
    return trainer, ran

  def no_space(*args) -> None:
    raise OSError("No space left on device")

  def collect(folder, name: str) -> list[int]:
    trainer, ran = build(folder)
    trainer.collect(trainer.open_subsets(name, HALVES, 8, rows_per_chunk=8))
    return ran

  monkeypatch.setattr(step_checkpoints, "_DUE", 1e15)  # Only finished ones are written.
  chunks = -(-8 // (2 * devices.count()))
  assert collect(tmp_path / "kept-1", "whole").count(0) == chunks
  assert list((tmp_path / "kept-1").iterdir()) == []
  monkeypatch.setattr(bank, "write", no_space)
  with pytest.raises(OSError, match="No space"):
    collect(tmp_path / "kept-2", "again")
  monkeypatch.undo()
  # All of the fleet's chunks were finished, and none is trained again.
  assert collect(tmp_path / "kept-2", "again") == []
  trainer, _ = build(tmp_path / "kept-3")
  whole, again = (
    trainer.open_subsets(name, HALVES, 8).store for name in ("whole", "again")
  )
  rows = slice(0, 8)
  np.testing.assert_array_equal(again.read("margins", rows), whole.read("margins", rows))
