"""Somebody else's masks and margins in files of every layout: read, or refused."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver
from hypothesis import strategies as st
from support import fuzz

from experiments import fit_datamodels

MASKS = ["?", "<f2", ">f4", "<f8"]
MASKS += [order + kind + size for order in "<>" for kind in "iu" for size in "148"]
MARGINS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


@dataclasses.dataclass
class Case:
  """Files.

  Attributes:
    masks: what one is made of.
    margins: the other.
    version: of the format.
    targets: the flag, if it is given, and what it means.
    spoil: puts something else in a file's place; returns what the message must say.
  """

  masks: np.ndarray
  margins: np.ndarray
  version: tuple[int, int]
  targets: tuple[str, slice] | None
  spoil: Callable[[pathlib.Path, "Case"], tuple[str, ...]] | None


def write(path: pathlib.Path, array: np.ndarray, version: tuple[int, int]) -> None:
  with path.open("wb") as file:
    np.lib.format.write_array(file, array, version)


def replaced(name: str, change: Callable[[np.ndarray], Any], *words: str) -> Callable:
  """Saves another array in a file's place."""

  def spoil(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
    changed = change(getattr(case, name).copy())
    np.save(folder / f"{name}.npy", changed, allow_pickle=True)
    return (f"--{name}" if not words else name, *words)

  return spoil


def put(array: np.ndarray, value: Any) -> np.ndarray:
  array[-1] = value
  return array


def cut(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
  path = folder / "masks.npy"
  path.write_bytes(path.read_bytes()[:-1])
  return ("masks=", "is not a whole .npy file")


def archive(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
  with (folder / "margins.npy").open("wb") as file:
    np.savez(file, margins=case.margins)
  return ("margins=", "must hold one matrix")


def gone(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
  (folder / "margins.npy").unlink()
  return ("margins=", "is not a whole .npy file")


def a_folder(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
  (folder / "masks.npy").unlink()
  (folder / "masks.npy").mkdir()
  return ("masks=", "is not a whole .npy file")


def text(folder: pathlib.Path, case: Case) -> tuple[str, ...]:
  (folder / "masks.npy").write_text("0,1,1\n")
  return ("masks=", "is not a whole .npy file")


OTHER_NUMBERS = "must be bool, or numbers 0 and 1, got"
SPOILS = [
  *(cut, archive, gone, a_folder, text),
  replaced("masks", lambda x: x[:-1], "rows"),
  replaced("masks", lambda x: x[..., None], "must hold one matrix"),
  replaced("masks", lambda x: x[:0], "must hold one matrix"),
  replaced("masks", lambda x: x[0, 0], "must hold one matrix"),
  replaced("masks", lambda x: x * (0.5 + 0j), OTHER_NUMBERS),
  replaced("masks", lambda x: x.astype(str), OTHER_NUMBERS),
  replaced("masks", lambda x: x.astype(object), "is not a whole .npy file"),
  replaced("masks", lambda x: put(x.astype(np.int8), 2), OTHER_NUMBERS),
  replaced("masks", lambda x: put(x.astype(">i4"), -1), OTHER_NUMBERS),
  replaced("masks", lambda x: put(x.astype(float), np.nan), OTHER_NUMBERS),
  replaced("margins", lambda x: x[:, 0], "must hold one matrix"),
  replaced("margins", lambda x: x[:, :0], "must hold one matrix"),
  replaced("margins", lambda x: x.astype(int), "must hold floats"),
  replaced("margins", lambda x: x.astype(complex), "must hold floats"),
  replaced("margins", lambda x: x.astype(object), "is not a whole .npy file"),
  replaced("margins", lambda x: put(x, np.nan), "of 1 models are not finite"),
  replaced("margins", lambda x: put(x, -np.inf), "of 1 models are not finite"),
]


@st.composite
def cases(draw) -> Case:
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  m, n, t = draw(st.integers(6, 12)), draw(st.integers(1, 18)), draw(st.integers(1, 5))
  layout = st.sampled_from("CF")
  masks = (rng.random((m, n)) < 0.5).astype(draw(st.sampled_from(MASKS)))
  margins = rng.normal(size=(m, t)).astype(draw(st.sampled_from(MARGINS)))
  start = draw(st.integers(0, t - 1))
  stop = draw(st.integers(start + 1, t))
  asked = [f"{start}:{stop}", slice(start, stop)], [f"{start}:", slice(start, t)]
  return Case(
    np.array(masks, order=draw(layout)),
    np.array(margins, order=draw(layout)),
    draw(st.sampled_from([(1, 0), (2, 0), (3, 0)])),
    draw(st.sampled_from([None, *map(tuple, asked), (":", slice(0, t))])),
    draw(st.sampled_from(SPOILS)) if draw(st.booleans()) else None,
  )


def check(case: Case) -> None:
  with fuzz.scratch() as folder:
    given = {"workdir": str(folder / "run"), "num_held_out": "2"}
    for name in ("masks", "margins"):
      write(folder / f"{name}.npy", getattr(case, name), case.version)
      given[name] = str(folder / f"{name}.npy")
    if case.targets:
      given["targets"] = case.targets[0]
    words = case.spoil(folder, case) if case.spoil else ()
    with flagsaver.as_parsed(**given):
      if words:
        with pytest.raises(ValueError) as caught:
          fit_datamodels.open_any()
        fuzz.assert_one_line(caught.value, "ma", *words)
        return
      files = fit_datamodels.open_any()
      part = case.targets[1] if case.targets else slice(None)
      found = files.margins_mt[np.arange(len(case.margins))]
      np.testing.assert_array_equal(files.masks[:], case.masks.astype(bool))
      np.testing.assert_array_equal(found, case.margins[:, part])
    assert not (folder / "run").exists()


@fuzz.quick_and_all(20)
def test_matrices_of_every_layout_are_read_or_refused_in_a_line(count) -> None:
  fuzz.check(cases(), check, count)
