"""Loads a dataset by the name of its source."""

import pathlib

import numpy as np

from jaxdm.data.arrays import load_arrays
from jaxdm.data.dataset import ARRAY_NAMES, DataError, Dataset

_EMBEDDED = pathlib.Path(__file__).parent / "embedded" / "fashion.npz"


def load_fashion() -> Dataset:
  """The part of Fashion-MNIST that is included in the package, 28x28 grey images."""
  with np.load(_EMBEDDED, allow_pickle=False) as arrays:
    parts = {name: arrays[name] for name in ARRAY_NAMES}
    class_names = tuple(str(name) for name in arrays["class_names"])
  return Dataset(name="fashion", class_names=class_names, **parts)


def load_dataset(
  dataset: str,
  *,
  data_dir: str | None = None,
  arrays: str | None = None,
  background: str = "white",
) -> Dataset:
  """Loads training examples and targets by the name of their source.

  >>> import jaxdm
  >>> fashion = jaxdm.load_dataset("fashion")
  >>> fashion.train_images.shape[1:], fashion.num_classes
  ((28, 28, 1), 4)

  Args:
    dataset: 'fashion' (embedded), 'arrays' (an .npz file), 'folder' (image files), or
      the name of any TFDS image classification set.
    data_dir: the folder of image files, or where TFDS sets are prepared.
    arrays: the .npz file, of images or feature vectors; see `arrays.load_arrays`.
    background: colour behind the transparent parts of image files; see `load_folder`.

  Returns:
    Dataset: uint8 images or float32 feature vectors, int32 labels, names of classes.

  Raises:
    DataError: if they cannot be used, or need a package that is not installed.
  """
  if dataset == "fashion":
    return load_fashion()
  if dataset == "arrays":
    if arrays is None:
      raise DataError("dataset", "'arrays' needs a file: arrays=FILE.npz")
    return load_arrays(arrays)
  try:
    # Each needs packages that the library does not, and is slow to import.
    if dataset == "folder":
      from jaxdm.data.folder import load_folder

      return load_folder(data_dir, background=background)
    from jaxdm.data.tfds import load_tfds

    return load_tfds(dataset, data_dir, background=background)
  except ModuleNotFoundError as error:
    raise DataError(
      "dataset", f"={dataset} needs the package {error.name}: pip install 'jaxdm[data]'"
    ) from error
