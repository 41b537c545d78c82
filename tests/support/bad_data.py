"""Data that cannot be used, of every kind that people bring."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from support.prepared import grey, write_tfds


def write(folder: pathlib.Path) -> None:
  """All of it: folders of image files, archives, and prepared TFDS sets."""
  for name, spoil in FOLDERS.items():
    for path in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
      (folder / name / path).parent.mkdir(parents=True)
      PIL.Image.new("RGB", (4, 6)).save(folder / name / path)
    spoil(folder / name)
  images, labels = np.zeros((6, 6, 6, 3), np.uint8), np.arange(6) % 2
  whole = {"train_images": images, "train_labels": labels}
  whole |= {"test_images": images, "test_labels": labels}
  for name, changes in ARRAYS.items():
    np.savez(folder / f"{name}.npz", **{**whole, **changes})
  (folder / "table.npz").write_text("image,label\n0,1\n")
  _write_sets(folder)


FOLDERS: dict[str, Callable[[pathlib.Path], object]] = {
  "text": lambda f: (f / "train/a/Thumbs.db").write_text("no pixels"),
  "deep": lambda f: PIL.Image.new("I;16", (4, 6)).save(f / "test/b/1.png"),
  "unequal": lambda f: PIL.Image.new("RGB", (6, 4)).save(f / "test/b/1.png"),
  "nested": lambda f: (f / "train/a/more").mkdir(),
  "dangling": lambda f: (f / "train/c").symlink_to("nowhere"),
  "cut": lambda f: (f / "test/a/0.png").write_bytes(
    (f / "test/a/0.png").read_bytes()[:45]
  ),
  "other": lambda f: (f / "test/b").rename(f / "test/c"),
}
ARRAYS = {
  "beyond": {"train_images": np.full((6, 6, 6, 3), 255.0)},
  "first": {"test_images": np.zeros((6, 3, 6, 6), np.uint8)},
  "wide": {"train_images": np.zeros((6, 6, 6, 3), np.int64)},
  "none": {"train_images": np.zeros((6, 0, 6, 3), np.uint8)},
  "objects": {"train_images": np.array([None] * 6)},
  "one-hot": {"train_labels": np.eye(6)},
  "floats": {"train_labels": np.arange(6.0)},
  "unknown": {"test_labels": np.full(6, 7)},
  "mixed": {"test_labels": np.array(list("ababab"))},
  "uncounted": {"train_labels": np.arange(5) % 2},
  "names": {"class_names": np.array(["one", "one"])},
  "too-large": {"train_labels": np.full(6, 2**63, np.uint64)},
  "single": {"train_labels": np.zeros(6, int), "test_labels": np.zeros(6, int)},
}


def _write_sets(folder: pathlib.Path) -> None:
  """Prepared sets, below tfds."""

  def home(name: str) -> pathlib.Path:
    return folder / "tfds" / name / "1.0.0"

  about = home("damaged_info") / "dataset_info.json"
  write_tfds(about.parent)
  about.write_text(about.read_text()[:-9])
  features = home("damaged_features") / "features.json"
  write_tfds(features.parent)
  features.write_text(features.read_text()[:-9])
  write_tfds(home("lost"))[1].unlink()
  cut = write_tfds(home("cut"))[2]
  cut.write_bytes(cut.read_bytes()[:-3])
  write_tfds(home("without_labels"), label_name="id")
  write_tfds(home("without_test"))
  about = home("without_test") / "dataset_info.json"
  said = json.loads(about.read_text())
  about.write_text(json.dumps(said | {"splits": said["splits"][:1]}))
  write_tfds(home("empty"), shards=1, examples=0)
  any_size = tfds.features.Image(shape=(None, None, 1))
  write_tfds(home("unequal"), image=any_size, pixels=lambda i: grey(i)[: 1 + i % 4])
  deep = tfds.features.Image(shape=(4, 3, 1), dtype=np.uint16)
  write_tfds(home("deep"), image=deep, pixels=lambda i: grey(i).astype(np.uint16))
  (folder / "tfds" / "cifar10").write_text("a file")
