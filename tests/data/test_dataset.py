"""What a dataset is, and what makes it another one."""

import dataclasses
import sys

import numpy as np
import pytest

from jaxdm import data
from jaxdm.data.dataset import DataError, Dataset
from jaxdm.data.load import load_dataset

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 1, 0], np.int32)


def made(**changes) -> Dataset:
  fields = {"name": "mine", "class_names": ("a", "b")}
  for split in ("train", "test"):
    fields |= {f"{split}_images": VECTORS, f"{split}_labels": LABELS}
  return Dataset(**fields | changes)


@pytest.mark.parametrize(
  "changes",
  [
    {"train_images": VECTORS + 1},
    {"train_labels": 1 - LABELS},
    {"test_images": VECTORS + 1},
    {"test_labels": 1 - LABELS},
    {"class_names": ("b", "a")},
  ],
)
def test_other_numbers_of_either_split_and_other_names_are_another_dataset(
  changes,
) -> None:
  assert made(**changes).fingerprint() != made().fingerprint()


def test_where_data_came_from_makes_no_other_dataset() -> None:
  elsewhere = made(name="theirs", train_sources=tuple("wxyz"))
  assert elsewhere.fingerprint() == made().fingerprint()


def with_bad_rows(value: float, *rows: int) -> np.ndarray:
  vectors = VECTORS.astype(np.float64)
  vectors[list(rows), 1] = value
  return vectors


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"train_labels": LABELS[:3]}, "mine: 4 train_images but 3 train_labels"),
    ({"test_images": VECTORS[:2]}, "mine: 2 test_images but 4 test_labels"),
    (
      {"test_images": VECTORS[:0], "test_labels": LABELS[:0]},
      "mine: test split is empty",
    ),
    (
      {"train_images": with_bad_rows(np.nan, 2, 3).astype(np.float32)},
      "train_images has features that are not finite, first in vector 2",
    ),
  ],
)
def test_arrays_that_do_not_fit_together_are_named(changes, message) -> None:
  with pytest.raises(DataError, match=message):
    made(**changes)


def test_the_first_vector_that_float32_cannot_hold_is_named(tmp_path) -> None:
  images = {
    "train_images": with_bad_rows(1e300, 2, 3),
    "test_images": VECTORS.astype(np.float64),
  }
  labels = {f"{split}_labels": LABELS for split in ("train", "test")}
  np.savez(tmp_path / "d.npz", **images, **labels)
  with pytest.raises(DataError, match="features above .*, first in vector 2; divide"):
    load_dataset("arrays", arrays=str(tmp_path / "d.npz"))


def test_means_of_blocks_are_rounded_to_the_nearest() -> None:
  images = np.array([[0, 1], [1, 1]], np.uint8)[None, :, :, None].repeat(4, axis=0)
  images[1] += 1  # A mean of 1.75; that of the first is 0.75.
  images[2:] = np.array([[0, 0], [0, 1]], np.uint8)[:, :, None]
  small = made(train_images=images, test_images=images).downscaled(2)
  assert small.train_images.ravel().tolist() == [1, 2, 0, 0]


def test_a_package_that_is_not_installed_is_named_with_its_remedy(monkeypatch) -> None:
  for name in ("jaxdm.data.tfds", "jaxdm.data.tfrecord"):
    monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.delattr(data, "tfrecord", raising=False)
  monkeypatch.setitem(sys.modules, "google_crc32c", None)
  message = r"dataset=pets needs the package google_crc32c: pip install 'jaxdm\[data\]'"
  with pytest.raises(DataError, match=message):
    load_dataset("pets")


def test_classes_keep_their_sources_and_labels_where_they_are_reordered() -> None:
  some = dataclasses.replace(made(), train_sources=tuple("wxyz")).take(["b", "a"], 1, 2)
  assert some.train_sources == ("w", "x") and some.train_labels.tolist() == [1, 0]
  np.testing.assert_array_equal(some.train_images, VECTORS[:2])
