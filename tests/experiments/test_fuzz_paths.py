"""Any spelling of a path leads to the same data, and to the same experiment."""

import dataclasses
import os
import pathlib

import numpy as np
import PIL.Image
import pytest
from absl.testing import flagsaver
from hypothesis import strategies as st
from support import fuzz

from experiments.runtime import launcher, stages
from jaxdm.data import place
from jaxdm.data.dataset import DataError
from jaxdm.data.load import load_dataset
from jaxdm.storage import atomic_io

NAMES = [
  *("a", "ünï", "u\u0308", "日本", "[a-z]", "*", "?", "%20", "#1", "a:b", "s3"),
  *("C:\\x", " ", "a b", "~", "~x", "$HOME", "-x", "{a,b}", "&", "'", '"', "..."),
]


@dataclasses.dataclass
class Case:
  """Where the data is, and how it is called.

  Attributes:
    kind: of the data.
    parts: names of the folders that it is in.
    spellings: two; each says for every part how it is called.
    whole: how the whole is called, of either.
  """

  kind: str
  parts: list[str]
  spellings: list[list[str]]
  whole: list[str]


PARTS = ["plain", "dot", "double", "up", "link"]


@st.composite
def cases(draw) -> Case:
  parts = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
  spelling = st.lists(st.sampled_from(PARTS), min_size=3, max_size=3)
  whole = st.sampled_from(["absolute", "relative", "dotted", "home", "slash", "Path"])
  return Case(
    draw(st.sampled_from(["folder", "arrays"])),
    parts,
    [draw(spelling), draw(spelling)],
    [draw(whole), draw(whole)],
  )


def spelt(root: pathlib.Path, case: Case, number: int) -> str:
  """A name of the data, from a folder which is both the current one and the home."""
  path, there = "", root
  for part, how in zip(case.parts, case.spellings[number], strict=False):
    if how == "link":
      link = there / f"link to {len(os.listdir(there))}"
      link.symlink_to(part)
      part = link.name
    there = there / part
    between = {"dot": "/./", "double": "//", "up": f"/{part}/../"}.get(how, "/")
    # Up again from a link would be up from where it leads to.
    path += between + part if how != "link" else "/" + part
  path = path.lstrip("/")
  path += "/mine.npz" if case.kind == "arrays" else "/mine"
  return {
    "absolute": f"{root}/{path}",
    "relative": f"./{path}" if path.startswith("~") else path,  # Else of a home.
    "dotted": f"./{path}",
    "home": f"~/{path}",
    "slash": f"./{path}" if case.kind == "arrays" else f"./{path}//",
    "Path": f"{root}/{path}",
  }[case.whole[number]]


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> pathlib.Path:
  """A folder with the data in both forms."""
  folder = tmp_path_factory.mktemp("mine")
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
  labels = np.arange(4) % 2
  parts = {"train_images": images, "train_labels": labels}
  np.savez(folder / "mine.npz", **parts, test_images=images, test_labels=labels)
  for split in ("train", "test"):
    for i, image in enumerate(images):
      path = folder / "mine" / split / str(i % 2) / f"{i // 2}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      PIL.Image.fromarray(image).save(path)
  return folder


@fuzz.quick_and_all(5)
def test_any_spelling_leads_to_the_same_data_and_workdir(
  mine, monkeypatch, count
) -> None:
  expected = {
    "arrays": load_dataset("arrays", arrays=str(mine / "mine.npz")).fingerprint(),
    "folder": load_dataset("folder", data_dir=str(mine / "mine")).fingerprint(),
  }

  def check(case: Case) -> None:
    flag = {"arrays": "arrays", "folder": "data_dir"}[case.kind]
    with fuzz.scratch() as root:
      home = root.joinpath(*case.parts)
      home.mkdir(parents=True)
      name = "mine.npz" if case.kind == "arrays" else "mine"
      (home / name).symlink_to(mine / name)
      monkeypatch.chdir(root)
      monkeypatch.setenv("HOME", str(root))
      toy = {"dataset": case.kind, "batch_size": "2", "num_models": "4"}
      began = []
      for number in (0, 1):
        path = spelt(root, case, number)
        if case.whole[number] == "Path":
          found = load_dataset(case.kind, **{flag: pathlib.Path(path)})
          assert found.fingerprint() == expected[case.kind]
        workdir = {"workdir": ["run", f"{root}//x/.././run/"][number]}
        with flagsaver.as_parsed(**toy, **workdir, **{flag: path}):
          opened = launcher.open_run()
          assert opened.dataset.fingerprint() == expected[case.kind]
          with opened.workdir.lock():
            began.append(1)
            stages.run(
              opened.workdir, "stage", opened.settings("data"), lambda: {"n": len(began)}
            )
        (root / "x").mkdir(exist_ok=True)
      assert (
        stages.summary_of(opened.workdir, "stage")["n"] == 1
      )  # It was not done again.
      monkeypatch.chdir("/")
      with flagsaver.as_parsed(workdir=str(root / "run"), batch_size="2"):
        assert launcher.open_run().dataset.fingerprint() == expected[case.kind]

  fuzz.check(cases(), check, count)


@pytest.mark.parametrize("root", ["/s3", "/gs", "/az", "/hf", "/tmp/gs:", "/http:"])
def test_folders_that_are_called_like_buckets_are_folders(root) -> None:
  assert os.fspath(place.place(f"{root}/x")) == f"{root}/x"
  assert os.fspath(place.place(f"{root}//x")) == f"{root}/x"
  assert os.fspath(place.place("gs://bucket/x")) == "gs://bucket/x"
  assert not atomic_io.is_remote("runs/gs://x") and not atomic_io.is_remote("a://b")


@pytest.mark.parametrize("path", ["http://x/y", "file:///x", "ftp://x", "\0", "x" * 5000])
def test_places_that_cannot_be_read_are_named(path) -> None:
  with pytest.raises(DataError, match="data_dir: .* cannot be read"):
    load_dataset("folder", data_dir=path)
  with pytest.raises(DataError, match="arrays=.* cannot be read"):
    load_dataset("arrays", arrays=path)


def test_a_home_that_nobody_has_is_a_name(mine, tmp_path, monkeypatch) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / "~nobody_at_all").symlink_to(mine / "mine")
  for spelling in ("~nobody_at_all", "./~nobody_at_all"):
    assert len(load_dataset("folder", data_dir=spelling).train_labels) == 4
