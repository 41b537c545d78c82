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

from absl import flags

from experiments.config import experiment_flags
from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm.errors import UserError

flags.declare_key_flag("dataset")
flags.declare_key_flag("data_dir")
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
    UserError: if the data set cannot be read, or its classes cannot name folders.
  """
  # Slow to import, and of the extra `data`.
  import tensorflow_datasets as tfds_lib

  from jaxdm.data import tfds

  builder = tfds.builder_of(name, data_dir)
  label = dict(builder.info.features).get("label")
  names = getattr(label, "names", None) or []
  splits = set(builder.info.splits)
  if not names or not {"train", "test"} <= splits:
    raise UserError(
      "dataset",
      f"{name!r} needs classes with names and splits train and test; it has "
      f"{len(names)} names and {', '.join(sorted(splits)) or 'no splits'}",
    )
  if bad := [name for name in names if "/" in name or name.startswith(".")]:
    raise UserError("dataset", f"{name!r} has classes that are no folder's name: {bad}")
  decoders = {"image": tfds_lib.decode.SkipDecoding()}
  count, part = 0, f"{out}.part"
  with tarfile.open(part, "w:gz") as file:
    for split in ("train", "test"):
      digits = len(str(builder.info.splits[split].num_examples))
      for i, row in enumerate(tfds.rows_of(builder, split, decoders)):
        entry = tarfile.TarInfo(f"{split}/{names[int(row['label'])]}/{i:0{digits}d}")
        entry.size = len(row["image"])
        file.addfile(entry, io.BytesIO(row["image"]))
        count += 1
  os.replace(part, out)
  return count


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Writes what the flags name."""
  program.check_no_arguments(argv)
  name, out = flags.FLAGS["dataset"].value, ARCHIVE.value
  if name is None or out is None:
    raise UserError("dataset", "and --archive are needed; see --help")
  count = write_archive(name, experiment_flags.DATA_DIR.value, out)
  print(f"{out}: {count:,} images, {os.path.getsize(out) / 1e6:.1f} MB")


if __name__ == "__main__":
  help_page.print_and_exit()
  program.run(main)
