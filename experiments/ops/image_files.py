"""Writes the image files of a prepared TFDS data set into one archive.

  python -m experiments.ops.image_files --dataset=cifar10 --data_dir=DIR \\
      --archive=FILE.tar.gz

For a machine that has neither TFDS nor a network. There, unpack the archive and give
`--dataset=folder --data_dir=FOLDER`: the files are train/CLASS/NUMBER and
test/CLASS/NUMBER, each as the data set stores it, so that no pixel changes. Files are
numbered as they are ordered in the data set.
"""

import io
import os
import tarfile
from typing import Any

from absl import flags

from experiments.config import experiment_flags
from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm.errors import UserError

ARCHIVE = define_path("archive", None, "The file to write, FILE.tar.gz.")


def write_archive(name: str, data_dir: str | None, out: str) -> int:
  """Writes the archive; an unfinished one has another name.

  Args:
    name: of the data set.
    data_dir: where it was prepared; None: TFDS's default.
    out: the archive.

  Returns:
    How many files it holds.

  Raises:
    UserError: if the data set cannot be read.
  """
  import tensorflow_datasets as tfds  # Slow to import.

  try:
    builder = tfds.builder(name, data_dir=data_dir)
    names = builder.info.features["label"].names
    decoders = {"image": tfds.decode.SkipDecoding()}
    splits = {
      split: builder.as_data_source(split, decoders=decoders)
      for split in ("train", "test")
    }
  except Exception as error:  # TFDS raises many kinds.
    raise UserError(f"dataset {name!r} cannot be read: {error}") from error
  count, part = 0, f"{out}.part"
  with tarfile.open(part, "w:gz") as file:
    for split, rows in splits.items():
      for i in range(len(rows)):
        row: Any = rows[i]
        found = tarfile.TarInfo(f"{split}/{names[int(row['label'])]}/{i:06d}")
        found.size = len(row["image"])
        file.addfile(found, io.BytesIO(row["image"]))
        count += 1
  os.replace(part, out)
  return count


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Writes what the flags name."""
  if argv[1:]:
    raise UserError(f"arguments must be flags, got {argv[1]!r}; see --help")
  name, out = flags.FLAGS["dataset"].value, ARCHIVE.value
  if name is None or out is None:
    raise UserError("dataset and --archive are needed; see --help")
  count = write_archive(name, experiment_flags.DATA_DIR.value, out)
  print(f"{out}: {count:,} images, {os.path.getsize(out) / 1e6:.1f} MB")


if __name__ == "__main__":
  help_page.exit_if_asked()
  program.run(main)
