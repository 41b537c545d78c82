import numpy as np

from jaxdm import prng
from jaxdm.storage import bank
from jaxdm.storage.store import Store

SHAPE = {"num_targets": 5, "num_train": 19, "label_classes": 300}


def open_store(path) -> Store:
  return bank.open_store(path, settings={}, rows_per_chunk=4, **SHAPE)


def open_bank(path) -> bank.Bank:
  found = bank.Bank(open_store(path))
  found.refresh()
  return found


def rows(count: int, seed: int = 0):
  rng = np.random.default_rng(seed)
  return (
    [prng.Stream("verify", 100 * seed + i) for i in range(count)],
    rng.random((count, 19)) < 0.5,
    rng.integers(0, 300, (count, 19)),
    rng.normal(size=(count, 5)).astype(np.float32),
  )


def ids_of(models) -> list[str]:
  seeds, masks, labels, _ = models
  return bank.model_ids(masks, labels, seeds)


def test_what_is_appended_is_read_back_in_any_order(tmp_path) -> None:
  store, models = open_bank(tmp_path), rows(11)
  store.append(*(part[:6] for part in models))
  store.append(*(part[6:] for part in models))
  ids, margins = ids_of(models), models[-1]
  for opened in (store, open_bank(tmp_path)):
    assert len(opened) == 11 and ids[3] in opened and "verify/99" not in opened
    order = [7, 0, 10, 7]
    np.testing.assert_array_equal(opened.margins([ids[i] for i in order]), margins[order])


def test_two_writers_that_do_not_know_of_each_other_lose_nothing(tmp_path) -> None:
  first, second = open_bank(tmp_path), open_bank(tmp_path)
  models, more = rows(4), rows(3, seed=1)
  first.append(*models)
  second.append(*more)
  second.append(*models)
  opened = open_bank(tmp_path)
  assert len(opened) == 7
  for part in (models, more):
    np.testing.assert_array_equal(opened.margins(ids_of(part)), part[-1])


def test_a_model_beyond_half_precision_counts_as_diverged(tmp_path) -> None:
  store = bank.open_store(
    tmp_path, num_targets=2, num_train=19, settings={}, dtype="float16", num_logits=2
  )
  masks = rows(3)[1]
  logits = np.array([[[1, 2], [3, 4]], [[9, 7e4], [0, 1]], [[5, 6], [7, 8]]], np.float32)
  margins = logits[..., 0] - 1
  bank.write(store, 0, masks, margins, logits)
  lost = [False, True, False]
  found = store.read("margins", slice(0, 3)), store.read("logits", slice(0, 3))
  np.testing.assert_array_equal(np.isnan(found[0]).all(axis=1), lost)
  np.testing.assert_array_equal(np.isnan(found[1]).all(axis=1), lost)
  np.testing.assert_array_equal(found[0][[0, 2]], margins[[0, 2]])
  assert store.about(0, 3)["diverged"] == 1


def test_masks_are_stored_eight_to_a_byte_and_diverged_models_counted(tmp_path) -> None:
  store = bank.open_store(tmp_path, num_targets=5, num_train=19, settings={})
  _, masks, _, margins = rows(3)
  margins[1] = np.nan
  margins[0, 2] = np.inf
  margins[2, 2] = np.nan  # Only of this target: the others' stay.
  bank.write(store, 7, masks, margins)
  packed = store.read("masks", slice(7 * 32, 7 * 32 + 3))
  found = np.unpackbits(packed, axis=1, count=19).astype(bool)
  np.testing.assert_array_equal(found, masks)
  stored = store.read("margins", slice(7 * 32, 7 * 32 + 3))
  assert np.isnan(stored[:2]).all()
  np.testing.assert_array_equal(stored[2], margins[2])
  assert store.about(7, 3)["diverged"] == 2


def test_ids_of_another_chunk_are_found(tmp_path) -> None:
  store = open_store(tmp_path)
  found, models = bank.Bank(store), rows(1)
  found.append(*models)
  [chunk] = store.chunks()
  about = {"ids": store.about(chunk, 1)["ids"]}
  _, masks, labels, margins = models
  bank.write(store, chunk + 1, masks, margins, about=about, labels_mn=labels)
  assert list(found.wrong_chunks()) == [(chunk + 1, "ids of another chunk")]
