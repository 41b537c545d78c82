"""Scores of training examples that another package has made, beside our own."""

import os
from typing import Any

import numpy as np
from absl import flags

from experiments.runtime.places import Places
from jaxdm import identity
from jaxdm.attribution.registry import METHODS
from jaxdm.brittleness.score_signs import check_sign
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError

SCORES = flags.DEFINE_multi_string(
  "scores",
  None,
  "NAME=FILE.npy: scores from another program, float [targets, training examples]. A "
  "high score means that the example supports the target. The scores are evaluated, "
  "searched and reported under this name. You can give this option several times, and "
  "need to give it only once per workdir. NAME= leaves out scores of an earlier command.",
)
_PREFIX = "scores "  # Of their names among the places.


def load(places: Places, data: Dataset) -> dict[str, np.ndarray]:
  """The scores in files, by name, mapped into memory.

  Args:
    places: of a workdir.
    data: the training examples and targets that they are for.

  Raises:
    UserError: on a name that is taken, or a file that does not hold such scores.
  """
  paths_given = {}
  for text in SCORES.value or ():
    name, equals, path = text.partition("=")
    if not equals or not name:
      raise UserError("scores", f"must be NAME=FILE.npy, got {text!r}")
    if name in METHODS:
      raise UserError("scores", f": the name {name} is that of a method of jaxdm")
    if name in paths_given:
      raise UserError("scores", f": the name {name} is given twice")
    paths_given[name] = path
  for name in [name for name, path in paths_given.items() if not path]:
    places.leave_out(_PREFIX + name)
    del paths_given[name]
  paths = places.find_all(_PREFIX, paths_given)
  for name in paths.keys() - paths_given.keys():
    _check_exists(name, paths[name])
  labels = data.train_labels, data.test_labels
  return {name: read(name, path, *labels) for name, path in paths.items()}


def _check_exists(name: str, path: str) -> None:
  """Raises UserError if a file that an earlier command named is not there."""
  if not os.path.exists(path):
    raise UserError(
      "scores",
      f": {name}={path}, which an earlier command named, is not there; give "
      f"--scores={name}=FILE.npy again with its new place, or --scores={name}= to go on "
      "without these scores",
    )


def settings(scores: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """What a stage depends on that uses the scores, as a group of settings."""
  return {"scores": {name: identity.digest(one) for name, one in scores.items()}}


def read(
  name: str, path: str, labels: np.ndarray, target_labels: np.ndarray
) -> np.ndarray:
  """The scores in one file, mapped into memory; never a pickle.

  All of them are read once, some targets at a time, to check them.

  Args:
    name: of the method.
    path: of the file.
    labels: int[n], of the training examples.
    target_labels: int[t].

  Raises:
    UserError: if the file does not hold scores for these examples and targets, or they
      are not finite or of the wrong sign.
  """
  shape = len(target_labels), len(labels)
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except Exception as error:  # NumPy parses the header as Python, and so fails.
    raise UserError(
      "scores", f": {name}={path} is not a whole .npy file: {error}"
    ) from error
  if not isinstance(array, np.ndarray) or array.shape != shape:
    actual = list(getattr(array, "shape", []))
    is_transposed = tuple(actual) == shape[::-1]
    raise UserError(
      "scores",
      f": {name}={path} must be [targets, training examples] = {list(shape)}, "
      f"got {actual}{'; transpose it' if is_transposed else ''}",
    )
  if array.dtype.kind not in "fiu":
    raise UserError("scores", f": {name}={path} must hold numbers, got {array.dtype}")
  try:
    check_sign(name, array, labels, target_labels)
  except UserError as error:
    raise UserError("scores", f": {name}={path}: {error}") from error
  return array
