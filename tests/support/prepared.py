"""Prepared TensorFlow Datasets sets, written without TensorFlow."""

import io
import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2


def grey(i: int) -> np.ndarray:
  """The image of example i."""
  return np.full((4, 3), i, np.uint8)


def write_tfds(
  folder: pathlib.Path,
  *,
  image: tfds.features.Image | None = None,
  label: tfds.features.FeatureConnector | None = None,
  label_name: str = "label",
  shards: int = 2,
  examples: int = 4,
  pixels: Callable[[int], np.ndarray] = grey,
  file_format: str = "tfrecord",
) -> list[pathlib.Path]:
  """A set of grey 4x3 images, image i of value i and label i % 2.

  Args:
    folder: data_dir / name / version.
    image: the feature of that name.
    label: the feature with the labels.
    label_name: its name.
    shards: files a split.
    examples: in each file.
    pixels: the image of example i.
    file_format: 'tfrecord' or 'array_record'.

  Returns:
    The files.
  """
  label = label or tfds.features.ClassLabel(names=["cat", "dog"])
  image = image or tfds.features.Image(shape=(4, 3, 1))
  folder.mkdir(parents=True)
  tfds.features.FeaturesDict({"image": image, label_name: label}).save_config(folder)
  template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
  splits = [
    {
      "name": split,
      "shardLengths": [str(examples)] * shards,
      "filepathTemplate": template,
    }
    for split in ("train", "test")
  ]
  about = {"name": folder.parent.name, "version": folder.name, "fileFormat": file_format}
  (folder / "dataset_info.json").write_text(json.dumps(about | {"splits": splits}))
  files = []
  for split in ("train", "test"):
    for shard in range(shards):
      name = f"{folder.parent.name}-{split}.{file_format}-{shard:05d}-of-{shards:05d}"
      rows = range(examples * shard, examples * (shard + 1))
      records = [example(pixels(i), i % 2, label_name) for i in rows]
      if file_format == "tfrecord":
        (folder / name).write_bytes(b"".join(map(framed, records)))
      else:
        writer = array_record_module.ArrayRecordWriter(str(folder / name), "group_size:1")
        for record in records:
          writer.write(record)
        writer.close()
      files.append(folder / name)
  return files


def example(pixels: np.ndarray, label: int, label_name: str) -> bytes:
  """A tf.train.Example, made by protobuf."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, "PNG")
  feature = tf_feature_pb2.Feature
  image = feature(bytes_list=tf_feature_pb2.BytesList(value=[buffer.getvalue()]))
  number = feature(int64_list=tf_feature_pb2.Int64List(value=[label]))
  features = tf_feature_pb2.Features(feature={"image": image, label_name: number})
  return tf_example_pb2.Example(features=features).SerializeToString()


def framed(record: bytes) -> bytes:
  """A record as a TFRecord file has it, with a checksum by the bit."""

  def checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
      crc ^= byte
      for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

  size = struct.pack("<Q", len(record))
  return size + checksum(size) + record + checksum(record)
