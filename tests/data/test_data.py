import os
import pathlib
import re
import shutil
import sys
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from support.prepared import write_tfds

from jaxdm import data
from jaxdm.data.dataset import DataError, Dataset
from jaxdm.data.load import load_dataset


def arrays(**changes) -> dict:
  rng = np.random.default_rng(0)
  base = {
    "train_images": rng.integers(0, 256, (12, 6, 4, 3)).astype(np.uint8),
    "train_labels": np.arange(12) % 3,
    "test_images": rng.integers(0, 256, (6, 6, 4, 3)).astype(np.uint8),
    "test_labels": np.arange(6) % 3,
  }
  return base | changes


def load(tmp_path, **changes) -> Dataset:
  np.savez(tmp_path / "d.npz", **arrays(**changes))
  return load_dataset("arrays", arrays=str(tmp_path / "d.npz"))


def test_the_embedded_set_is_small_whole_and_balanced() -> None:
  fashion = load_dataset("fashion")
  assert fashion.train_images.shape == (2400, 28, 28, 1)
  assert fashion.test_images.shape == (600, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(fashion.train_labels), [600] * 4)
  np.testing.assert_array_equal(np.bincount(fashion.test_labels), [150] * 4)
  folder = pathlib.Path(data.__file__).parent / "embedded"
  assert (folder / "fashion.npz").stat().st_size < 2_000_000
  assert "Zalando" in (folder / "LICENSE.fashion-mnist").read_text()


def test_arrays_round_trip_and_floats_become_bytes(tmp_path) -> None:
  loaded = load(tmp_path)
  for name, value in arrays().items():
    np.testing.assert_array_equal(getattr(loaded, name), value)
  floats = load(tmp_path, train_images=arrays()["train_images"] / 255.0)
  assert floats.fingerprint() == loaded.fingerprint()
  changed = arrays()["train_labels"].copy()
  changed[0] = 1
  assert load(tmp_path, train_labels=changed).fingerprint() != loaded.fingerprint()


def test_grey_images_get_a_channel(tmp_path) -> None:
  loaded = load(
    tmp_path,
    train_images=arrays()["train_images"][..., 0],
    test_images=arrays()["test_images"][..., 0],
  )
  assert loaded.train_images.shape == (12, 6, 4, 1)


def test_downscaling_averages_blocks(tmp_path) -> None:
  small = load(tmp_path).downscaled(2)
  image = arrays()["test_images"][4].astype(float)
  expected = np.round(image[2:4, 0:2].mean(axis=(0, 1)))
  np.testing.assert_array_equal(small.test_images[4, 1, 0], expected)
  with pytest.raises(DataError, match="downscale must divide the image size 6x4"):
    load(tmp_path).downscaled(3)


def test_taking_classes_keeps_the_first_of_each_and_renumbers(tmp_path) -> None:
  some = load(tmp_path, class_names=np.array(["a", "b", "c"])).take(["c", "a"], 2, None)
  assert some.class_names == ("c", "a")
  np.testing.assert_array_equal(some.train_labels, [1, 0, 1, 0])
  np.testing.assert_array_equal(some.train_images, arrays()["train_images"][[0, 2, 3, 5]])
  np.testing.assert_array_equal(some.test_labels, [1, 0, 1, 0])


@pytest.mark.parametrize(
  "args,message",
  [
    ((["a"], None, None), "two or more"),
    ((["a", "x"], None, None), "two or more of 0, 1, 2"),
    ((["0", "0"], None, None), "two or more"),
    ((None, 5, None), r"train_per_class must be in \[1, 4\]"),
    ((None, None, 3), r"test_per_class must be in \[1, 2\]"),
  ],
)
def test_bad_selections_are_named(tmp_path, args, message) -> None:
  with pytest.raises(DataError, match=message):
    load(tmp_path).take(*args)


def test_a_class_without_targets_is_named_where_some_of_each_are_asked_for(
  tmp_path,
) -> None:
  lacking = load(tmp_path, test_labels=np.array([0, 2] * 3))
  assert len(lacking.take(None, 1, None).test_labels) == 6
  message = "test_per_class must not be given where a class has no test .*, as 1 of"
  with pytest.raises(DataError, match=message):
    lacking.take(None, None, 1)


def with_nan() -> np.ndarray:
  images = arrays()["train_images"] / 255.0
  images[5, 0, 0, 0] = np.nan
  return images


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"train_labels": np.zeros(11, int)}, "12 train_images but 11 train_labels"),
    (
      {"test_labels": np.full(6, 7)},
      "test_labels must be among the 3 train_labels 0, 1, 2, got 7 as well",
    ),
    ({"train_labels": np.zeros(12)}, "train_labels must be integers or text"),
    ({"train_labels": np.eye(12)}, r"one-hot; give train_labels.argmax\(axis=1\)"),
    ({"train_labels": np.array(list("abc" * 4))}, "must be of one kind"),
    ({"train_labels": np.full(12, 2**64 - 1, np.uint64)}, r"must be below 2\*\*63"),
    ({"train_labels": np.array([b"\xff"] * 12)}, "train_labels must be text or bytes in"),
    ({"train_labels": np.zeros((12, 2), int)}, "train_labels must be integers or text"),
    ({"class_names": np.array(["a", "b"])}, "one for each of the 3 labels 0, 1, 2, got"),
    ({"class_names": np.array(["a", "b", "a"])}, "must differ from each other, got a"),
    ({"class_names": np.array([b"a", b"b", b"\xe9"])}, "class_names must be text or byt"),
    (
      {"class_names": np.array([[1, 2, 3]])},
      r"class_names must be text \[k\], got int64",
    ),
    ({"class_names": np.array([1.5, 2, 3])}, "class_names must be text"),
    ({"class_names": np.array(["a", "b", None])}, "class_names cannot be read: Object"),
    (
      {"train_images": np.zeros((12, 3, 8, 8), np.uint8)},
      r"look as if train_images.transpose\(0, 2, 3, 1\)",
    ),
    (
      {"train_images": np.zeros((8, 8, 3, 12), np.uint8)},
      r"look as if train_images.transpose\(3, 0, 1, 2\)",
    ),
    (
      {"train_images": np.zeros((3, 8, 8, 12), np.uint8)},
      r"look as if train_images.transpose\(3, 1, 2, 0\)",
    ),
    (
      {"train_images": np.zeros((8, 9, 12), np.uint8)},
      r"look as if train_images.transpose\(2, 0, 1\)",
    ),
    (
      {"train_images": np.zeros((12, 3072), np.uint8)},
      r"train_images.reshape\(-1, 3, 32, 32\).transpose\(0, 2, 3, 1\)",
    ),
    (
      {"train_images": np.zeros((12, 784), np.uint8)},
      r"train_images.reshape\(-1, 28, 28\)",
    ),
    ({"train_images": with_nan()}, "NaN or infinite pixels, first in image 5"),
    ({"train_images": arrays()["train_images"] / 1.0}, r"in \[0, 1\] when float"),
    ({"train_images": arrays()["train_images"].astype(int)}, "must be uint8 or float"),
    (
      {"test_images": np.zeros((6, 5, 4, 3), np.uint8)},
      r"train images are \[6, 4, 3\] but",
    ),
    *(
      ({"train_images": np.zeros((12, 24), dtype)}, r"give train_images.astype\(np.float")
      for dtype in (np.uint8, np.int64, bool)
    ),
    ({"train_images": np.zeros((12, 24), "U1")}, "vectors must be float, got <U1$"),
    ({"train_images": np.full((12, 2), 1e300)}, "features above 3.4e.38, .* vector 0; d"),
    ({"train_images": np.zeros(12)}, r"got float64\[12\]; one feature is .*\[:, None\]"),
    ({"train_images": np.zeros((12, 1, 1, 1, 1))}, r"vectors .*, got float64\[12, .*\]$"),
    (
      {"train_images": 1.7e9 + np.arange(24.0).reshape(12, 2)},
      r"first feature 0: mean 1.7e\+09, standard deviation 6.9; subtract train_images.me",
    ),
    ({"train_images": np.array([{}] * 12)}, "train_images cannot be read: Object"),
  ],
)
def test_bad_arrays_are_named(tmp_path, changes, message) -> None:
  with pytest.raises(DataError, match=message):
    load(tmp_path, **changes)


def test_feature_vectors_become_float32(tmp_path) -> None:
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(12, 5))
  vectors[:, 1] = 1.7e9 + 1e7 * vectors[:, 1]  # Times within a year.
  vectors[:, 2] = 0.1 * 3 + 1e-17 * np.arange(12)  # A constant, to rounding.
  vectors[:, 3] = 1e-30 * vectors[:, 3]
  vectors[:, 4] = np.arange(12) == 3
  for dtype in (np.float64, np.float32, np.float16, np.longdouble):
    with np.errstate(over="ignore"):
      values = vectors.astype(dtype)
    values[~np.isfinite(values)] = 0
    found = load(tmp_path, train_images=values, test_images=values[:6])
    np.testing.assert_array_equal(found.train_images, values.astype(np.float32))
  # Of float32, all is as it is.
  near = (1.7e9 + np.arange(24.0).reshape(12, 2)).astype(np.float32)
  found = load(tmp_path, train_images=near, test_images=near[:6])
  np.testing.assert_array_equal(found.train_images, near)


VECTORS, NUMBERS = np.zeros((4, 3), np.float32), np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"train_labels": NUMBERS * np.nan}, "train_labels must be integers, got float64"),
    ({"test_labels": NUMBERS + 0.5}, "test_labels must be integers, got float64"),
    ({"train_labels": NUMBERS[:, None]}, r"train_labels must be .*, got ndarray \[4, 1"),
    ({"train_labels": [0, 1, 1, 0]}, r"train_labels must be an array int32.*, got list"),
    ({"train_labels": NUMBERS + 1}, r"train_labels must be in \[0, 2\), got 1 to 2"),
    ({"train_images": VECTORS.tolist()}, "train_images must be an array, got list"),
    ({"class_names": ("a", "a")}, "class_names must differ from each other, got a twice"),
    ({"class_names": (0, 1)}, "class_names must be text, got 0"),
    (
      {"test_sources": ("a", "b")},
      "test_sources must be one an example, 4, or none, got",
    ),
  ],
)
def test_what_is_no_dataset_is_named(changed, message) -> None:
  split = {"train_images": VECTORS, "train_labels": NUMBERS}
  other = {"test_images": VECTORS, "test_labels": NUMBERS}
  fields = {"name": "mine", "class_names": ("a", "b")} | split | other
  Dataset(**fields)
  with pytest.raises(DataError, match=f"^mine: {message}"):
    Dataset(**fields | changed)


def test_unreadable_files_are_named(tmp_path) -> None:
  (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no archive")
  np.savez(tmp_path / "y.npz", train_images=np.zeros(3))
  for name, message in [("x.npz", "x.npz"), ("none.npz", "none.npz"), ("y.npz", "lacks")]:
    with pytest.raises(DataError, match=message):
      load_dataset("arrays", arrays=str(tmp_path / name))
  with pytest.raises(DataError, match="needs a file"):
    load_dataset("arrays")


def write_images(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
  """Files whose names are in another order than the examples."""
  for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
    path = folder / "cab"[label] / f"{9 - i % 10}-{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  for split in ("train", "test"):
    parts = (arrays()[f"{split}_{name}"] for name in ("images", "labels"))
    write_images(tmp_path / split, *parts)
  return tmp_path


def test_folders_of_image_files_become_arrays(folder) -> None:
  (folder / "train" / ".cache").mkdir()
  (folder / "train" / "a" / ".DS_Store").write_text("")
  loaded = load_dataset("folder", data_dir=str(folder))
  assert loaded.class_names == ("a", "b", "c")
  np.testing.assert_array_equal(loaded.train_labels, [0] * 4 + [1] * 4 + [2] * 4)
  # Class a has label 1 here: examples 1, 4, 7 and 10, named 8-1, 5-4, 2-7 and 9-10.
  wanted = arrays()["train_images"][[7, 4, 1, 10]]
  np.testing.assert_array_equal(loaded.train_images[:4], wanted)
  assert loaded.test_images.shape == (6, 6, 4, 3)


def test_grey_files_become_colour_only_beside_coloured_ones(folder) -> None:
  grey = PIL.Image.fromarray(np.full((6, 4), 7, np.uint8))
  grey.save(folder / "train" / "a" / "0.png")
  loaded = load_dataset("folder", data_dir=str(folder))
  np.testing.assert_array_equal(loaded.train_images[0], np.full((6, 4, 3), 7))
  for path in folder.glob("t*/*/*.png"):
    grey.save(path)
  loaded = load_dataset("folder", data_dir=str(folder))
  np.testing.assert_array_equal(loaded.train_images, np.full((13, 6, 4, 1), 7))


@pytest.mark.parametrize(
  "spoil,message",
  [
    (lambda f: shutil.rmtree(f / "test"), "data_dir: .*test cannot be read"),
    (lambda f: [p.unlink() for p in f.glob("train/*/*")], "train holds no CLASS/FILE"),
    (lambda f: (f / "test" / "a").rename(f / "test" / "d"), "d/.* is of a class that"),
    (
      lambda f: PIL.Image.new("RGB", (6, 6)).save(f / "test" / "a" / "0.png"),
      "test/a/0.png is 6x6 pixels but the first image 6x4; bring all to one size",
    ),
    (
      lambda f: PIL.Image.new("I;16", (4, 6)).save(f / "test" / "a" / "0.png"),
      "test/a/0.png is no image that can be used: pixels of kind I;16",
    ),
    (
      lambda f: (f / "train" / "b" / "x.txt").write_text("no pixels"),
      "b/x.txt is no image that can be used: cannot identify",
    ),
  ],
)
def test_bad_folders_are_named(folder, spoil, message) -> None:
  spoil(folder)
  with pytest.raises(DataError, match=message):
    load_dataset("folder", data_dir=str(folder))


def test_unknown_and_unprepared_tfds_sets_say_what_to_do(tmp_path) -> None:
  with pytest.raises(DataError, match="'no_such_set' is none that TFDS knows"):
    load_dataset("no_such_set", data_dir=str(tmp_path))
  with pytest.raises(DataError, match="not prepared.*download_and_prepare"):
    load_dataset("cifar10", data_dir=str(tmp_path))


def fake_tfds(monkeypatch, tmp_path, as_data_source) -> None:
  """A prepared dataset of two classes whose rows come from `as_data_source`."""
  features = {"image": None, "label": types.SimpleNamespace(names=["a", "b"])}
  info = types.SimpleNamespace(features=features, splits={"train": 1, "test": 1})
  builder = types.SimpleNamespace(
    data_path=tmp_path, info=info, as_data_source=as_data_source
  )
  monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: builder)


def test_tfds_rows_become_arrays_and_unequal_shapes_are_named(
  monkeypatch, tmp_path
) -> None:
  rows = [{"image": np.full((2, 3, 1), i, np.uint8), "label": i % 2} for i in range(4)]
  fake_tfds(monkeypatch, tmp_path, lambda split, decoders: rows)
  loaded = load_dataset("anything")
  assert loaded.class_names == ("a", "b")
  np.testing.assert_array_equal(loaded.train_images[:, 0, 0, 0], range(4))
  np.testing.assert_array_equal(loaded.test_labels, [0, 1, 0, 1])
  rows[2]["image"] = np.zeros((3, 3, 1), np.uint8)
  with pytest.raises(DataError, match="images of unequal shapes"):
    load_dataset("anything")


def test_a_set_prepared_as_tfrecords_says_what_to_do(monkeypatch, tmp_path) -> None:
  def refuse(split: str, decoders) -> None:
    raise NotImplementedError("no random access in TFRECORD")

  fake_tfds(monkeypatch, tmp_path, refuse)
  with pytest.raises(DataError, match="TFRECORD.*array_record"):
    load_dataset("anything")


def test_sets_prepared_as_tfrecords_are_read_without_tensorflow(tmp_path) -> None:
  write_tfds(tmp_path / "pets" / "1.0.0")
  loaded = load_dataset("pets", data_dir=str(tmp_path))
  np.testing.assert_array_equal(loaded.train_images[:, 0, 0, 0], range(8))
  np.testing.assert_array_equal(loaded.test_labels, [0, 1] * 4)
  assert loaded.class_names == ("cat", "dog")
  assert loaded.train_sources[5] == "pets/1.0.0:train[5]"
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["[0:4]", "a*?", "#%20", "ü ü", "gs:", "a:b,c", "~"])
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_sets_of_either_format_are_read_from_any_folder(
  tmp_path, monkeypatch, name, file_format
) -> None:
  write_tfds(tmp_path / name / "pets" / "1.0.0", file_format=file_format)
  monkeypatch.chdir(tmp_path)
  for spelling in (f"{tmp_path}/{name}", f"./{name}/./", tmp_path / name):
    loaded = load_dataset("pets", data_dir=spelling)
    np.testing.assert_array_equal(loaded.train_images[:, 0, 0, 0], range(8))


def test_another_prepared_version_is_read_as_well(tmp_path) -> None:
  write_tfds(tmp_path / "cifar10" / "2.5.0")
  write_tfds(tmp_path / "cifar10" / "2.10.0")
  newest = load_dataset("cifar10", data_dir=str(tmp_path))
  assert newest.train_sources[0] == "cifar10/2.10.0:train[0]"
  older = load_dataset("cifar10:2.5.0", data_dir=str(tmp_path))
  assert older.train_sources[0] == "cifar10/2.5.0:train[0]"
  with pytest.raises(DataError, match="cifar10:3.0.2' is not prepared.*2.10.0, 2.5"):
    load_dataset("cifar10:3.0.2", data_dir=str(tmp_path))


@pytest.mark.parametrize(
  "label",
  [tfds.features.Scalar(np.int64), tfds.features.ClassLabel(num_classes=2)],
)
def test_tfds_labels_without_names_are_their_own(tmp_path, label) -> None:
  write_tfds(tmp_path / "pets" / "1.0.0", label=label)
  loaded = load_dataset("pets", data_dir=str(tmp_path))
  assert loaded.class_names == ("0", "1")
  np.testing.assert_array_equal(loaded.train_labels, [0, 1] * 4)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("harm", ["missing", "cut", "cut between records", "one bit"])
def test_a_damaged_shard_is_named(tmp_path, harm, split) -> None:
  files = write_tfds(tmp_path / "pets" / "1.0.0")
  [path] = [file for file in files if f"{split}.tfrecord-00001" in file.name]
  content = bytearray(path.read_bytes())
  if harm == "missing":
    path.unlink()
  elif harm == "one bit":
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
  else:
    size = 16 + int.from_bytes(content[:8], "little") if harm.endswith("records") else 20
    path.write_bytes(content[:size])
  with pytest.raises(DataError) as error:
    load_dataset("pets", data_dir=str(tmp_path))
  assert str(path) in str(error.value) and "prepare it again" in str(error.value)


def test_the_remedy_for_a_set_that_is_not_prepared_prepares_it(
  tmp_path, monkeypatch
) -> None:
  with pytest.raises(DataError) as error:
    load_dataset("cifar10", data_dir=str(tmp_path))
  code = re.search(r'-c "(.*)"', str(error.value))[1]
  prepared = []
  monkeypatch.setattr(
    tfds.core.DatasetBuilder,
    "download_and_prepare",
    lambda builder: prepared.append(builder.data_path),
  )
  exec(code)
  assert [os.fspath(path) for path in prepared] == [f"{tmp_path}/cifar10/3.0.2"]


@pytest.mark.slow
def test_cifar10_reads_without_tensorflow() -> None:
  data_dir = os.environ.get("TFDS_DATA_DIR")
  if not data_dir:
    pytest.skip("TFDS_DATA_DIR names no folder with a prepared CIFAR-10")
  cifar = load_dataset("cifar10", data_dir=data_dir)
  assert "tensorflow" not in sys.modules
  assert cifar.train_images.shape == (50_000, 32, 32, 3)
  np.testing.assert_array_equal(np.bincount(cifar.test_labels), [1000] * 10)
  assert cifar.class_names[0] == "airplane"


def test_transparent_images_of_a_prepared_set_show_the_background(tmp_path) -> None:
  def pixels(i: int) -> np.ndarray:
    return np.full((4, 3, 4), (200, 100, 0, 30 * i), np.uint8)

  image = tfds.features.Image(shape=(4, 3, 4))
  write_tfds(tmp_path / "pets" / "1.0.0", image=image, pixels=pixels)
  for background, ground in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
    loaded = load_dataset("pets", data_dir=str(tmp_path), background=background)
    assert loaded.train_images.shape == (8, 4, 3, 3)
    for i, shown in enumerate(loaded.train_images):
      alpha = 30 * i / 255
      blended = alpha * np.array([200, 100, 0]) + (1 - alpha) * np.array(ground)
      np.testing.assert_allclose(shown[2, 1], blended, atol=0.51)
