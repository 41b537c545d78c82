"""Archives of every layout: read as NumPy shows them, or refused in a line."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from support import fuzz

from jaxdm import data
from jaxdm.data.dataset import DataError
from jaxdm.data.load import load_dataset

FLOATS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g"]
# Other numbers, whose black and white nobody knows.
OTHERS = [
  "i1",
  "<i2",
  ">u2",
  "<i4",
  ">u4",
  "<i8",
  ">u8",
  "?",
  "<c8",
  "S3",
  "<U3",
  "M8[s]",
]


@dataclasses.dataclass
class Case:
  """An archive.

  Attributes:
    arrays: what is in it.
    options: how it is saved: compressed or not.
    images: uint8[n, h, w, c] by split, which were chosen before.
    labels: names by split.
    class_names: all names in order.
  """

  arrays: dict[str, np.ndarray]
  compressed: bool
  images: dict[str, np.ndarray]
  labels: dict[str, list[str]]
  class_names: tuple[str, ...]

  def write(self, path: pathlib.Path) -> None:
    save = np.savez_compressed if self.compressed else np.savez
    save(path, **self.arrays)


def laid_out(draw, array: np.ndarray) -> np.ndarray:
  """The same numbers in another order in memory."""
  order = draw(st.sampled_from("CFR"))
  return array[::-1].copy()[::-1] if order == "R" else np.array(array, order=order)


def stored_images(draw, images: np.ndarray) -> np.ndarray:
  """Images as one of the accepted types."""
  dtype = draw(st.sampled_from(["u1", *FLOATS]))
  if images.shape[-1] == 1 and draw(st.booleans()):
    images = images[..., 0]
  if dtype != "u1":
    images = (images.astype("g") / 255).astype(dtype)
  return laid_out(draw, images)


@st.composite
def cases(draw, least_side: int = 1) -> Case:
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  k = draw(st.integers(1, 4))
  sizes = {"train": draw(st.integers(k, 7)), "test": draw(st.integers(1, 7))}
  side = [draw(st.integers(least_side, 9)) for _ in range(2)]
  channels = draw(st.sampled_from([1, 1, 3, 4, 2, 5]))
  if side[0] in (1, 3, 4) and side[1] > 4 and channels > 4:
    channels = 1  # Which looks like channels first, and is refused.
  kinds = {
    "numbers": (np.arange(k), [str(i) for i in range(k)]),
    "ids": (np.sort(rng.choice(2**40, k, replace=False)) - 2**39, None),
    "text": (np.array(["b", "a é", "10", "9"][:k]), None),
    "bytes": (np.char.encode(np.array(["b", "aé", "10", "9"][:k]), "utf-8"), None),
  }
  values, _ = kinds[draw(st.sampled_from(sorted(kinds)))]
  plain = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
  order = sorted(range(k), key=lambda i: plain[i])
  shown = [str(plain[i]) for i in order]
  arrays: dict[str, Any] = {}
  images, labels = {}, {}
  for split, n in sizes.items():
    chosen = rng.integers(0, k, n)
    if split == "train":
      chosen = rng.permutation(np.concatenate([np.arange(k), chosen[k:]]))
    images[split] = rng.integers(0, 256, (n, *side, channels)).astype(np.uint8)
    labels[split] = [str(plain[i]) for i in chosen]
    arrays[f"{split}_images"] = stored_images(draw, images[split])
    own = values[chosen]
    if own.dtype.kind == "i" and draw(st.booleans()):
      own = own.astype(">i8")
    arrays[f"{split}_labels"] = own[:, None] if draw(st.booleans()) else own
  names = [f"name {i}" for i in range(k)]
  given = draw(st.sampled_from([None, "<U", ">U", "S", "i8", ">u2"]))
  if given:
    names = [str(1000 - i) for i in range(k)] if given[-1].isdigit() else names
    arrays["class_names"] = np.array(names).astype(given)
    new = dict(zip(shown, names, strict=True))
    labels = {split: [new[label] for label in part] for split, part in labels.items()}
    shown = names
  if draw(st.booleans()):
    arrays["extra"] = np.array([{}, None], object)
  if draw(st.booleans()):
    arrays["Train_images"] = np.zeros(3)
  return Case(arrays, draw(st.booleans()), images, labels, tuple(shown))


def check(case: Case) -> None:
  with fuzz.scratch() as folder:
    path = folder / "mine.npz"
    case.write(path)
    loaded = load_dataset("arrays", arrays=str(path))
  assert loaded.class_names == case.class_names
  for split in ("train", "test"):
    images, labels = (getattr(loaded, f"{split}_{x}") for x in ("images", "labels"))
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    np.testing.assert_array_equal(images, case.images[split])
    assert [loaded.class_names[i] for i in labels] == case.labels[split]


@fuzz.quick_and_all(20)
def test_archives_of_every_layout_are_read_as_numpy_shows_them(count) -> None:
  fuzz.check(cases(), check, count)


def spoil(draw, case: Case) -> tuple[str, ...]:
  """Harms one array; returns what the message must say."""
  arrays, split = case.arrays, draw(st.sampled_from(["train", "test"]))
  images, labels = f"{split}_images", f"{split}_labels"
  pixels, own = case.images[split], arrays[labels]
  key = draw(st.sampled_from([*data.dataset.ARRAY_NAMES]))
  kind = draw(st.sampled_from(sorted(HARMS)))
  return HARMS[kind](draw, arrays, key, images, labels, pixels, own)


def missing(draw, arrays, key, *_) -> tuple[str, ...]:
  del arrays[key]
  return f"lacks {key}", "it needs train_images"


def misspelt(draw, arrays, key, *_) -> tuple[str, ...]:
  arrays[key.upper()] = arrays.pop(key)
  return f"lacks {key}", "holds"


def other_pixels(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  dtype = draw(st.sampled_from(OTHERS))
  with np.errstate(all="ignore"):
    arrays[images] = pixels.astype(np.int64).astype(dtype)
  return images, "must be uint8 or float in [0, 1], got"


def beyond(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  value = draw(st.sampled_from([-1, -1e-3, 1.01, 255, 1e30]))
  floats = pixels / 255
  floats.flat[draw(st.integers(0, floats.size - 1))] = value
  arrays[images] = floats.astype(draw(st.sampled_from(["<f4", ">f8"])))
  return images, "must be in [0, 1] when float, got"


def not_numbers(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  place = draw(st.integers(0, pixels.size - 1))
  floats = (pixels / 255).astype(draw(st.sampled_from(FLOATS)))
  floats.flat[place] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
  arrays[images] = floats
  first = place // (pixels.size // len(pixels))
  return images, f"NaN or infinite pixels, first in image {first}"


def objects(draw, arrays, key, *_) -> tuple[str, ...]:
  arrays[key] = arrays[key].astype(object)
  return key, "Object arrays hold Python objects"


def of_no_axes(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  arrays[images] = pixels.flat[0]
  return (images,)


def empty(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  arrays[images], arrays[labels] = pixels[:0] / draw(st.sampled_from([1, 1.0])), own[:0]
  return labels, "must not be empty"


def without_pixels(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  shape = list(pixels.shape)
  shape[draw(st.integers(1, 3))] = 0
  for name in ("train_images", "test_images"):
    arrays[name] = np.zeros((len(arrays[name]), *shape[1:]), draw(st.sampled_from("Bf")))
  return "train_images must have pixels", "0"


def fewer(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  arrays[images] = np.concatenate([pixels, pixels])
  return (images,)


def of_another_size(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  wider = np.concatenate([pixels, pixels], axis=draw(st.sampled_from([1, 2, 3])))
  arrays[images] = wider
  return ()


def wholes(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  arrays[labels] = np.arange(len(own)).astype(draw(st.sampled_from(FLOATS)))
  return labels, "must be integers or text", f"give {labels}.astype(int)"


def fractions(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  arrays[labels] = np.full(len(own), draw(st.sampled_from([0.5, np.nan, np.inf])))
  return labels, "must be integers or text"


def one_hot(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  columns = draw(st.integers(2, 5))
  rows = np.eye(columns)[np.arange(len(own)) % columns]
  arrays[labels] = rows.astype(draw(st.sampled_from(["?", "u1", "<i8", ">f4"])))
  return labels, f"one-hot; give {labels}.argmax(axis=1)"


def unknown_label(draw, arrays, *_) -> tuple[str, ...]:
  labels = arrays["test_labels"]
  labels.flat[0] = -5 if labels.dtype.kind == "i" else "z"
  arrays.pop("class_names", None)
  return "test_labels must be among the", "as well"


def strange_names(draw, arrays, key, images, labels, pixels, own) -> tuple[str, ...]:
  k = len(np.unique(arrays["train_labels"]))
  wrong = [
    np.arange(k) + 0.5,
    np.arange(k) > 0,
    np.arange(k + 2).astype("M8[s]"),
    np.array(["a"] * (k + 1)),
    np.array([[f"{i}" for i in range(k)]]),
    np.array([b"\xff%d" % i for i in range(k)]),
    np.array([{}] * k, object),
    np.array([f"\udce9{i}" for i in range(k)]),
  ]
  arrays["class_names"] = wrong[draw(st.integers(0, len(wrong) - 1))]
  return ("class_names",)


HARMS: dict[str, Callable[..., tuple[str, ...]]] = {
  harm.__name__: harm
  for harm in (
    *(missing, misspelt, other_pixels, beyond, not_numbers, objects, of_no_axes, empty),
    *(without_pixels, fewer, of_another_size, wholes, fractions, one_hot, unknown_label),
    strange_names,
  )
}


@st.composite
def harmed(draw) -> tuple[Case, tuple[str, ...]]:
  case = draw(cases())
  return case, spoil(draw, case)


def check_refused(pair: tuple[Case, tuple[str, ...]]) -> None:
  case, words = pair
  with fuzz.scratch() as folder:
    path = folder / "mine.npz"
    case.write(path)
    with pytest.raises(DataError) as caught:
      load_dataset("arrays", arrays=str(path))
  fuzz.assert_one_line(caught.value, "arrays=", *words)


@fuzz.quick_and_all(20)
def test_archives_that_cannot_be_used_are_refused_in_a_line(count) -> None:
  fuzz.check(harmed(), check_refused, count)


def moved(draw, images: np.ndarray) -> np.ndarray:
  """Images with their axes in another order that people use."""
  orders = ["first", "last", "last, channels first", "flat"]
  order = draw(st.sampled_from(orders))
  n, channels = len(images), images.shape[-1]
  if order == "first":
    return images.transpose(0, 3, 1, 2)
  if order == "last":
    return (
      images[..., 0].transpose(1, 2, 0) if channels == 1 else images.transpose(1, 2, 3, 0)
    )
  if order == "flat":
    return images.transpose(0, 3, 1, 2).reshape(n, -1)
  return images.transpose(3, 1, 2, 0)


@st.composite
def moved_archives(draw) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  side, channels = draw(st.integers(5, 9)), draw(st.sampled_from([1, 3]))
  n = draw(st.sampled_from([10, 12, 17]))
  images = rng.integers(0, 256, (n, side, side, channels)).astype(np.uint8)
  return images, moved(draw, images)


def check_advice(pair: tuple[np.ndarray, np.ndarray]) -> None:
  """What the message says to do is done, and is right."""
  images, given = pair
  labels = np.arange(len(images)) % 2
  arrays = {"train_labels": labels, "test_labels": labels, "train_images": images}
  with fuzz.scratch() as folder:
    path = folder / "mine.npz"
    np.savez(path, **arrays, test_images=given)
    with pytest.raises(DataError) as caught:
      load_dataset("arrays", arrays=str(path))
    fuzz.assert_one_line(caught.value, "arrays=", "test_images must be [number, height")
    advice = re.search(r"as if (.*) brought", str(caught.value))[1]
    mended = eval(advice, {"test_images": given})
    np.savez(path, **arrays, test_images=mended)
    loaded = load_dataset("arrays", arrays=str(path))
  np.testing.assert_array_equal(loaded.test_images, images)


@fuzz.quick_and_all(20)
def test_the_advice_on_axes_in_another_order_is_right(count) -> None:
  fuzz.check(moved_archives(), check_advice, count)


def check_files(pair: tuple[int, float]) -> None:
  kind, share = pair
  with fuzz.scratch() as folder:
    path = folder / "mine.npz"
    images, labels = np.zeros((4, 5, 5, 1), np.uint8), np.arange(4) % 2
    arrays = {"train_images": images, "train_labels": labels}
    np.savez(path, **arrays, test_images=images, test_labels=labels)
    whole = path.read_bytes()
    contents = {
      0: whole[: int(len(whole) * share)],
      1: b"train_images,train_labels\n0,1\n",
      2: b"",
      3: whole[: int(len(whole) * share * 0.9)] + b"\0" * 9,
      4: b"\x80\x04\x95\x00",
      5: b"\x89HDF\r\n\x1a\n",
      6: b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
    }
    path.write_bytes(contents.get(kind, b""))
    if kind == 7:
      with path.open("wb") as file:
        np.save(file, images)
    if kind == 8:
      path.unlink()
      path.mkdir()
    if kind == 9:
      path.unlink()
      path.symlink_to(path)
    with pytest.raises(DataError) as caught:
      load_dataset("arrays", arrays=str(path))
  fuzz.assert_one_line(caught.value, "arrays=", "cannot be read", "numpy.savez")


@fuzz.quick_and_all(20)
def test_what_is_no_archive_is_refused_in_a_line(count) -> None:
  fuzz.check(st.tuples(st.integers(0, 9), st.floats(0, 0.999)), check_files, count)
