"""What a trainer asks of a fleet, reports and stores, where models are a formula."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxdm
from jaxdm import prng, training_sets
from jaxdm.training.collection import Subsets
from jaxdm.training.outputs import Outputs
from jaxdm.training.trainer import Trainer

EXAMPLES, CLASSES, SEED = 12, 3, 3
LABELS = np.arange(EXAMPLES) % CLASSES
VALUES, TARGET_LABELS = np.array([0.5, -2, 9, 4, 1]), np.array([0, 1, 2, 0, 1])


def formula(examples, labels, key, values) -> np.ndarray:
  """Logits [t, k] that depend on all that a model is trained on."""
  counts = np.zeros((CLASSES, EXAMPLES))
  counts[labels, examples] = np.arange(1, EXAMPLES + 1)[examples]
  drawn = np.asarray(jax.random.key_data(key), np.uint32) % 97 / 97
  return np.outer(values, counts.sum(axis=1)) % 7 + drawn[0] * np.arange(CLASSES)


class Fleet:
  """Four models a chunk; like a fleet's, logits are padded, and one chunk behind."""

  rows, num_classes, provenance = 4, CLASSES, {"made": "by a formula"}
  values = np.zeros((1, 1), np.float32)  # Of no effect.

  def __init__(self, diverged: tuple[int, ...] = ()):
    self.diverged, self.trained = diverged, 0
    self.log: list[str] = []

  def identity(self) -> dict[str, Any]:
    return {"network": "formula"}

  def settle(self) -> None:
    self.log.append("settled")

  def train_models(self, chunks, values, *, predict_training):
    assert not predict_training
    for sets, keys in chunks:
      size = len(sets.counts)
      assert size <= len(keys) == self.rows
      logits = np.full((self.rows, len(values), CLASSES), 1e9, np.float32)
      for row, count in enumerate(sets.counts):
        used = sets.indices[row, :count], sets.labels[row, :count]
        logits[row] = formula(*used, keys[row], values)
        if self.trained + row in self.diverged:
          logits[row, 1, 2] = np.inf
      self.trained += size
      self.log.append(f"trained {size}")
      yield Outputs(np.arange(size), logits)


def expected(mask, labels, family: str, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Margins and logits of one model."""
  key = prng.key_for(jax.random.key(SEED), family, number)
  examples = np.flatnonzero(mask)
  logits = formula(examples, labels[examples], key, VALUES).astype(np.float32)
  pairs = zip(logits, TARGET_LABELS, strict=True)
  return np.array([row[k] - np.delete(row, k).max() for row, k in pairs]), logits


def trainer(fleet: Fleet, folder=None, **changed) -> Trainer:
  given = {"labels": LABELS, "target_values": VALUES, "target_labels": TARGET_LABELS}
  return Trainer.of(fleet, folder, **given | {"seed": SEED} | changed)


def requested(count: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sets, labels and seeds of two families."""
  rng = np.random.default_rng(0)
  masks = rng.random((count, EXAMPLES)) < 0.6
  labels = (LABELS + rng.integers(0, 2, (count, 1))) % CLASSES
  seeds = prng.model_seeds("verify", count) - 10**7 * (np.arange(count) % 2)
  return masks, labels, seeds


@pytest.mark.parametrize("stored", [False, True])
def test_margins_are_those_of_the_sets_labels_and_seeds_that_were_given(
  stored, tmp_path
) -> None:
  masks, labels, seeds = requested()
  fleet, told = Fleet(), []
  made = trainer(fleet, tmp_path if stored else None)
  found = made(masks, labels, seeds, progress=lambda *counts: told.append(counts))
  families = ["verify", "search"] * 5
  for i, family in enumerate(families):
    margins, _ = expected(masks[i], labels[i], family, i)
    np.testing.assert_allclose(found[i], margins, rtol=1e-6)
  assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]
  assert fleet.log == [f"trained {n}" if n else "settled" for n in (4, 0, 4, 0, 2, 0)]
  assert made.diverged == 0 and found.dtype == np.float32
  one = made(masks.tolist(), labels[0].tolist(), seeds.tolist())
  for i in np.flatnonzero((labels != labels[0]).any(axis=1)):
    margins, _ = expected(masks[i], labels[0], families[i], i)
    np.testing.assert_allclose(one[i], margins, rtol=1e-6)
  again = made(masks, labels, seeds)
  np.testing.assert_array_equal(again, found)
  changed = int((labels != labels[0]).any(axis=1).sum())
  assert fleet.trained == (10 + changed if stored else 30)


def test_models_that_diverge_are_counted_and_have_no_margins() -> None:
  made = trainer(Fleet(diverged=(1, 5, 9)))
  for times in (1, 2):
    found = made(*requested())
    lost = np.arange(10) % 4 == 1 if times == 1 else np.zeros(10, bool)
    np.testing.assert_array_equal(np.isnan(found), np.repeat(lost[:, None], 5, axis=1))
    assert made.diverged == 3


HALVES = Subsets(alpha=0.5, first=2, family="base")


@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "keep_logits": True}])
def test_collections_are_written_chunk_by_chunk_as_soon_as_a_chunk_is_trained(
  options, tmp_path
) -> None:
  fleet, told = Fleet(), []
  made = trainer(fleet, tmp_path)
  opened = made.open_subsets("some", HALVES, 11, rows_per_chunk=3, **options)
  made.collect(opened, progress=lambda *counts: told.append(counts))
  assert told == [(0, 11), (3, 11), (6, 11), (9, 11), (11, 11)]
  assert fleet.log == ["trained 4", "trained 4", "trained 3", "settled"]
  masks = training_sets.random_masks(SEED, EXAMPLES, 0.5, np.arange(2, 13))
  rows = [expected(mask, LABELS, "base", i) for i, mask in enumerate(masks)]
  margins, logits = map(np.array, zip(*rows, strict=True))
  store, dtype = opened.store, options.get("dtype", "float32")
  stored = store.read("margins", slice(0, 11))
  assert stored.dtype == dtype
  np.testing.assert_allclose(stored, margins.astype(dtype), rtol=1e-3, atol=1e-3)
  packed = store.read("masks", slice(0, 11))
  np.testing.assert_array_equal(packed, np.packbits(masks, axis=1))
  assert ("logits" in store.columns) == ("keep_logits" in options)
  if options:
    stored = store.read("logits", slice(0, 11)).reshape(11, 5, CLASSES)
    np.testing.assert_allclose(stored, logits, rtol=1e-3)
  assert store.about(0, 3)["diverged"] == 0
  made.collect(opened, progress=lambda *counts: told.append(counts))
  assert told[-1] == (0, 0) and fleet.trained == 11


@pytest.mark.parametrize(
  "name,changed,subsets",
  [
    ("train_labels", {"labels": LABELS[::-1]}, HALVES),
    ("target_pixels", {"target_values": -VALUES}, HALVES),
    ("target_labels", {"target_labels": TARGET_LABELS[::-1]}, HALVES),
    ("seed", {"seed": 4}, HALVES),
    ("alpha", {}, Subsets(alpha=0.4, first=2, family="base")),
    ("first", {}, Subsets(alpha=0.5, first=3, family="base")),
    ("family", {}, Subsets(alpha=0.5, first=2, family="bench")),
  ],
)
def test_a_store_of_other_models_is_refused_by_what_differs(
  name, changed, subsets, tmp_path
) -> None:
  trainer(Fleet(), tmp_path).open_subsets("some", HALVES, 11)
  with pytest.raises(jaxdm.UserError, match=f"other models: {name}: "):
    trainer(Fleet(), tmp_path, **changed).open_subsets("some", subsets, 11)


def test_without_a_folder_nothing_is_stored_and_shares_are_checked() -> None:
  with pytest.raises(ValueError, match="needs a folder to store models in"):
    trainer(Fleet()).open_subsets("some", HALVES, 11)
  for share in ((2, 2), (-1, 3), (0.0, 2)):
    with pytest.raises(ValueError, match="share must be"):
      trainer(Fleet(), share=share)


@pytest.mark.parametrize("stored", [False, True])
def test_requests_that_name_no_models_train_none(stored, tmp_path) -> None:
  masks, labels, seeds = requested()
  fleet = Fleet()
  made = trainer(fleet, tmp_path if stored else None)
  for wrong in ((masks, labels, seeds[:9]), (masks, labels + 2, seeds)):
    with pytest.raises(ValueError, match="must be"):
      made(*wrong)
  assert not fleet.trained
