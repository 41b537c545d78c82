"""Images or feature vectors with labels, in memory, and where each came from."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdm import identity
from jaxdm.errors import UserError

ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")


class DataError(UserError):
  """Data that cannot be used, with what is wrong and what is accepted."""


@contextlib.contextmanager
def read_from(setting: str) -> Iterator[None]:
  """Adds the setting that names the data to errors about the data; also a decorator."""
  try:
    yield
  except DataError as error:
    error.setting = error.setting or setting
    raise


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Training examples and the targets whose predictions are studied.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> labels = np.arange(6, dtype=np.int32) % 2
  >>> vectors = rng.normal(size=(6, 3)).astype(np.float32)
  >>> targets = vectors[:2], labels[:2]
  >>> mine = jaxdm.Dataset("mine", vectors, labels, *targets, ("no", "yes"))
  >>> mine.num_classes, mine.has_images
  (2, False)

  Attributes:
    name: where it came from.
    train_images: uint8[n, h, w, c]; or feature vectors, float32[n, d].
    train_labels: int32[n], in [0, k).
    test_images: uint8[t, h, w, c]; or feature vectors, float32[t, d].
    test_labels: int32[t], in [0, k).
    class_names: k of them.
    train_sources: which file, array row or TFDS row each training example is; by default
      its number in the split.
    test_sources: the same of the targets.
  """

  name: str
  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  class_names: tuple[str, ...]
  train_sources: tuple[str, ...] = ()
  test_sources: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    class_names = tuple(self.class_names)
    _check_class_names(f"{self.name}: class_names", class_names)
    object.__setattr__(self, "class_names", tuple(map(str, class_names)))
    for split in ("train", "test"):
      images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
      _check_inputs(f"{self.name}: {split}_images", images)
      _check_labels(f"{self.name}: {split}_labels", labels, len(self.class_names))
      object.__setattr__(self, f"{split}_labels", np.asarray(labels, np.int32))
      if len(images) != len(labels):
        raise DataError(
          None,
          f"{self.name}: {len(images)} {split}_images but {len(labels)} {split}_labels",
        )
      if not len(labels):
        raise DataError(None, f"{self.name}: {split} split is empty")
      sources = tuple(getattr(self, f"{split}_sources"))
      if not sources:
        sources = tuple(f"{self.name}:{split}[{i}]" for i in range(len(labels)))
      _check_text(f"{self.name}: {split}_sources", sources)
      object.__setattr__(self, f"{split}_sources", tuple(map(str, sources)))
      if len(sources) != len(labels):
        raise DataError(
          None,
          f"{self.name}: {split}_sources must be one an example, {len(labels)}, or none, "
          f"got {len(sources)}",
        )
    if self.train_images.shape[1:] != self.test_images.shape[1:]:
      raise DataError(
        None,
        f"{self.name}: train images are {list(self.train_images.shape[1:])} but "
        f"test images are {list(self.test_images.shape[1:])}",
      )

  @property
  def num_classes(self) -> int:
    """The number of classes, k."""
    return len(self.class_names)

  @property
  def has_images(self) -> bool:
    """Whether the inputs are images; else they are feature vectors."""
    return self.train_images.ndim == 4

  def fingerprint(self) -> str:
    """A 128-bit hex digest of every pixel and label, and of the classes' names."""
    names = (*ARRAY_NAMES, "class_names")
    return identity.digest({name: getattr(self, name) for name in names})

  def take(
    self,
    classes: Sequence[str] | None,
    train_per_class: int | None,
    test_per_class: int | None,
  ) -> "Dataset":
    """The first examples of some classes, in the order they stand; None: all.

    Raises:
      DataError: on an unknown class, or more examples asked than there are.
    """
    names = self.class_names if classes is None else tuple(classes)
    unknown = [name for name in names if name not in self.class_names]
    if len(self.class_names) < 2:
      raise DataError(
        None,
        f"{self.name} has one class, {self.class_names[0]}; models need two or more",
      )
    if unknown or len(set(names)) != len(names) or len(names) < 2:
      raise DataError(
        "classes",
        f"must be two or more of {', '.join(self.class_names)}; got {', '.join(names)}",
      )
    old = [self.class_names.index(name) for name in names]
    parts: dict[str, Any] = {}
    for split, per_class in (("train", train_per_class), ("test", test_per_class)):
      labels = getattr(self, f"{split}_labels")
      rows = [np.flatnonzero(labels == label) for label in old]
      fewest, setting = min(len(r) for r in rows), f"{split}_per_class"
      if per_class is not None and not fewest:
        lacking = names[[len(r) for r in rows].index(0)]
        raise DataError(
          setting,
          f"must not be given where a class has no {split} examples, "
          f"as {lacking} of {self.name}; or leave the class out of classes",
        )
      if per_class is not None and not 1 <= per_class <= fewest:
        raise DataError(
          setting,
          f"must be in [1, {fewest}] for these classes of {self.name}, got {per_class}",
        )
      rows_kept = np.sort(np.concatenate([r[:per_class] for r in rows]))
      new_label = np.full(self.num_classes, -1, np.int32)
      new_label[old] = np.arange(len(old))
      parts[f"{split}_images"] = getattr(self, f"{split}_images")[rows_kept]
      parts[f"{split}_labels"] = new_label[labels[rows_kept]]
      sources = getattr(self, f"{split}_sources")
      parts[f"{split}_sources"] = tuple(sources[row] for row in rows_kept)
    return dataclasses.replace(self, class_names=names, **parts)

  def downscaled(self, factor: int) -> "Dataset":
    """Images averaged over factor x factor blocks."""
    if not self.has_images:
      if factor != 1:
        raise DataError("downscale", f"must be 1 for feature vectors, got {factor}")
      return self
    height, width = self.train_images.shape[1:3]
    if factor < 1 or height % factor or width % factor:
      raise DataError(
        "downscale", f"must divide the image size {height}x{width}, got {factor}"
      )
    if factor == 1:
      return self
    return dataclasses.replace(
      self,
      train_images=_block_means(self.train_images, factor),
      test_images=_block_means(self.test_images, factor),
    )


def _check_class_names(name: str, names: Sequence[str]) -> None:
  """Raises DataError on names that are no text, or equal."""
  _check_text(name, names)
  if len(set(names)) < len(names):
    twice = sorted({text for text in names if names.count(text) > 1})
    raise DataError(
      None, f"{name} must differ from each other, got {', '.join(twice)} twice"
    )


def _check_inputs(name: str, images: np.ndarray) -> None:
  """Raises DataError on what are neither images nor feature vectors."""
  if not hasattr(images, "dtype"):
    raise DataError(None, f"{name} must be an array, got {type(images).__name__}")
  kinds = {4: np.dtype(np.uint8), 2: np.dtype(np.float32)}
  if images.dtype != kinds.get(images.ndim):
    raise DataError(
      None,
      f"{name} must be uint8[number, height, width, channels], or float32[number, "
      f"features], got {images.dtype}{list(images.shape)}",
    )
  if images.ndim == 2 and not np.isfinite(images).all():
    row = np.flatnonzero(~np.isfinite(images).all(axis=1))[0]
    raise DataError(
      None, f"{name} has features that are not finite, first in vector {row}"
    )
  if 0 in images.shape[1:]:
    raise DataError(None, f"{name} must have pixels, got {list(images.shape)}")


def _check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
  """Raises DataError on labels that are no class numbers."""
  if not hasattr(labels, "dtype") or labels.ndim != 1:
    shape = list(np.shape(labels))
    raise DataError(
      None,
      f"{name} must be an array int32[number], got {type(labels).__name__} {shape}",
    )
  if labels.dtype.kind not in "biu":
    raise DataError(
      None,
      f"{name} must be integers, got {labels.dtype}; names become numbers by "
      "numpy.unique(..., return_inverse=True)",
    )
  if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
    raise DataError(
      None,
      f"{name} must be in [0, {num_classes}), got {labels.min()} to {labels.max()}",
    )


def _check_text(name: str, texts: Sequence[str]) -> None:
  """Raises DataError on what is no text, or cannot be written: a lone surrogate."""
  wrong_type = next((text for text in texts if not isinstance(text, str)), None)
  if wrong_type is not None:
    raise DataError(None, f"{name} must be text, got {wrong_type!r}")
  try:
    "".join(texts).encode()
  except UnicodeEncodeError as error:
    wrong = error.object[error.start : error.end]
    raise DataError(
      None, f"{name} must be text that UTF-8 can hold, got {wrong!a}"
    ) from error


def _block_means(images: np.ndarray, factor: int) -> np.ndarray:
  """uint8 means of factor x factor blocks."""
  n, h, w, c = images.shape
  blocks = images.reshape(n, h // factor, factor, w // factor, factor, c)
  return np.round(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
