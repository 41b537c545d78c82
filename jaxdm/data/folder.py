"""A user's own image files: train/CLASS/FILE and test/CLASS/FILE."""

import os
from typing import Any

import numpy as np
from etils import epath

from jaxdm.data import decode
from jaxdm.data.dataset import DataError, Dataset


def load_folder(
  path: str | epath.PathLike | None, *, background: str = "white"
) -> Dataset:
  """Reads a user's own image files, as PNG, JPEG and all else that Pillow reads.

  Examples are in the order of their classes' and files' names. Images are as a viewer
  shows them (`decode.decode`), and grey if all of them are, else RGB.

  Args:
    path: the folder.
    background: colour behind the transparent parts of images, as white or #808080.

  Raises:
    DataError: naming the folder or file and what is wrong with it.
  """
  if not path:
    raise DataError("dataset 'folder' needs one: data_dir=FOLDER, of train/ and test/")
  try:
    colour = decode.parse_colour(background)
  except ValueError as error:
    raise DataError(str(error)) from error
  root = epath.Path(path).expanduser()
  files = {split: _image_files(root / split) for split in ("train", "test")}
  folders = sorted({file.parent.name for file in files["train"]}, key=os.fsencode)
  unknown = [f for f in files["test"] if f.parent.name not in folders]
  if unknown:
    raise DataError(f"data_dir: {unknown[0]} is of a class that {path}/train lacks")
  images = {split: [_pixels(f, colour) for f in files[split]] for split in files}
  is_colour = any(image.ndim == 3 for part in images.values() for image in part)
  shape = images["train"][0].shape[:2]
  parts: dict[str, Any] = {}
  for split, part in images.items():
    for file, image in zip(files[split], part, strict=True):
      if image.shape[:2] != shape:
        raise DataError(
          f"data_dir: {file} is {image.shape[0]}x{image.shape[1]} pixels but the first "
          f"image {shape[0]}x{shape[1]}; bring all to one size first"
        )
    channels = 3 if is_colour else 1
    stack = [np.broadcast_to(np.atleast_3d(i), (*shape, channels)) for i in part]
    labels = [folders.index(file.parent.name) for file in files[split]]
    parts[f"{split}_images"] = np.stack(stack)
    parts[f"{split}_labels"] = np.array(labels, np.int32)
    parts[f"{split}_sources"] = tuple(
      _text(f"{split}/{file.parent.name}/{file.name}") for file in files[split]
    )
  class_names = tuple(map(_text, folders))
  return Dataset(name=f"data_dir={path}", class_names=class_names, **parts)


def _text(name: str) -> str:
  """A file's name as text, whatever the locale: UTF-8, bytes that are none as \\xff."""
  return os.fsencode(name).decode("utf-8", "backslashreplace")


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
  return sorted(files, key=lambda f: (os.fsencode(f.parent.name), os.fsencode(f.name)))


def _pixels(path: epath.Path, background: tuple[int, int, int]) -> np.ndarray:
  """A file's image, uint8[h, w] if it is grey, else [h, w, 3]."""
  try:
    return decode.decode(path, background)
  except Exception as error:  # Pillow raises many kinds.
    raise DataError(f"data_dir: {path} is no image that can be used: {error}") from error
