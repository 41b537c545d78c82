"""The one type for an edited training set, and the laws that make such sets.

A random subset, a removal and a label flip are all "these examples, with these
labels". Sets are index arrays, not loss weights: an excluded example is never
read. All sets of a problem are padded to n slots, so that one compiled program
trains them all.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxdm import identity, prng
from jaxdm.errors import UserError, check_count, check_number, check_seed
from jaxdm.rounding import share_of


class TrainingSets(NamedTuple):
  """m training sets drawn from one dataset of n examples.

  Attributes:
    indices: int32[m, n], the examples in ascending order, then padding (0).
    labels: int32[m, n], the label that each slot's example is trained with.
    counts: int32[m], slots in use.
  """

  indices: np.ndarray
  labels: np.ndarray
  counts: np.ndarray

  def rows(self, selection: slice | np.ndarray) -> "TrainingSets":
    """Some of the sets."""
    return TrainingSets(*(np.asarray(part)[selection] for part in self))


class ModelSpecs(NamedTuple):
  """What each of some models is trained on, and with which seed.

  Attributes:
    masks_mn: bool, which examples each one is trained on.
    labels_mn: int32, the labels to train with.
    seeds: int[m]; whatever the set, the same seed means the same initialisation and the
      same stream of shuffles (see `prng.model_seeds`).
  """

  masks_mn: np.ndarray
  labels_mn: np.ndarray
  seeds: np.ndarray

  def rows(self, selection: slice | np.ndarray) -> "ModelSpecs":
    """Some of the models."""
    return ModelSpecs(*(part[selection] for part in self))


def model_specs(
  masks: Any, labels: Any, seeds: Any, *, num_train: int, num_classes: int
) -> ModelSpecs:
  """What models are requested to be trained on, checked.

  Args:
    masks: bool[m, n], `PackedMasks`, or numbers that are 0 or 1.
    labels: int[m, n] or int[n], in [0, k).
    seeds: int[m], in [0, 2**32).
    num_train: n.
    num_classes: k.

  Returns:
    The same as arrays; neither bool masks nor labels for all models are copied.

  Raises:
    ValueError: on arrays of another shape or kind, or with other values.
  """
  masks_mn = _as_masks(masks, num_train)
  empty = np.flatnonzero(~masks_mn.any(axis=1))
  if empty.size:
    raise ValueError(f"masks must hold a training example each; row {empty[0]} has none")
  shape = masks_mn.shape
  labels_mn = _as_integers("labels", labels)
  if labels_mn.shape not in (shape, (1, num_train), (num_train,)):
    raise ValueError(
      f"labels must be int[m, n] = {list(shape)} as the masks, or int[n] = "
      f"[{num_train}], got {list(labels_mn.shape)}"
    )
  if labels_mn.ndim == 2 and not labels_mn.strides[0]:
    labels_mn = labels_mn[:1]  # All rows are the same one.
  _check_range("labels", labels_mn, num_classes, str(num_classes))
  seeds_m = _as_integers("seeds", seeds)
  if seeds_m.shape != shape[:1]:
    raise ValueError(
      f"seeds must be int[m], one a mask, [{shape[0]}], got {list(seeds_m.shape)}"
    )
  _check_range("seeds", seeds_m, 2**32, "2**32")
  labels_mn = np.broadcast_to(labels_mn.astype(np.int32, copy=False), shape)
  return ModelSpecs(masks_mn, labels_mn, seeds_m)


def _as_masks(masks: Any, num_train: int) -> np.ndarray:
  """Masks bool[m, n]; ValueError on anything that does not stand for such."""
  values = _as_array("masks", masks[:] if isinstance(masks, PackedMasks) else masks)
  if values.ndim != 2 or values.shape[1] != num_train:
    advice = ""
    if values.shape == (num_train,):
      advice = "; one mask is masks[None]"
    elif values.ndim == 1:
      advice = "; of indices, removal_masks and mask[indices] = True make masks"
    raise ValueError(
      f"masks must be bool[m, n] with n = {num_train} training examples, got "
      f"{values.dtype}{list(values.shape)}{advice}"
    )
  return rows_of_masks(values)


def rows_of_masks(values: np.ndarray, first: int = 0) -> np.ndarray:
  """Some rows of masks as bool; those that are bool are not copied.

  Args:
    values: bool[m, n], or numbers 0 and 1.
    first: the number of the first row, which an error counts from.

  Raises:
    UserError: on other numbers, and on what are none.
  """
  if values.dtype == bool:
    return values
  if values.dtype.kind not in "iuf":
    raise UserError("masks", f"must be bool, or numbers 0 and 1, got {values.dtype}")
  masks_mn = values.astype(bool)
  wrong = np.flatnonzero((masks_mn != values).any(axis=1))
  if wrong.size:
    row = values[wrong[0]]
    value = row[row != masks_mn[wrong[0]]][0]
    raise UserError(
      "masks",
      f"must be bool, or numbers 0 and 1, got {value} in row {first + wrong[0]}",
    )
  return masks_mn


def _as_integers(name: str, values: Any) -> np.ndarray:
  """An array of integers, which an empty one is, too."""
  array = _as_array(name, values)
  if array.dtype.kind not in "biu" and array.size:
    advice = {"f": ".astype(int) makes them of whole numbers"}.get(array.dtype.kind)
    advice = advice or "numpy.unique(..., return_inverse=True) makes them of names"
    raise ValueError(f"{name} must be integers, got {array.dtype}; {advice}")
  return array


def _as_array(name: str, values: Any) -> np.ndarray:
  """What NumPy makes of it; ValueError where that is no array."""
  try:
    return np.asarray(values)
  except ValueError as error:  # Rows of several lengths.
    raise ValueError(f"{name} must be an array: {error}") from error


def _check_range(name: str, values: np.ndarray, end: int, end_text: str) -> None:
  """Raises ValueError unless all values are in [0, end)."""
  low, high = int(values.min(initial=0)), int(values.max(initial=0))
  if low < 0 or high >= end:
    wrong = low if low < 0 else high
    raise ValueError(f"{name} must be in [0, {end_text}), got {wrong}")


class PackedMasks:
  """bool[m, n] masks, eight to a byte; indexing by rows unpacks just those.

  Attributes:
    bits: uint8[m, n / 8], as `np.packbits(masks, axis=1)` makes them.
    shape: (m, n).
    dtype: bool.
  """

  dtype = np.dtype(bool)

  def __init__(self, bits: np.ndarray, num_train: int):
    self.bits, self.shape = bits, (len(bits), num_train)

  @classmethod
  def of(cls, blocks: Iterable[np.ndarray]) -> "PackedMasks":
    """From bool[..., n] blocks of rows, read one at a time."""
    parts, num_train = [], 0
    for block in blocks:
      num_train = block.shape[1]
      parts.append(np.packbits(block, axis=1))
    return cls(np.concatenate(parts), num_train)

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    bits = self.bits[rows]
    return np.unpackbits(bits, axis=1, count=self.shape[1]).view(bool)

  def take(self, rows: np.ndarray) -> "PackedMasks":
    """Some of the masks, packed."""
    return PackedMasks(self.bits[rows], self.shape[1])

  def identity(self) -> identity.Bits:
    """For `identity.digest`: the masks, which have the digest of the bool array."""
    return identity.Bits(self.shape, self.bits)


def from_masks(masks: np.ndarray, labels: np.ndarray) -> TrainingSets:
  """Training sets from bool[m, n] masks and int[n] or int[m, n] labels."""
  masks = np.asarray(masks, bool)
  m, n = masks.shape
  counts = masks.sum(axis=1, dtype=np.int32)
  order = np.argsort(~masks, axis=1, kind="stable").astype(np.int32)
  is_used = np.arange(n) < counts[:, None]
  indices = np.where(is_used, order, 0).astype(np.int32)
  labels_mn = np.broadcast_to(np.asarray(labels, np.int32), (m, n))
  set_labels = np.where(is_used, np.take_along_axis(labels_mn, indices, axis=1), 0)
  return TrainingSets(indices, set_labels.astype(np.int32), counts)


def subset_size(num_train: int, alpha: float) -> int:
  """Examples in an alpha-subset: alpha * n to the nearest integer."""
  check_number("alpha", alpha, above=0, below=1)
  return round(share_of(alpha, num_train))


def random_subsets(
  num_models: int, num_train: int, alpha: float, seed: int
) -> np.ndarray:
  """Uniformly random subsets of a training set, one for each of many models.

  >>> import jaxdm
  >>> jaxdm.random_subsets(num_models=2, num_train=6, alpha=0.5, seed=0).sum(axis=1)
  array([3, 3])

  Args:
    num_models: m.
    num_train: n, examples in the training set.
    alpha: share of the training set in each subset, in (0, 1); every subset has exactly
      alpha * n examples, to the nearest integer.
    seed: in [0, 2**32). More models of the same seed begin with the same subsets.

  Returns:
    bool[m, n].

  Raises:
    ValueError: on another alpha, one with which subsets are empty or the whole training
      set, another seed, or a negative number of models.
  """
  count = check_count("num_models", num_models, 0)
  num_train = check_count("num_train", num_train, 2)
  check_seed(seed)
  size = subset_size(num_train, alpha)
  if not 0 < size < num_train:
    raise ValueError(
      f"alpha must give subsets of 1 to {num_train - 1} of the {num_train} examples, got "
      f"{alpha}, which gives subsets of {size}"
    )
  return random_masks(seed, num_train, alpha, np.arange(count))


def random_masks(
  seed: int, num_train: int, alpha: float, model_ids: np.ndarray
) -> np.ndarray:
  """Uniformly random subsets of exactly `subset_size` examples.

  Row i depends on (seed, num_train, alpha, model_ids[i]) alone, so any row can be
  replayed without the others.

  Returns:
    bool[m, n].
  """
  size = subset_size(num_train, alpha)
  masks = np.zeros((len(model_ids), num_train), bool)
  for row, model_id in enumerate(model_ids):
    bits = prng.generator_for(seed, "subset", int(model_id)).bit_generator
    draw = bits.random_raw(num_train)
    masks[row, np.argsort(draw, kind="stable")[:size]] = True
  return masks


def removal_masks(num_train: int, examples: list[np.ndarray]) -> np.ndarray:
  """The full set without each of the given index arrays, as bool[m, n]."""
  masks = np.ones((len(examples), num_train), bool)
  for row, indices in enumerate(examples):
    masks[row, indices] = False
  return masks


def relabel(
  labels: np.ndarray, examples: list[np.ndarray], new_labels: list[np.ndarray]
) -> np.ndarray:
  """Copies of the labels, each with some of them changed, int[m, n] of their type.

  Raises:
    ValueError: on a new label that the type of the labels cannot hold.
  """
  labels_mn = np.tile(np.asarray(labels), (len(examples), 1))
  for row, (indices, values) in enumerate(zip(examples, new_labels, strict=True)):
    labels_mn[row, indices] = values
    wrong = np.asarray(values)[labels_mn[row, indices] != values]
    if wrong.size:
      raise ValueError(
        f"labels are of dtype {labels_mn.dtype}, which cannot hold the new label "
        f"{wrong[0]}; give labels of a larger type, such as labels.astype(int)"
      )
  return labels_mn


def fingerprints(masks_mn: np.ndarray, labels: np.ndarray) -> list[str]:
  """A 128-bit hex digest of each set: its examples, and the labels of just those."""
  labels_mn = np.broadcast_to(np.asarray(labels, np.int32), masks_mn.shape)
  return [
    identity.digest([mask, row[mask]])
    for mask, row in zip(np.asarray(masks_mn, bool), labels_mn, strict=True)
  ]
