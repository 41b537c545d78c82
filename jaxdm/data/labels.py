"""From the labels that people have to 0..k-1: labels are names, not sizes."""

from typing import NamedTuple

import numpy as np

from jaxdm.data.dataset import DataError
from jaxdm.errors import first_few


class Labels(NamedTuple):
  """Labels of both splits as class numbers.

  Attributes:
    train: int32[n], in [0, k).
    test: int32[t], in [0, k).
    class_names: k of them; the label itself where it has no other name.
  """

  train: np.ndarray
  test: np.ndarray
  class_names: tuple[str, ...]


def number_labels(
  name: str,
  train: np.ndarray,
  test: np.ndarray,
  class_names: tuple[str, ...] | None = None,
) -> Labels:
  """Numbers the labels that occur by their order: integers by size, text by alphabet.

  Args:
    name: where they came from, for errors.
    train: [n] integers, booleans or text.
    test: [t], of the same kind.
    class_names: one name for each label in ascending order; or, where labels are in
      [0, k), the name of label i in place i. None: labels are their own names.

  Raises:
    DataError: on labels of another kind, of test examples that no training example has,
      or names whose number is not that of the labels.
  """
  train = _check(f"{name}: train_labels", train)
  test = _check(f"{name}: test_labels", test)
  if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
    raise DataError(None, f"{name}: train_labels and test_labels must be of one kind")
  values, numbers = np.unique(train, return_inverse=True)
  unknown = np.setdiff1d(test, values)
  if unknown.size:
    raise DataError(
      None,
      f"{name}: test_labels must be among the {len(values)} train_labels "
      f"{first_few(values.tolist(), 5)}, got {first_few(unknown.tolist(), 5)} as well",
    )
  if class_names is None:
    class_names = tuple(str(value) for value in values.tolist())
  elif train.dtype.kind != "U" and values[0] >= 0 and values[-1] < len(class_names):
    return Labels(train.astype(np.int32), test.astype(np.int32), class_names)
  elif len(class_names) != len(values):
    raise DataError(
      None,
      f"{name}: class_names must be one for each of the {len(values)} labels "
      f"{first_few(values.tolist(), 5)}, got {len(class_names)}",
    )
  test_numbers = np.searchsorted(values, test)
  return Labels(numbers.astype(np.int32), test_numbers.astype(np.int32), class_names)


def text_of(name: str, array: np.ndarray) -> tuple[str, ...]:
  """Names as text, from an array of text, bytes in UTF-8, or integers.

  Raises:
    DataError: on another kind or shape, or bytes that are not UTF-8.
  """
  array = np.asarray(array)
  if array.ndim != 1 or array.dtype.kind not in "USiu":
    raise DataError(
      None, f"{name} must be text [k], got {array.dtype}{list(array.shape)}"
    )
  return tuple(str(value) for value in _decode(name, array).tolist())


def _check(name: str, labels: np.ndarray) -> np.ndarray:
  """Labels [number] as integers or text."""
  labels = np.asarray(labels)
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if _are_one_hot(labels):
    raise DataError(None, f"{name} are one-hot; give {name.split()[-1]}.argmax(axis=1)")
  if labels.ndim != 1 or labels.dtype.kind not in "biuUS":
    finite = labels.dtype.kind == "f" and bool(np.isfinite(labels).all())
    are_integers = finite and bool((labels % 1 == 0).all())
    remedy = f"; give {name.split()[-1]}.astype(int)" if are_integers else ""
    raise DataError(
      None,
      f"{name} must be integers or text [number], got {labels.dtype}{list(labels.shape)}"
      + remedy,
    )
  if not labels.size:
    raise DataError(None, f"{name} must not be empty")
  if labels.dtype.kind == "b":
    return labels.astype(str)
  if labels.dtype.kind in "iu":
    if labels.max() > np.iinfo(np.int64).max:
      raise DataError(None, f"{name} must be below 2**63, got {labels.max()}")
    return labels.astype(np.int64)
  return _decode(name, labels)


def _are_one_hot(labels: np.ndarray) -> bool:
  """Whether labels are rows of zeros with a single 1 each."""
  if labels.ndim != 2 or labels.dtype.kind not in "biuf":
    return False
  return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _decode(name: str, array: np.ndarray) -> np.ndarray:
  """Bytes as text; the rest as it is."""
  if array.dtype.kind != "S":
    return array
  try:
    return np.char.decode(array, "utf-8")
  except UnicodeDecodeError as error:
    raise DataError(None, f"{name} must be text or bytes in UTF-8: {error}") from error
