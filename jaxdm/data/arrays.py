"""A user's own images or feature vectors, and labels, from a NumPy .npz archive."""

import os
from collections.abc import Mapping

import numpy as np

from jaxdm.data import labels as labels_lib
from jaxdm.data.dataset import ARRAY_NAMES, DataError, Dataset, read_from
from jaxdm.data.place import Place, place

_CHANNELS = (1, 3, 4)  # Of images as they are mostly stored.


@read_from("arrays")
def load_arrays(path: str | os.PathLike[str]) -> Dataset:
  """Reads a user's own data from a NumPy .npz archive.

  Args:
    path: an archive of train_images, train_labels, test_images, test_labels and,
      if wanted, class_names. Images are [number, height, width(, channels)], uint8
      or float in [0, 1], of any number of channels. Feature vectors, such as the
      embeddings of a large network, are float [number, features] under the same names.
      Labels are integers or text (`labels.number_labels`).

  Raises:
    DataError: naming the array and what is wrong with it.
  """
  name = f"arrays={path}"
  arrays = _read(name, place(path))
  names = None
  if "class_names" in arrays:
    names = labels_lib.text_of(f"{name}: class_names", arrays["class_names"])
  for split in ("train", "test"):
    images, count = arrays[f"{split}_images"], len(arrays[f"{split}_labels"])
    _check_layout(images, count, f"{name}: {split}_images")
    if len(images) != count:
      raise DataError(
        None, f"{name}: {len(images)} {split}_images but {count} {split}_labels"
      )
  labels = labels_lib.number_labels(
    name, arrays["train_labels"], arrays["test_labels"], names
  )
  return Dataset(
    name=name,
    train_images=_as_uint8(arrays["train_images"], f"{name}: train_images"),
    train_labels=labels.train,
    test_images=_as_uint8(arrays["test_images"], f"{name}: test_images"),
    test_labels=labels.test,
    class_names=labels.class_names,
    train_sources=_rows("train_images", len(labels.train)),
    test_sources=_rows("test_images", len(labels.test)),
  )


def _read(name: str, path: Place) -> dict[str, np.ndarray]:
  """The arrays of an archive.

  Raises:
    DataError: if it is none, lacks one, or one holds Python objects.
  """
  try:
    with path.open("rb") as file, np.lib.npyio.NpzFile(file) as archive:
      keys = archive.files
      used = [key for key in (*ARRAY_NAMES, "class_names") if key in keys]
      arrays = {key: _array(name, archive, key) for key in used}
  except DataError:
    raise
  except Exception as error:  # zipfile and NumPy raise a dozen kinds.
    raise DataError(
      None,
      f"{name} cannot be read: {error}; it must be an .npz as numpy.savez makes them",
    ) from error
  if missing := [key for key in ARRAY_NAMES if key not in arrays]:
    raise DataError(
      None,
      f"{name} lacks {', '.join(missing)}; it needs {', '.join(ARRAY_NAMES)}, and holds "
      f"{', '.join(keys[:9]) or 'nothing'}",
    )
  return arrays


def _array(name: str, archive: Mapping[str, np.ndarray], key: str) -> np.ndarray:
  """One of an archive's arrays."""
  try:
    return np.atleast_1d(archive[key])
  except ValueError as error:
    if "Object arrays" not in str(error):
      raise
    raise DataError(
      None,
      f"{name}: {key} cannot be read: Object arrays hold Python objects; save it "
      "as numbers or as text (dtype=str)",
    ) from error


def _rows(key: str, count: int) -> tuple[str, ...]:
  """Which row of which array each example is."""
  return tuple(f"{key}[{row}]" for row in range(count))


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
  """Checked images, uint8[number, height, width, channels], or float32 features."""
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim == 2 and np.issubdtype(images.dtype, np.floating):
    with np.errstate(over="ignore"):
      return images.astype(np.float32)
  if images.dtype == np.uint8:
    return images
  if not np.issubdtype(images.dtype, np.floating):
    raise DataError(
      None,
      f"{name} must be uint8 or float in [0, 1], got {images.dtype}; give numbers "
      "from 0 to 255 as uint8, from 0 to 1 as float",
    )
  bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
  if bad.size:
    raise DataError(None, f"{name} has NaN or infinite pixels, first in image {bad[0]}")
  if images.size and (images.min() < 0 or images.max() > 1):
    raise DataError(
      None,
      f"{name} must be in [0, 1] when float, got {images.min()} to {images.max()}; "
      "bring black to 0 and white to 1, or give uint8",
    )
  return np.round(images * 255).astype(np.uint8)


def _check_layout(images: np.ndarray, count: int, name: str) -> None:
  """Raises DataError, with the transpose to use, on axes that are in another order."""
  key, shape = name.split()[-1], images.shape
  advice = None
  if shape and shape[0] != count and shape[-1] == count > 1 and len(shape) in (3, 4):
    order = (2, 0, 1) if len(shape) == 3 else (3, 0, 1, 2)
    if len(shape) == 4 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
      order = (3, 1, 2, 0)
    advice = f"{key}.transpose{order}"
  elif len(shape) == 4 and shape[1] in _CHANNELS and min(shape[2:]) > max(_CHANNELS):
    advice = f"{key}.transpose(0, 2, 3, 1)"
  elif len(shape) == 2 and np.issubdtype(images.dtype, np.floating):
    if shape[0] != count and shape[1] == count > 1:
      advice = f"{key}.T"
  elif len(shape) == 2:
    side = {c: (shape[1] / c) ** 0.5 for c in _CHANNELS[:2]}
    for channels, length in side.items():
      if length >= 2 and length == int(length):
        axes = (channels, int(length), int(length))
        advice = f"{key}.reshape(-1, {', '.join(map(str, axes))}).transpose(0, 2, 3, 1)"
        if channels == 1:
          advice = f"{key}.reshape(-1, {int(length)}, {int(length)})"
        break
  if advice:
    raise DataError(
      None,
      f"{name} must be [number, height, width, channels], got {list(shape)}; its axes "
      f"look as if {advice} brought them into that order",
    )
