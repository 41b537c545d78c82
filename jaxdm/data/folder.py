"""A user's own image files: train/CLASS/FILE and test/CLASS/FILE."""

import os
import pathlib
from typing import Any

import numpy as np

from jaxdm.data import image_decoding
from jaxdm.data.dataset import DataError, Dataset, read_from
from jaxdm.data.place import Place, place


@read_from("data_dir")
def load_folder(
  path: str | os.PathLike[str] | None, *, background: str = "white"
) -> Dataset:
  """Reads a user's own image files, as PNG, JPEG and all else that Pillow reads.

  Examples are in the order of their classes' and files' names. Images are as a viewer
  shows them (`image_decoding.decode`), and grey if all of them are, else RGB.

  Args:
    path: the folder.
    background: colour behind the transparent parts of images, as white or #808080.

  Raises:
    DataError: naming the folder or file and what is wrong with it.
  """
  if not path:
    raise DataError("dataset", "'folder' needs one: data_dir=FOLDER, of train/ and test/")
  colour = image_decoding.parse_colour(background)
  root = place(path)
  files = {split: _image_files(root / split) for split in ("train", "test")}
  folders = sorted({file.parent.name for file in files["train"]}, key=os.fsencode)
  numbers = {name: number for number, name in enumerate(folders)}
  unknown = [f for f in files["test"] if f.parent.name not in numbers]
  if unknown:
    raise DataError(
      "data_dir",
      f": {unknown[0]} is of a class that {path}/train lacks; "
      "add training images of it, or take it out",
    )
  images = {split: [_pixels(f, colour) for f in files[split]] for split in files}
  is_colour = any(image.ndim == 3 for part in images.values() for image in part)
  shape = images["train"][0].shape[:2]
  parts: dict[str, Any] = {}
  for split, part in images.items():
    for file, image in zip(files[split], part, strict=True):
      if image.shape[:2] != shape:
        raise DataError(
          "data_dir",
          f": {file} is {image.shape[0]}x{image.shape[1]} pixels but the first "
          f"image {shape[0]}x{shape[1]}; bring all to one size first",
        )
    channels = 3 if is_colour else 1
    stack = [np.broadcast_to(np.atleast_3d(i), (*shape, channels)) for i in part]
    labels = [numbers[file.parent.name] for file in files[split]]
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


def _image_files(split: Place) -> list[Place]:
  """CLASS/FILE in a folder, hidden ones and what lies beside the classes left out.

  Raises:
    DataError: if there are none, or something there is neither a folder nor a file.
  """
  files = []
  for folder in _visible(split):
    if folder.is_dir():
      files += _visible(folder)
    elif not folder.exists():
      raise DataError(
        "data_dir", f": {folder} is a link to nothing; mend it, or take it out"
      )
  for file in files:
    # In a bucket each look takes a while, and there are no pipes, which never end.
    local = isinstance(file, pathlib.Path)
    if local and file.exists() and not file.is_file():
      raise DataError(
        "data_dir",
        f": {file} is no file; images must be in {split}/CLASS, without folders below",
      )
  if not files:
    raise DataError("data_dir", f": {split} holds no CLASS/FILE")
  return sorted(files, key=lambda f: (os.fsencode(f.parent.name), os.fsencode(f.name)))


def _visible(folder: Place) -> list[Place]:
  """What is in a folder, hidden files left out."""
  try:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
  except Exception as error:  # Buckets raise many kinds.
    raise DataError(
      "data_dir",
      f": {folder} cannot be read: {error}; it must be a folder, of "
      "train/CLASS/FILE and test/CLASS/FILE",
    ) from error


def _pixels(path: Place, background: tuple[int, int, int]) -> np.ndarray:
  """A file's image, uint8[h, w] if it is grey, else [h, w, 3]."""
  try:
    return image_decoding.decode(path, background)
  except Exception as error:  # Pillow raises many kinds.
    raise DataError(
      "data_dir",
      f": {path} is no image that can be used: {error}; save it as a PNG of 8 "
      "bits a channel, or take it out",
    ) from error
