"""Prepared TensorFlow Datasets image classification sets, read without TensorFlow."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxdm.data import image_decoding, tfrecord
from jaxdm.data import labels as labels_lib
from jaxdm.data.dataset import DataError, Dataset, read_from
from jaxdm.data.place import place

_SPLITS = ("train", "test")


@read_from("dataset")
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
  if data_dir:  # TFDS takes ./~x for ~x.
    data_dir = os.fspath(place(data_dir))
  builder = builder_of(name, data_dir)
  splits, features = builder.info.splits, builder.info.features
  feature_names = list(features) if isinstance(features, Iterable) else []
  if not {"image", "label"} <= set(feature_names) or not set(_SPLITS) <= set(splits):
    raise DataError(
      "dataset",
      f"{name!r} needs features image and label and splits train and test; it "
      f"has {', '.join(feature_names) or 'none'} and {', '.join(splits) or 'none'}",
    )
  dtype = getattr(features["image"], "np_dtype", np.uint8)
  if dtype != np.uint8:
    raise DataError("dataset", f"{name!r} needs images of uint8, and has {dtype}")
  parts: dict[str, Any] = {}
  labels = {}
  for split in _SPLITS:
    stack, labels[split] = _read_split(builder, split, name, data_dir)
    if stack.ndim == 4 and stack.shape[-1] == 4:
      stack = image_decoding.opaque(stack, image_decoding.parse_colour(background))
    parts[f"{split}_images"] = stack
    full_name = getattr(builder.info, "full_name", name)
    parts[f"{split}_sources"] = tuple(
      f"{full_name}:{split}[{row}]" for row in range(len(stack))
    )
  names = getattr(features["label"], "names", None)
  class_labels = labels_lib.number_labels(
    f"dataset {name!r}",
    labels["train"],
    labels["test"],
    tuple(names) if names else None,
  )
  return Dataset(
    name=f"dataset {name!r}",
    class_names=class_labels.class_names,
    train_labels=class_labels.train,
    test_labels=class_labels.test,
    **parts,
  )


def builder_of(name: str, data_dir: str | None) -> Any:
  """TFDS's builder of the files that there are.

  Raises:
    DataError: if TFDS does not know the name, or nothing is prepared.
  """
  import tensorflow_datasets as tfds  # Slow to import, and seldom needed.
  from tensorflow_datasets.core import read_only_builder

  try:
    return read_only_builder.builder_from_files(name, data_dir=data_dir)
  except Exception as error:  # JSON, protobuf and TFDS raise many kinds.
    read_error = error
  try:
    with contextlib.redirect_stderr(io.StringIO()):  # A banner where TensorFlow lacks.
      builder = tfds.builder(name, data_dir=data_dir)
  except Exception as error:  # Names are parsed, and modules of datasets imported.
    not_found = tfds.core.DatasetNotFoundError  # Said of what is not there to be read.
    cause = error if isinstance(read_error, not_found) else read_error
    if isinstance(cause, not_found):
      raise DataError(
        "dataset",
        f"{name!r} is none that TFDS knows: {_first_line(cause)}; images of your "
        "own are dataset=folder or dataset=arrays",
      ) from error
    raise DataError(
      "dataset",
      f"{name!r} cannot be loaded: {_first_line(cause)}; give a name such as "
      "cifar10 or cifar10:3.0.2, and remove what is damaged of that set from "
      f"{data_dir or tfds.core.constants.DATA_DIR}. {_remedy(name, data_dir)}",
    ) from error
  if not builder.data_path.exists():
    folder = builder.data_path.parent
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = f" (prepared are {', '.join(names)})" if names else ""
    raise DataError(
      "dataset",
      f"{name!r} is not prepared in {folder}{others}. {_remedy(name, data_dir)}",
    )
  return builder


def _read_split(
  builder: Any, split: str, name: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
  """Images of one shape, and labels.

  Raises:
    DataError: if the files are damaged, or the images of several shapes.
  """
  try:
    rows = [(row["image"], row["label"]) for row in rows_of(builder, split)]
    images = [np.asarray(image) for image, _ in rows]
    labels = np.array([label for _, label in rows])
  except NotImplementedError as error:
    remedy = _remedy(name, data_dir)
    raise DataError("dataset", f"{name!r} cannot be read: {error}. {remedy}") from error
  except Exception as error:  # TFDS and array_record raise many kinds.
    raise DataError(
      "dataset",
      f"{name!r} cannot be read: {_first_line(error)}. Remove "
      f"{builder.data_path} and prepare it again. {_remedy(name, data_dir)}",
    ) from error
  if not rows:
    raise DataError("dataset", f"{name!r} has no examples in its split {split}")
  shapes = sorted({image.shape for image in images})
  if len(shapes) > 1:
    raise DataError(
      "dataset",
      f"{name!r} has images of unequal shapes, such as {shapes[0]} and "
      f"{shapes[1]}; bring them to one size, as files for dataset=folder",
    )
  return np.stack(images), labels


def _first_line(error: Exception) -> str:
  """What an error says, at its shortest."""
  lines = [line.strip(" .:") for line in str(error).splitlines()]
  return next(filter(None, lines), type(error).__name__)


def _remedy(name: str, data_dir: str | None) -> str:
  """How to prepare a set."""
  where = "" if data_dir is None else f", data_dir={data_dir!r}"
  return (
    "Prepare it once where TensorFlow is installed (pip install 'jaxdm[tfds]'): "
    f'{sys.executable} -c "import tensorflow_datasets as tfds; '
    f'tfds.builder({name!r}{where}).download_and_prepare()"; file formats tfrecord and '
    "array_record can be read"
  )


def rows_of(builder: Any, split: str, decoders: Any = None) -> Iterator[Any]:
  """The examples of a split, in the order of its files.

  Args:
    builder: of `builder_of`.
    split: 'train' or 'test'.
    decoders: TFDS's, by feature; None: all features are decoded.

  Raises:
    ValueError: naming a file that is missing, cut or damaged.
  """
  file_format = getattr(getattr(builder.info, "file_format", None), "value", None)
  info = builder.info.splits[split]
  files = getattr(info, "filepaths", [])
  if missing := [file for file in files if not file.exists()]:
    raise ValueError(f"{missing[0]} is missing")
  if file_format != "tfrecord":
    yield from builder.as_data_source(split, decoders=decoders)
    return
  for file, length in zip(files, info.shard_lengths, strict=True):
    count = 0
    for record in tfrecord.read_records(file):
      features = builder.info.features
      yield features.deserialize_example_np(record, decoders=decoders)
      count += 1
    if count != length:
      raise ValueError(f"{file} holds {count} examples of {length}; it is cut")
