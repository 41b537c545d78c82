"""A user's own images or feature vectors, and labels, from a NumPy .npz archive."""

import os
from collections.abc import Mapping

import numpy as np

from jaxdm.data import labels as labels_lib
from jaxdm.data.dataset import ARRAY_NAMES, DataError, Dataset, read_from
from jaxdm.data.place import Place, place

_CHANNELS = (1, 3, 4)  # Of images as they are mostly stored.
# The least standard deviation of a feature that varies, as a share of its mean.
_LEAST_SPREAD = 1e-12
# Rounding errors of a feature, as a share of its standard deviation.
_MOST_ERROR = 0.01


@read_from("arrays")
def load_arrays(path: str | os.PathLike[str]) -> Dataset:
  """Reads a user's own data from a NumPy .npz archive.

  Args:
    path: an archive of train_images, train_labels, test_images, test_labels and,
      if wanted, class_names. Images are [number, height, width(, channels)], uint8
      or float in [0, 1], of any number of channels. Feature vectors, such as the
      embeddings of a large network, are float [number, features] under the same names,
      and become float32.
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
  inputs = {
    split: _as_inputs(arrays[f"{split}_images"], f"{name}: {split}_images")
    for split in ("train", "test")
  }
  _check_spread(arrays["train_images"], f"{name}: train_images")
  return Dataset(
    name=name,
    train_images=inputs["train"],
    train_labels=labels.train,
    test_images=inputs["test"],
    test_labels=labels.test,
    class_names=labels.class_names,
    train_sources=_rows("train_images", len(labels.train)),
    test_sources=_rows("test_images", len(labels.test)),
  )


def _read(name: str, path: Place) -> dict[str, np.ndarray]:
  """The arrays of an archive.

  Raises:
    DataError: if it is not such a file, lacks an array, or one holds Python objects.
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


def _as_inputs(values: np.ndarray, name: str) -> np.ndarray:
  """Checked images, uint8[number, height, width, channels], or float32 features."""
  if values.ndim == 2:
    return _as_float32(values, name)
  if values.ndim in (3, 4):
    return _as_uint8(values, name)
  advice = f"; one feature is {name.split()[-1]}[:, None]" if values.ndim == 1 else ""
  raise DataError(
    None,
    f"{name} must be images [number, height, width(, channels)] or feature vectors "
    f"[number, features], got {values.dtype}{list(values.shape)}{advice}",
  )


def _as_float32(vectors: np.ndarray, name: str) -> np.ndarray:
  """Checked feature vectors; NaN and infinity are left for `Dataset` to name."""
  key = name.split()[-1]
  if not np.issubdtype(vectors.dtype, np.floating):
    advice = f"; give {key}.astype(np.float32)" if vectors.dtype.kind in "biu" else ""
    raise DataError(
      None, f"{name} of feature vectors must be float, got {vectors.dtype}{advice}"
    )
  most = np.finfo(np.float32).max
  large = np.flatnonzero(((np.abs(vectors) > most) & np.isfinite(vectors)).any(axis=1))
  if large.size:
    raise DataError(
      None,
      f"{name} has features above {most:.3g}, the largest number of float32, first in "
      f"vector {large[0]}; divide them by a constant",
    )
  return vectors.astype(np.float32)


def _check_spread(vectors: np.ndarray, name: str) -> None:
  """Raises DataError on features whose differences are lost in float32.

  Models get features less their means. Large numbers with small differences, such as
  times in seconds since 1970, have to be brought near 0 before they become float32.
  """
  if vectors.ndim != 2 or vectors.dtype.itemsize <= np.dtype(np.float32).itemsize:
    return
  with np.errstate(invalid="ignore"):  # Of infinity.
    mean_d, std_d = vectors.mean(axis=0), vectors.std(axis=0)
    error_d = (vectors - vectors.astype(np.float32)).std(axis=0)
  # Features that vary by rounding errors of their own computation are constants.
  varies_d = std_d > _LEAST_SPREAD * np.abs(mean_d)
  wrong = np.flatnonzero(varies_d & (error_d > _MOST_ERROR * std_d))
  if wrong.size:
    first, key = wrong[0], name.split()[-1]
    raise DataError(
      None,
      f"{name} has features whose differences float32 cannot hold, first feature "
      f"{first}: mean {mean_d[first]:.6g}, standard deviation {std_d[first]:.3g}; "
      f"subtract {key}.mean(axis=0) from the features of both splits",
    )


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
  """Checked images, uint8[number, height, width, channels]."""
  if images.ndim == 3:
    images = images[..., None]
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
