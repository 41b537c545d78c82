import json

import numpy as np
import pytest

from jaxdm import bank


def open_bank(path, **changes) -> bank.Bank:
  settings = {"seed": 0, "train": {"width": 8}} | changes
  return bank.Bank(path, num_targets=5, num_train=19, settings=settings, rows_per_chunk=4)


def rows(count: int, seed: int = 0):
  rng = np.random.default_rng(seed)
  masks = rng.random((count, 19)) < 0.5
  return (
    [f"subset/{seed}-{i}" for i in range(count)],
    masks,
    rng.normal(size=(count, 5)).astype(np.float32),
  )


def test_what_is_appended_is_read_back_in_any_order(tmp_path) -> None:
  store = open_bank(tmp_path)
  ids, masks, margins = rows(11)
  store.append(ids[:6], masks[:6], margins[:6])
  store.append(ids[6:], masks[6:], margins[6:])
  for opened in (store, open_bank(tmp_path)):
    assert len(opened) == 11 and ids[3] in opened and "subset/99" not in opened
    order = [7, 0, 10, 7]
    np.testing.assert_array_equal(opened.margins([ids[i] for i in order]), margins[order])
    np.testing.assert_array_equal(opened.masks([ids[i] for i in order]), masks[order])


def test_a_chunk_without_its_marker_never_happened(tmp_path) -> None:
  store = open_bank(tmp_path)
  ids, masks, margins = rows(4)
  store.append(ids, masks, margins)
  more, more_masks, more_margins = rows(4, seed=1)
  store.append(more, more_masks, more_margins)
  (tmp_path / "done" / "00000001.json").unlink()  # As if killed before the marker.
  opened = open_bank(tmp_path)
  assert len(opened) == 4 and more[0] not in opened
  opened.append(more, more_masks, more_margins)
  np.testing.assert_array_equal(open_bank(tmp_path).margins(more), more_margins)
  np.testing.assert_array_equal(open_bank(tmp_path).margins(ids), margins)


def test_other_settings_are_named_and_nothing_is_touched(tmp_path) -> None:
  store = open_bank(tmp_path)
  store.append(*rows(4))
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  with pytest.raises(bank.BankError, match="seed: stored 0, asked 1"):
    open_bank(tmp_path, seed=1)
  assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("array", ["margins", "masks"])
def test_a_flipped_byte_is_noticed(tmp_path, array) -> None:
  store = open_bank(tmp_path)
  ids, masks, margins = rows(4)
  store.append(ids, masks, margins)
  chunk = tmp_path / array / "c" / "0" / "0"
  damaged = bytearray(chunk.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  chunk.write_bytes(damaged)
  with pytest.raises(bank.BankError, match="damaged"):
    getattr(open_bank(tmp_path), array)(ids)


def test_a_damaged_marker_is_named(tmp_path) -> None:
  open_bank(tmp_path).append(*rows(4))
  marker = tmp_path / "done" / "00000000.json"
  marker.write_text(json.dumps({"ids": []})[:5])
  with pytest.raises(bank.BankError, match="00000000.json is damaged"):
    open_bank(tmp_path)


def test_nan_survives(tmp_path) -> None:
  store = open_bank(tmp_path)
  ids, masks, margins = rows(2)
  margins[1] = np.nan
  store.append(ids, masks, margins)
  np.testing.assert_array_equal(open_bank(tmp_path).margins(ids), margins)
