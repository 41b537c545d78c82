"""Image classification data in memory: the embedded set, TFDS, or a user's own."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from etils import epath

from jaxdm import identity

_EMBEDDED = pathlib.Path(__file__).parent / "embedded" / "fashion.npz"
_ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
# Pillow's modes.
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")


class DataError(ValueError):
  """Data that cannot be used, with what is wrong and what is accepted."""


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Training examples and the targets whose predictions are studied.

  Attributes:
    name: where it came from.
    train_images: uint8[n, h, w, c].
    train_labels: int32[n], in [0, k).
    test_images: uint8[t, h, w, c].
    test_labels: int32[t], in [0, k).
    class_names: k of them.
  """

  name: str
  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  class_names: tuple[str, ...]

  def __post_init__(self) -> None:
    for split in ("train", "test"):
      images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
      if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
          f"{self.name}: {split}_images must be uint8[number, height, width, "
          f"channels], got {images.dtype}{list(images.shape)}"
        )
      if len(images) != len(labels):
        raise DataError(
          f"{self.name}: {len(images)} {split}_images but {len(labels)} {split}_labels"
        )
      if not len(labels):
        raise DataError(f"{self.name}: {split} split is empty")
      if labels.min() < 0 or labels.max() >= len(self.class_names):
        raise DataError(
          f"{self.name}: {split}_labels must be in [0, {len(self.class_names)}), "
          f"got {labels.min()} to {labels.max()}"
        )
    if self.train_images.shape[1:] != self.test_images.shape[1:]:
      raise DataError(
        f"{self.name}: train images are {list(self.train_images.shape[1:])} but "
        f"test images are {list(self.test_images.shape[1:])}"
      )

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)

  def fingerprint(self) -> str:
    """A 128-bit hex digest of every pixel and label, and of the classes' names."""
    names = (*_ARRAY_NAMES, "class_names")
    return identity.digest({name: getattr(self, name) for name in names})

  def take(
    self,
    classes: Sequence[str] | None,
    train_per_class: int | None,
    test_per_class: int | None,
  ) -> "Dataset":
    """The first examples of some classes, in the order they stand; None = all.

    Raises:
      DataError: on an unknown class, or more examples asked than there are.
    """
    names = self.class_names if classes is None else tuple(classes)
    unknown = [name for name in names if name not in self.class_names]
    if unknown or len(set(names)) != len(names) or len(names) < 2:
      raise DataError(
        f"classes must be two or more of {', '.join(self.class_names)}; got "
        f"{', '.join(names)}"
      )
    old = [self.class_names.index(name) for name in names]
    parts: dict[str, Any] = {}
    for split, per_class in (("train", train_per_class), ("test", test_per_class)):
      labels = getattr(self, f"{split}_labels")
      rows = [np.flatnonzero(labels == label) for label in old]
      fewest = min(len(r) for r in rows)
      if per_class is not None and not 1 <= per_class <= fewest:
        raise DataError(
          f"{split}_per_class must be in [1, {fewest}] for these classes of "
          f"{self.name}, got {per_class}"
        )
      kept = np.sort(np.concatenate([r[:per_class] for r in rows]))
      new_label = np.full(self.num_classes, -1, np.int32)
      new_label[old] = np.arange(len(old))
      parts[f"{split}_images"] = getattr(self, f"{split}_images")[kept]
      parts[f"{split}_labels"] = new_label[labels[kept]]
    return dataclasses.replace(self, class_names=names, **parts)

  def downscaled(self, factor: int) -> "Dataset":
    """Images averaged over factor x factor blocks."""
    height, width = self.train_images.shape[1:3]
    if factor < 1 or height % factor or width % factor:
      raise DataError(
        f"downscale must divide the image size {height}x{width}, got {factor}"
      )
    if factor == 1:
      return self
    return dataclasses.replace(
      self,
      train_images=_block_means(self.train_images, factor),
      test_images=_block_means(self.test_images, factor),
    )


def _block_means(images: np.ndarray, factor: int) -> np.ndarray:
  """uint8 means of factor x factor blocks."""
  n, h, w, c = images.shape
  blocks = images.reshape(n, h // factor, factor, w // factor, factor, c)
  return np.round(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def load_fashion() -> Dataset:
  """The part of Fashion-MNIST that ships inside the package, 28x28 grey images."""
  with np.load(_EMBEDDED, allow_pickle=False) as arrays:
    parts = {name: arrays[name] for name in _ARRAY_NAMES}
    class_names = tuple(str(name) for name in arrays["class_names"])
  return Dataset(name="fashion", class_names=class_names, **parts)


def load_arrays(path: str | epath.PathLike) -> Dataset:
  """A user's own data, from a NumPy .npz archive.

  Args:
    path: an archive of train_images, train_labels, test_images, test_labels and,
      if wanted, class_names. Images are [number, height, width(, channels)], uint8
      or float in [0, 1]; labels are integers from 0.

  Raises:
    DataError: naming the array and what is wrong with it.
  """
  name = f"arrays={path}"
  try:
    with epath.Path(path).open("rb") as file, np.load(file) as archive:
      arrays = {key: archive[key] for key in archive.files}
  except Exception as error:  # zipfile and NumPy raise a dozen kinds.
    raise DataError(f"{name} cannot be read: {error}") from error
  missing = [key for key in _ARRAY_NAMES if key not in arrays]
  if missing:
    raise DataError(
      f"{name} lacks {', '.join(missing)}; it needs {', '.join(_ARRAY_NAMES)}"
    )
  labels = {}
  for split in ("train", "test"):
    arrays[f"{split}_images"] = _as_uint8(
      arrays[f"{split}_images"], f"{name}: {split}_images"
    )
    raw = arrays[f"{split}_labels"]
    if raw.ndim != 1 or not np.issubdtype(raw.dtype, np.integer):
      raise DataError(
        f"{name}: {split}_labels must be integers [number], "
        f"got {raw.dtype}{list(raw.shape)}"
      )
    labels[split] = raw.astype(np.int32)
  if "class_names" in arrays:
    class_names = tuple(str(name) for name in arrays["class_names"])
  else:
    class_names = tuple(str(i) for i in range(int(labels["train"].max(initial=0)) + 1))
  return Dataset(
    name=name,
    train_images=arrays["train_images"],
    train_labels=labels["train"],
    test_images=arrays["test_images"],
    test_labels=labels["test"],
    class_names=class_names,
  )


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
  """Checked images as uint8[number, height, width, channels]."""
  if images.ndim == 3:
    images = images[..., None]
  if images.dtype == np.uint8:
    return images
  if not np.issubdtype(images.dtype, np.floating):
    raise DataError(f"{name} must be uint8 or float in [0, 1], got {images.dtype}")
  bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
  if bad.size:
    raise DataError(f"{name} has NaN or infinite pixels, first in image {bad[0]}")
  if images.size and (images.min() < 0 or images.max() > 1):
    raise DataError(
      f"{name} must be in [0, 1] when float, got {images.min()} to {images.max()}"
    )
  return np.round(images * 255).astype(np.uint8)


def load_folder(path: str | epath.PathLike | None) -> Dataset:
  """A user's own image files: train/CLASS/FILE and test/CLASS/FILE, as PNG, JPEG, ...

  Examples are in the order of their classes' and files' names. Images are grey if all of
  them are, else RGB.

  Args:
    path: the folder.

  Raises:
    DataError: naming the folder or file and what is wrong with it.
  """
  if not path:
    raise DataError("dataset 'folder' needs one: data_dir=FOLDER, of train/ and test/")
  files = {
    split: _image_files(epath.Path(path).expanduser() / split)
    for split in ("train", "test")
  }
  class_names = tuple(sorted({file.parent.name for file in files["train"]}))
  unknown = [f for f in files["test"] if f.parent.name not in class_names]
  if unknown:
    raise DataError(f"data_dir: {unknown[0]} is of a class that {path}/train lacks")
  images = {split: [_pixels(file) for file in files[split]] for split in files}
  colour = any(image.ndim == 3 for part in images.values() for image in part)
  shape = images["train"][0].shape[:2]
  parts: dict[str, Any] = {}
  for split, part in images.items():
    for file, image in zip(files[split], part, strict=True):
      if image.shape[:2] != shape:
        raise DataError(
          f"data_dir: {file} is {image.shape[0]}x{image.shape[1]} pixels but the first "
          f"image {shape[0]}x{shape[1]}; bring all to one size first"
        )
    channels = 3 if colour else 1
    stack = [np.broadcast_to(np.atleast_3d(i), (*shape, channels)) for i in part]
    labels = [class_names.index(file.parent.name) for file in files[split]]
    parts[f"{split}_images"] = np.stack(stack)
    parts[f"{split}_labels"] = np.array(labels, np.int32)
  return Dataset(name=f"data_dir={path}", class_names=class_names, **parts)


def _image_files(split: epath.Path) -> list[epath.Path]:
  """CLASS/FILE in a folder, hidden files left out.

  Raises:
    DataError: if there are none.
  """
  try:
    classes = [c for c in split.iterdir() if c.is_dir() and not c.name.startswith(".")]
    files = [f for c in classes for f in c.iterdir() if not f.name.startswith(".")]
  except OSError as error:
    raise DataError(f"data_dir: {split} cannot be read: {error}") from error
  if not files:
    raise DataError(f"data_dir: {split} holds no CLASS/FILE")
  return sorted(files, key=lambda file: (file.parent.name, file.name))


def _pixels(path: epath.Path) -> np.ndarray:
  """A file's image, uint8[h, w] if it is grey, else [h, w, 3]."""
  try:
    with path.open("rb") as file, PIL.Image.open(file) as image:
      if image.mode not in (*_GREY, *_COLOUR):
        raise ValueError(f"pixels of kind {image.mode}, not of 8 bits a channel")
      return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
  except Exception as error:  # Pillow raises many kinds.
    raise DataError(f"data_dir: {path} is no image that can be used: {error}") from error


def load_tfds(name: str, data_dir: str | None) -> Dataset:
  """A prepared TensorFlow Datasets image classification set, without TensorFlow.

  Args:
    name: such as 'cifar10' or 'cifar10:3.0.2'.
    data_dir: where it was prepared; None: TFDS's default.

  Raises:
    DataError: if it is unknown, not prepared, or not image classification.
  """
  import tensorflow_datasets as tfds  # Slow to import, and seldom needed.

  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
  except (tfds.core.DatasetNotFoundError, ValueError, ImportError) as error:
    first_line = str(error).strip().splitlines()[0]
    raise DataError(f"dataset {name!r} is none that TFDS knows: {first_line}") from error
  remedy = (
    "Prepare it once where TensorFlow is installed (pip install 'jaxdm[tfds]'): "
    f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
    f"data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\""
  )
  if not builder.data_path.exists():
    raise DataError(
      f"dataset {name!r} is not prepared in {builder.data_path.parent}. {remedy}"
    )
  features = builder.info.features
  if not {"image", "label"} <= set(features) or not {"train", "test"} <= set(
    builder.info.splits
  ):
    raise DataError(f"dataset {name!r} lacks features image, label or splits train, test")
  parts: dict[str, Any] = {}
  for split in ("train", "test"):
    try:
      rows = builder.as_data_source(split)
    except NotImplementedError as error:  # Prepared as TFRecord files.
      raise DataError(f"dataset {name!r} cannot be read: {error}. {remedy}") from error
    images, labels = zip(*((row["image"], row["label"]) for row in rows), strict=True)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
      raise DataError(f"dataset {name!r} has images of unequal shapes, such as {shapes}")
    parts[f"{split}_images"] = np.stack(images)
    parts[f"{split}_labels"] = np.array(labels, np.int32)
  return Dataset(name=name, class_names=tuple(features["label"].names), **parts)


def load(
  dataset: str, *, data_dir: str | None = None, arrays: str | None = None
) -> Dataset:
  """'fashion' (embedded), 'arrays' or 'folder' (of one's own), or any TFDS name."""
  if dataset == "fashion":
    return load_fashion()
  if dataset == "arrays":
    if arrays is None:
      raise DataError("dataset 'arrays' needs a file: arrays=FILE.npz")
    return load_arrays(arrays)
  if dataset == "folder":
    return load_folder(data_dir)
  return load_tfds(dataset, data_dir)
