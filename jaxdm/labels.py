"""Labels as class numbers: integers from 0, by which classes can be counted."""

from typing import Any

import numpy as np

from jaxdm.errors import UserError

# Classes without examples cost memory. So many are allowed in any case.
_MOST_CLASSES = 2**16
_REMEDY = "numpy.unique(..., return_inverse=True) makes such numbers of names or ids"


def as_labels(name: str, values: Any) -> np.ndarray:
  """Labels as an array of the integer type that they were given in.

  Args:
    name: of the argument, for the error.
    values: a vector of integers.

  Raises:
    UserError: on anything but a vector of integers.
  """
  if np.ma.is_masked(values):
    raise UserError(name, "must not hold masked values")
  labels = np.asarray(values)
  if not labels.size:
    raise UserError(name, f"must not be empty, got {list(labels.shape)}")
  if labels.ndim != 1 or labels.dtype.kind not in "iu":
    raise UserError(
      name,
      f"must be a vector of integers, got {labels.dtype} {list(labels.shape)}; {_REMEDY}",
    )
  return labels


def as_classes(name: str, values: Any, num_train: int) -> np.ndarray:
  """Labels that are class numbers, of the integer type that they were given in.

  Args:
    name: of the argument, for the error.
    values: a vector of integers.
    num_train: see `check_classes`.

  Raises:
    UserError: on anything but a vector of class numbers.
  """
  labels = as_labels(name, values)
  if labels.min() < 0:
    raise UserError(name, f"must be >= 0, got {labels.min()}")
  check_classes(name, int(labels.max()), num_train)
  return labels


def check_classes(name: str, largest: int, num_train: int) -> None:
  """Checks that class numbers are small enough to count classes by them.

  Args:
    name: of the argument, for the error.
    largest: the largest class number.
    num_train: training examples; there may be as many classes, or 65,536.

  Raises:
    UserError: if it is too large.
  """
  limit = max(_MOST_CLASSES, num_train)
  if largest >= limit:
    raise UserError(
      name,
      f"must be class numbers 0, 1, ..., k - 1, below {limit}, got {largest}; {_REMEDY}",
    )
