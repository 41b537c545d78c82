r"""Cuts the embedded data set from the official Fashion-MNIST files.

  python -m experiments.ops.cut_fashion --source=/usr/share/datasets/fashion-mnist

The source holds the four files as Zalando publishes them (Debian's package
dataset-fashion-mnist installs them too). Per class the first images of train and
test are kept, in order, so the result is the same for everyone.
"""

import gzip
import pathlib
from typing import Any

import numpy as np

from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import program

_SOURCE = define_path("source", ".", "Folder of the four .gz files.")
_OUT = define_path("npz", "jaxdm/data/embedded/fashion.npz", "File to write.")

_CLASSES = {0: "T-shirt", 2: "pullover", 4: "coat", 6: "shirt"}
_PER_CLASS = {"train": 600, "t10k": 150}


def _read(path: pathlib.Path, header_bytes: int) -> np.ndarray:
  """The bytes of a gzipped IDX file after its header."""
  return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, -1, header_bytes)


def main(_: list[str]) -> None:
  """Reads, keeps the first images of each class, writes."""
  parts: dict[str, Any] = {}
  for split, per_class in _PER_CLASS.items():
    folder = pathlib.Path(_SOURCE.value)
    images = _read(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    labels = _read(folder / f"{split}-labels-idx1-ubyte.gz", 8)
    of_class = [np.flatnonzero(labels == label)[:per_class] for label in _CLASSES]
    rows = np.sort(np.concatenate(of_class))
    name = "train" if split == "train" else "test"
    parts[f"{name}_images"] = images[rows]
    parts[f"{name}_labels"] = np.searchsorted(list(_CLASSES), labels[rows])
    parts[f"{name}_labels"] = parts[f"{name}_labels"].astype(np.int32)
  np.savez_compressed(_OUT.value, class_names=list(_CLASSES.values()), **parts)


if __name__ == "__main__":
  help_page.print_and_exit()
  program.run(main)
