"""Labels are names, and images are what a viewer shows."""

import pathlib

import hypothesis
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from hypothesis import strategies as st
from support import fuzz

from jaxdm.data import labels
from jaxdm.data.dataset import DataError, Dataset
from jaxdm.data.load import load_dataset


def load(tmp_path, train_labels, test_labels, **others) -> Dataset:
  train, test = np.asarray(train_labels), np.asarray(test_labels)
  images = {
    "train_images": np.zeros((len(train), 4, 4, 1), np.uint8),
    "test_images": np.zeros((len(test), 4, 4, 1), np.uint8),
  }
  path = tmp_path / "d.npz"
  np.savez(path, train_labels=train, test_labels=test, **images, **others)
  return load_dataset("arrays", arrays=str(path))


@pytest.mark.parametrize(
  "train,test,names",
  [
    ([101, 20000, 101], [20000], ("101", "20000")),
    ([1443537, 1629819, 1443537], [1629819], ("1443537", "1629819")),
    ([1, 2, 3], [3], ("1", "2", "3")),
    ([-1, 1, -1], [1], ("-1", "1")),
    (["n02", "n01", "n02"], ["n01"], ("n01", "n02")),
    ([b"dog", b"cat\xc3\xa9"], [b"dog"], ("caté", "dog")),
    ([True, False], [True], ("False", "True")),
    (np.array([2**40, 7]), np.array([7], np.uint8), ("7", "1099511627776")),
    (np.array([300, 5], ">i2"), np.array([5], "<i8"), ("5", "300")),
    (np.array([[3], [9]]), np.array([[9]]), ("3", "9")),
  ],
)
def test_any_labels_become_class_numbers(tmp_path, train, test, names) -> None:
  loaded = load(tmp_path, train, test)
  assert loaded.class_names == names
  plain = [v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(train)]
  assert [names[i] for i in loaded.train_labels] == plain
  assert loaded.test_labels.max() < len(names)


@pytest.mark.parametrize(
  "train,names,expected",
  [
    ([0, 2, 2], ["a", "b", "c"], ["a", "c", "c"]),  # By place, where they are places.
    ([1, 3, 2], ["a", "b", "c"], ["a", "c", "b"]),  # In order, where they are not.
    ([900, 7, 900], [b"seven", b"nine"], ["nine", "seven", "nine"]),
    ([0, 1, 1], np.array([10, 20], np.uint16), ["10", "20", "20"]),
    (["x", "y", "x"], ["first", "second"], ["first", "second", "first"]),
    ([-1, 1, -1], ["no", "yes"], ["no", "yes", "no"]),
  ],
)
def test_names_go_with_labels(tmp_path, train, names, expected) -> None:
  loaded = load(tmp_path, train, train[:1], class_names=np.asarray(names))
  assert [loaded.class_names[i] for i in loaded.train_labels] == expected


@hypothesis.settings(max_examples=500)
@hypothesis.given(
  st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=9),
  ),
  st.integers(1, 9),
)
def test_numbering_keeps_what_is_equal_and_orders_what_is_not(values, count) -> None:
  train = np.array(values)
  hypothesis.assume(train.tolist() == values)  # NumPy drops zeros at a text's end.
  found = labels.number_labels("mine", train, train[:count])
  k = len(set(values))
  assert sorted(set(found.train.tolist())) == list(range(k)) and k == len(
    found.class_names
  )
  np.testing.assert_array_equal(found.test, found.train[:count])
  assert [found.class_names[i] for i in found.train] == [str(v) for v in values]
  order = sorted(set(values))
  assert [order[i] for i in found.train] == values


INTEGERS = [order + kind + size for order in "<>" for kind in "iu" for size in "1248"]


@st.composite
def label_arrays(draw) -> tuple[np.ndarray, list, np.ndarray]:
  """Labels of some type, which they are as Python sees them, and which of them are test.

  Either in an array [n] or in one [n, 1].
  """
  dtype = draw(st.sampled_from([*INTEGERS, "?", "<U", ">U", "S", "<U60"]))
  if dtype == "?":
    values = st.booleans()
  elif dtype[-1].isdigit() and dtype in INTEGERS:
    info = np.iinfo(dtype)
    values = st.integers(int(info.min), min(int(info.max), 2**63 - 1))
  else:
    letters = st.characters(codec="utf-8", exclude_characters="\0")
    values = st.text(letters, max_size=9)
  plain = draw(st.lists(values, min_size=1, max_size=9))
  given = [text.encode() for text in plain] if dtype == "S" else plain
  array = np.array(given).astype(dtype)
  chosen = draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=5))
  return array[:, None] if draw(st.booleans()) else array, plain, np.array(chosen)


def check_numbers(case: tuple[np.ndarray, list, np.ndarray]) -> None:
  array, plain, chosen = case
  found = labels.number_labels("mine", array, array[chosen])
  order = sorted(set(plain))
  assert found.class_names == tuple(str(value) for value in order)
  assert [order[i] for i in found.train] == plain
  assert [order[i] for i in found.test] == [plain[i] for i in chosen]
  assert found.train.dtype == found.test.dtype == np.int32


@fuzz.quick_and_all(50)
def test_labels_of_every_type_are_numbered_alike(count) -> None:
  fuzz.check(label_arrays(), check_numbers, count)


@st.composite
def refused_labels(draw) -> tuple[np.ndarray, np.ndarray, str]:
  """Labels in train and test that cannot be numbered, and what the message says."""
  array, plain, _ = draw(label_arrays())
  test = array[:1]
  n, kind = len(plain), array.dtype.kind
  other = np.array([["x"], [5]][kind in "US"])
  wrong = [
    (array, other, "be of one kind" if kind != "b" else ""),
    (np.full(n, 2**63, draw(st.sampled_from(["<u8", ">u8"]))), test, "below 2**63"),
    (np.arange(n).astype(draw(st.sampled_from(["<f2", ">f8"]))), test, "astype(int)"),
    (np.arange(n) + 0.5, test, "integers or text"),
    (np.eye(3, dtype=draw(st.sampled_from("?if")))[np.arange(n) % 3], test, "one-hot"),
    (np.stack([array.ravel()] * 2, 1), test, "integers or text"),
    (array[:0], test, "not be empty"),
    (array, test[:0], "not be empty"),
    (array.astype(object), test, "integers or text"),
    (np.arange(n).astype("M8[s]"), test, "integers or text"),
    (np.array([b"\xff"] * n), test, "text or bytes in UTF-8"),
  ]
  if kind in "iu" and 7 not in plain:
    wrong.append((array, np.array([7]), "must be among"))
  if kind in "US" and "seven" not in plain:
    wrong.append((array, np.array([b"seven"]), "must be among"))
  return wrong[draw(st.integers(0, len(wrong) - 1))]


def check_refused(case: tuple[np.ndarray, np.ndarray, str]) -> None:
  train, test, words = case
  with pytest.raises(DataError) as caught:
    labels.number_labels("mine", train, test)
  fuzz.assert_one_line(caught.value, "mine: ", "labels", words)


@fuzz.quick_and_all(50)
def test_labels_that_cannot_be_numbered_are_refused_in_a_line(count) -> None:
  fuzz.check(refused_labels(), check_refused, count)


def test_some_examples_of_labels_from_1_can_be_taken(tmp_path) -> None:
  some = load(tmp_path, [1, 2, 1, 2], [2, 1]).take(None, 1, None)
  assert some.class_names == ("1", "2") and some.train_labels.tolist() == [0, 1]


def show(folder: pathlib.Path, image: PIL.Image.Image, name="a.png", **options) -> tuple:
  """Loads one image as a folder of it alone."""
  for split in ("train", "test"):
    for label in "ab":
      path = folder / split / label / name
      path.parent.mkdir(parents=True, exist_ok=True)
      image.save(path, **options)
  return load_dataset("folder", data_dir=str(folder)).train_images[0]


def test_transparency_shows_the_background(tmp_path) -> None:
  rgba = np.zeros((4, 4, 4), np.uint8)
  rgba[:, 1, 3], rgba[:, 2] = 255, (200, 100, 0, 128)
  shown = show(tmp_path, PIL.Image.fromarray(rgba))
  np.testing.assert_array_equal(shown[0, 0], [255, 255, 255])
  np.testing.assert_array_equal(shown[0, 1], [0, 0, 0])
  half = np.array([200, 100, 0]) * 128 / 255 + 255 * 127 / 255
  np.testing.assert_allclose(shown[0, 2], half, atol=1)
  black = load_dataset("folder", data_dir=str(tmp_path), background="#000000")
  np.testing.assert_array_equal(black.train_images[0, 0, 0], [0, 0, 0])
  with pytest.raises(DataError, match="background must be a colour such as white"):
    load_dataset("folder", data_dir=str(tmp_path), background="whitish")


@pytest.mark.parametrize("kind", ["LA", "P of alphas", "P", "L", "RGB", "1"])
def test_every_way_to_be_transparent(tmp_path, kind) -> None:
  """A drawing in the alpha channel, or one colour that counts as no colour."""
  alpha = np.zeros((6, 6), np.uint8)
  alpha[:, 3:] = 255
  options = {}
  if kind == "LA":
    image = PIL.Image.fromarray(np.stack([0 * alpha, alpha], -1), "LA")
  else:
    drawn = np.where(alpha > 0, 0, 9).astype(np.uint8)
    image = PIL.Image.fromarray(drawn)
    if kind.startswith("P"):
      image = PIL.Image.fromarray(drawn, "P")
      image.putpalette([0, 0, 0] * 9 + [50, 60, 70])
    if kind == "1":
      image = PIL.Image.fromarray(alpha == 0)
    alphas = bytes([255] * 9 + [0])
    transparent = {"P of alphas": alphas, "P": 9, "L": 9, "RGB": (9, 9, 9), "1": 255}
    image, options["transparency"] = image.convert(kind.split()[0]), transparent[kind]
  shown = show(tmp_path, image, **options)
  assert (shown[:, :3] == 255).all() and (shown[:, 3:] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_followed(tmp_path, orientation) -> None:
  pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  shown = show(tmp_path, PIL.Image.fromarray(pixels), exif=exif)[..., 0]
  upright = {
    1: pixels,
    2: pixels[:, ::-1],
    3: pixels[::-1, ::-1],
    4: pixels[::-1],
    5: pixels.T,
    6: pixels.T[:, ::-1],
    7: pixels.T[::-1, ::-1],
    8: pixels.T[::-1],
  }[orientation]
  np.testing.assert_array_equal(shown, upright)


def test_palettes_are_looked_up_and_first_frames_shown(tmp_path) -> None:
  image = PIL.Image.fromarray(np.tile(np.uint8([0, 1]), (4, 2)), "P")
  image.putpalette([10, 20, 30, 200, 0, 40])
  shown = show(tmp_path / "p", image)
  np.testing.assert_array_equal(shown[0, :2], [[10, 20, 30], [200, 0, 40]])
  first, second = (PIL.Image.new("RGB", (4, 4), c) for c in ("red", "blue"))
  options = {"save_all": True, "append_images": [second]}
  shown = show(tmp_path / "g", first, name="a.gif", **options)
  np.testing.assert_array_equal(shown[0, 0], [255, 0, 0])


def test_colour_profiles_are_brought_to_srgb(tmp_path) -> None:
  """In XYZ's own profile the number for red is no red."""
  pixels = PIL.Image.new("RGB", (4, 4), (120, 60, 200))
  srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
  plain = show(tmp_path / "s", pixels, icc_profile=srgb)
  np.testing.assert_allclose(plain[0, 0], (120, 60, 200), atol=1)
  broken = show(tmp_path / "b", pixels, icc_profile=b"no profile")
  np.testing.assert_array_equal(broken[0, 0], (120, 60, 200))


def test_every_example_says_where_it_came_from(tmp_path) -> None:
  loaded = load(tmp_path, [5, 7, 5, 7], [7, 5])
  assert loaded.train_sources[2] == "train_images[2]"
  some = loaded.take(["7", "5"], 1, None)
  assert some.train_sources == ("train_images[0]", "train_images[1]")
  show(tmp_path / "f", PIL.Image.new("L", (4, 4)), name="ä b.png")
  folder = load_dataset("folder", data_dir=str(tmp_path / "f"))
  assert folder.test_sources == ("test/a/ä b.png", "test/b/ä b.png")
  fashion = load_dataset("fashion").take(["shirt", "T-shirt"], 2, 1)
  assert all(text.startswith("fashion:train[") for text in fashion.train_sources)
  full = load_dataset("fashion")
  rows = [int(text[len("fashion:train[") : -1]) for text in fashion.train_sources]
  np.testing.assert_array_equal(full.train_images[rows], fashion.train_images)
