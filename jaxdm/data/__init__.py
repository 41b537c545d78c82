"""Image classification data in memory: the embedded set, TFDS, or a user's own.

One file a source. Each makes a `Dataset`, and raises `DataError`, which says what is
wrong, where, and what is accepted.
"""

import pathlib

import numpy as np

from jaxdm.data.arrays import load_arrays
from jaxdm.data.dataset import ARRAY_NAMES, DataError, Dataset
from jaxdm.data.folder import load_folder
from jaxdm.data.tfds import load_tfds

__all__ = [
  "DataError",
  "Dataset",
  "load",
  "load_arrays",
  "load_fashion",
  "load_folder",
  "load_tfds",
]
_EMBEDDED = pathlib.Path(__file__).parent / "embedded" / "fashion.npz"


def load_fashion() -> Dataset:
  """The part of Fashion-MNIST that ships inside the package, 28x28 grey images."""
  with np.load(_EMBEDDED, allow_pickle=False) as arrays:
    parts = {name: arrays[name] for name in ARRAY_NAMES}
    class_names = tuple(str(name) for name in arrays["class_names"])
  return Dataset(name="fashion", class_names=class_names, **parts)


def load(
  dataset: str,
  *,
  data_dir: str | None = None,
  arrays: str | None = None,
  background: str = "white",
) -> Dataset:
  """Loads images and labels by the name of their source.

  Args:
    dataset: 'fashion' (embedded), 'arrays' (an .npz file), 'folder' (image files), or
      the name of any TFDS image classification set.
    data_dir: the folder of image files, or where TFDS sets are prepared.
    arrays: the .npz file.
    background: colour behind the transparent parts of image files; see `load_folder`.

  Raises:
    DataError: if they cannot be used.
  """
  if dataset == "fashion":
    return load_fashion()
  if dataset == "arrays":
    if arrays is None:
      raise DataError("dataset 'arrays' needs a file: arrays=FILE.npz")
    return load_arrays(arrays)
  if dataset == "folder":
    return load_folder(data_dir, background=background)
  return load_tfds(dataset, data_dir, background=background)
