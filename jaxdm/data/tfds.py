"""Prepared TensorFlow Datasets image classification sets, read without TensorFlow."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdm.data import decode, tfrecord
from jaxdm.data import labels as labels_lib
from jaxdm.data.dataset import DataError, Dataset

_SPLITS = ("train", "test")


def load_tfds(name: str, data_dir: str | None, *, background: str = "white") -> Dataset:
  """Reads a prepared set, whichever of TFDS's file formats it was prepared in.

  Args:
    name: such as 'cifar10', of which the newest prepared version is read, or
      'cifar10:3.0.2'.
    data_dir: where it was prepared; None: TFDS's default.
    background: colour behind the transparent parts of images of four channels.

  Raises:
    DataError: if it is unknown, not prepared, damaged, or not image classification.
  """
  builder = _builder(name, data_dir)
  missing = [split for split in _SPLITS if split not in builder.info.splits]
  if missing or not {"image", "label"} <= set(builder.info.features):
    raise DataError(
      f"dataset {name!r} needs features image and label and splits train and test; it "
      f"has {', '.join(builder.info.features)} and {', '.join(builder.info.splits)}"
    )
  parts: dict[str, Any] = {}
  labels = {}
  for split in _SPLITS:
    try:
      images, labels[split] = zip(
        *((row["image"], row["label"]) for row in _rows(builder, split)), strict=True
      )
    except NotImplementedError as error:
      remedy = _remedy(name, data_dir)
      raise DataError(f"dataset {name!r} cannot be read: {error}. {remedy}") from error
    except Exception as error:  # TFDS and array_record raise many kinds.
      raise DataError(
        f"dataset {name!r} cannot be read: {error}. Remove {builder.data_path} and "
        f"prepare it again. {_remedy(name, data_dir)}"
      ) from error
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
      raise DataError(f"dataset {name!r} has images of unequal shapes, such as {shapes}")
    stack = np.stack(images)
    if stack.shape[-1] == 4:
      stack = decode.opaque(stack, decode.parse_colour(background))
    parts[f"{split}_images"] = stack
    full_name = getattr(builder.info, "full_name", name)
    parts[f"{split}_sources"] = tuple(
      f"{full_name}:{split}[{row}]" for row in range(len(stack))
    )
  names = getattr(builder.info.features["label"], "names", None)
  numbered = labels_lib.number_labels(
    f"dataset {name!r}",
    np.array(labels["train"]),
    np.array(labels["test"]),
    tuple(names) if names else None,
  )
  return Dataset(
    name=name,
    class_names=numbered.class_names,
    train_labels=numbered.train,
    test_labels=numbered.test,
    **parts,
  )


def _builder(name: str, data_dir: str | None) -> Any:
  """TFDS's builder of the files that there are.

  Raises:
    DataError: if TFDS does not know the name, or nothing is prepared.
  """
  import tensorflow_datasets as tfds  # Slow to import, and seldom needed.
  from tensorflow_datasets.core import read_only_builder

  try:
    return read_only_builder.builder_from_files(name, data_dir=data_dir)
  except (tfds.core.DatasetNotFoundError, ValueError, OSError, KeyError):
    pass  # Nothing is prepared under that name; does TFDS know it at all?
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # Names are parsed, and modules of datasets imported.
    first_line = str(error).strip().splitlines()[0]
    raise DataError(f"dataset {name!r} is none that TFDS knows: {first_line}") from error
  if not builder.data_path.exists():
    folder = builder.data_path.parent
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = f" (prepared are {', '.join(found)})" if found else ""
    raise DataError(
      f"dataset {name!r} is not prepared in {folder}{others}. {_remedy(name, data_dir)}"
    )
  return builder


def _remedy(name: str, data_dir: str | None) -> str:
  """How to prepare a set."""
  where = "" if data_dir is None else f", data_dir={data_dir!r}"
  return (
    "Prepare it once where TensorFlow is installed (pip install 'jaxdm[tfds]'): "
    f'{sys.executable} -c "import tensorflow_datasets as tfds; '
    f'tfds.builder({name!r}{where}).download_and_prepare()"; file formats tfrecord and '
    "array_record can be read"
  )


def _rows(builder: Any, split: str) -> Iterator[Any]:
  """The examples of a split, in the order of its files.

  Raises:
    ValueError: naming a file that is missing, cut or damaged.
  """
  file_format = getattr(getattr(builder.info, "file_format", None), "value", None)
  info = builder.info.splits[split]
  files = getattr(info, "filepaths", [])
  if lost := [file for file in files if not file.exists()]:
    raise ValueError(f"{lost[0]} is missing")
  if file_format != "tfrecord":
    yield from builder.as_data_source(split)
    return
  for file, length in zip(files, info.shard_lengths, strict=True):
    count = 0
    for record in tfrecord.read_records(file):
      yield builder.info.features.deserialize_example_np(record)
      count += 1
    if count != length:
      raise ValueError(f"{file} holds {count} examples of {length}; it is cut")
