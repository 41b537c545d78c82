"""Records of a TFRecord file, each against its checksum, without TensorFlow.

The format is that of tensorflow/core/lib/io/record_writer.h: eight bytes of length, four
of its checksum, the record, four of its checksum; checksums are CRC-32C, rotated by 15
bits to the right plus a constant.
"""

from collections.abc import Iterator

import google_crc32c
from etils import epath

_MASK_DELTA = 0xA282EAD8


def read_records(path: epath.Path) -> Iterator[bytes]:
  """The records of a file, in order.

  Raises:
    ValueError: if the file ends inside a record, or a checksum differs.
  """
  with path.open("rb") as file:
    while head := file.read(12):
      if len(head) < 12 or _mask_crc(head[:8]) != head[8:]:
        raise ValueError(f"{path} is damaged or cut")
      size = int.from_bytes(head[:8], "little")
      record, checksum = file.read(size), file.read(4)
      if len(record) < size or _mask_crc(record) != checksum:
        raise ValueError(f"{path} is damaged or cut")
      yield record


def _mask_crc(data: bytes) -> bytes:
  """The checksum as it stands in the file."""
  crc = google_crc32c.value(data)
  word = (crc >> 15 | crc << 17) + _MASK_DELTA
  return (word % 2**32).to_bytes(4, "little")
