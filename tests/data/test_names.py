"""Which target a name stands for."""

import dataclasses

import numpy as np
import pytest

import jaxdm
from jaxdm.data import names

FILES = (
  "test/disc/disc_001.png",
  "test/disc/disc_002.png",
  "test/ring/ring_001.png",
  "test/ring/same.png",
  "test/disc/same.png",
  "test/ring/7",
)


def made(test_sources=FILES) -> jaxdm.Dataset:
  labels = np.array(["/ring/" in s for s in test_sources], np.int32)
  images = np.zeros((len(labels), 3), np.float32)
  sources = tuple(f"train/{s}" for s in test_sources)
  return jaxdm.Dataset(
    *("mine", images, labels, images, labels, ("disc", "ring")),
    train_sources=sources,
    test_sources=test_sources,
  )


@pytest.mark.parametrize(
  "text,index",
  [
    ("0", 0),
    ("5", 5),
    ("test/disc/disc_001.png", 0),
    ("disc/disc_001.png", 0),
    ("disc_002.png", 1),
    ("/home/me/mine/test/ring/ring_001.png", 2),
    ("ring/same.png", 3),
    ("ring/7", 5),
  ],
)
def test_indices_and_ends_of_paths_are_names(text, index) -> None:
  assert names.find_target(made(), text) == index


@pytest.mark.parametrize(
  "text,message",
  [
    ("6", r"target must be in \[0, 6\), got 6"),
    ("-1", r"target must be in \[0, 6\), got -1"),
    (
      "same.png",
      r"target=same.png names 2 targets: 3 \(ring, test/ring/same.png\), 4 \(disc, test",
    ),
    ("disk/disc_001.png", "names no target; near are disc/disc_001.png, "),
    ("001.png", "names no target; near are (disc|ring)_001.png, "),
    ("isc_001.png", "names no target; near are disc_001.png"),
    ("?", "names no target; the first is test/disc/disc_001.png$"),
    ("--5", "target=--5 names no target; the first is"),
    ("", "names no target; the first is"),
  ],
)
def test_names_of_no_target_or_several_are_one_line(text, message) -> None:
  with pytest.raises(jaxdm.UserError, match=message) as raised:
    names.find_target(made(), text)
  assert "\n" not in str(raised.value)


def test_rows_of_arrays_are_names_too() -> None:
  data = made(tuple(f"test_images[{i}]" for i in range(12)))
  assert names.find_target(data, "test_images[11]") == 11
  with pytest.raises(jaxdm.UserError, match=r"^search_targets=.*near are test_images\["):
    names.find_target(data, "test_images[12]", "search_targets")


def test_examples_are_described_by_index_class_and_file() -> None:
  data = made()
  assert names.describe_target(data, 2) == "2 (ring, test/ring/ring_001.png)"
  assert names.describe_example(data, 0) == "0 (disc, train/test/disc/disc_001.png)"
  assert names.thumbnail_title(data, 1) == "1: disc\ndisc_002.png"
  others = ("train_images[0]", f"train/disc/{'x' * 40}.png", *FILES[2:])
  data = dataclasses.replace(data, train_sources=others)
  assert names.thumbnail_title(data, 0) == "0: disc"
  assert names.thumbnail_title(data, 1) == "1: disc\n...xxxxxxxxx.png"
