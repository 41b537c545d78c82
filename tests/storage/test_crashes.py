"""What a crash leaves, at every moment at which one can come.

The disk is copied before and after each of its changes while something is written: each
copy is what a process that starts after a crash at that moment finds.
"""

import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from etils import epath

from experiments.runtime import stages
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm import prng
from jaxdm.storage import (
  array_folder,
  atomic_io,
  bank,
  cache,
  checkpoint,
  checksummed_json,
  maintenance,
)
from jaxdm.storage import store as store_lib

ROWS, TARGETS, EXAMPLES = 4, 600, 20


class Change(NamedTuple):
  """One change of the disk.

  Attributes:
    kind: sync, place (a file gets a name, or takes over another's), make (a folder) or
      remove.
    path: the file, or the folder that is synced.
    source: the name that a file had before it was placed.
  """

  kind: str
  path: pathlib.Path
  source: pathlib.Path | None = None


class Disk:
  """The changes of a folder, and copies of it.

  Attributes:
    folder: what is watched.
    changes: in order.
    copies: before the first change and after each.
  """

  def __init__(self, folder: pathlib.Path, copies: pathlib.Path):
    self.folder, self.changes, self.copies = folder, [], []
    self._root = copies

  def copy(self) -> None:
    """Keeps the folder as it is."""
    target = self._root / f"{len(self.copies):03d}"
    shutil.copytree(self.folder, target)
    self.copies.append(target)

  def note(self, kind: str, path: object, source: object = None) -> None:
    """Called after a change."""
    source = None if source is None else pathlib.Path(os.fspath(source))
    self.changes.append(Change(kind, pathlib.Path(os.fspath(path)), source))
    self.copy()


@pytest.fixture
def watch(tmp_path, monkeypatch) -> Callable[..., Disk]:
  """Runs a function, and returns what it does to a folder."""

  def watch(folder: pathlib.Path, work: Callable[[], object]) -> Disk:
    disk = Disk(folder, tmp_path / f"copies-of-{folder.name}")
    real = {name: getattr(os, name) for name in ("replace", "rename", "link")}

    def placing(name: str) -> Callable[..., None]:
      def place(source, target, **options) -> None:
        real[name](source, target, **options)
        disk.note("place", target, source)

      return place

    def removing(function: Callable[..., None]) -> Callable[..., None]:
      def remove(path, **options) -> None:
        function(path, **options)
        disk.note("remove", path)

      return remove

    def make(path, *args, function=os.mkdir, **options) -> None:
      function(path, *args, **options)
      if pathlib.Path(path).is_relative_to(disk.folder):
        disk.note("make", path)

    def sync(descriptor: int, function=os.fsync) -> None:
      function(descriptor)
      disk.note("sync", os.readlink(f"/proc/self/fd/{descriptor}"))

    with monkeypatch.context() as patch:
      for name in real:
        patch.setattr(os, name, placing(name))
      for name in ("unlink", "remove"):
        patch.setattr(os, name, removing(getattr(os, name)))
      patch.setattr(os, "mkdir", make)
      patch.setattr(os, "fsync", sync)
      disk.copy()
      work()
    assert len(disk.changes) > 2
    return disk

  return watch


def open_store(path: pathlib.Path, *, label_classes: int = 0) -> store_lib.Store:
  return bank.open_store(
    path,
    num_targets=TARGETS,
    num_train=EXAMPLES,
    settings={},
    rows_per_chunk=ROWS,
    label_classes=label_classes,
  )


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Masks and margins."""
  rng = np.random.default_rng(0)
  margins = rng.normal(size=(ROWS, TARGETS)).astype(np.float32)
  return rng.random((ROWS, EXAMPLES))[:count] < 0.5, margins[:count]


def margins_of(path: pathlib.Path, chunk: int) -> np.ndarray | None:
  """Those of one chunk, if it is known to be whole; everything known must be."""
  store = open_store(path)
  assert list(maintenance.damage(path)) == []
  known = store.chunks()
  for number, count in known.items():
    first = number * ROWS
    found = store.read("margins", slice(first, first + count))
    np.testing.assert_array_equal(found, rows(count)[1])
  if chunk not in known:
    return None
  return store.read("margins", slice(chunk * ROWS, chunk * ROWS + known[chunk]))


@pytest.mark.parametrize("before", [0, 2])
def test_a_chunk_is_known_once_all_of_it_is_there(tmp_path, watch, before) -> None:
  folder = tmp_path / "store"
  store = open_store(folder)
  bank.write(store, 1, *rows(ROWS))
  if before:  # A longer chunk takes the place of a shorter one.
    bank.write(store, 0, *rows(before))
  disk = watch(folder, lambda: bank.write(store, 0, *rows(ROWS)))
  lengths = []
  for copy in disk.copies:
    found = margins_of(copy, 0)
    lengths.append(0 if found is None else len(found))
    assert margins_of(copy, 1) is not None
  seen = [length for length, _ in itertools.groupby(lengths)]
  assert seen == ([before] if before else []) + [0, ROWS]
  for copy in disk.copies[:: max(1, len(disk.copies) // 4)]:
    bank.write(open_store(copy), 0, *rows(ROWS))
    assert len(margins_of(copy, 0)) == ROWS


def test_a_store_is_made_whole_or_not_at_all(tmp_path, watch) -> None:
  folder = tmp_path / "store"
  folder.mkdir()
  disk = watch(folder, lambda: open_store(folder))
  for copy in disk.copies:
    bank.write(open_store(copy), 0, *rows(ROWS))
    assert len(margins_of(copy, 0)) == ROWS


def check_power_cut(disk: Disk, last: Callable[[pathlib.Path], bool]) -> None:
  """That all files would outlive a power cut before the last one can be seen.

  A file's content is on the disk once the file is synced, its name once the folder is.
  """
  named = [i for i, change in enumerate(disk.changes) if change.kind == "place"]
  [end] = [i for i in named if last(disk.changes[i].path)]
  assert end == named[-1]

  def synced(path: pathlib.Path, first: int, stop: int) -> bool:
    some = disk.changes[first:stop]
    return any(change.kind == "sync" and change.path == path for change in some)

  for i, change in enumerate(disk.changes):
    if change.kind == "make":
      assert synced(change.path.parent, i, end), f"{change.path} may have no name"
  for i in named:
    change = disk.changes[i]
    assert synced(change.source, 0, i), f"{change.path} may be empty"
    stop = len(disk.changes) if i == end else end
    assert synced(change.path.parent, i, stop), f"{change.path} may have no name"


def test_a_marker_outlives_no_file_of_its_chunk(tmp_path, watch) -> None:
  folder = tmp_path.resolve() / "store"
  store = open_store(folder)
  disk = watch(folder, lambda: bank.write(store, 0, *rows(ROWS)))
  placed = [change.path for change in disk.changes if change.kind == "place"]
  arrays = {path.relative_to(folder).parts[0] for path in placed}
  assert arrays == {"margins", "masks", "done"}
  check_power_cut(disk, lambda path: path.parent.name == "done")


def test_what_is_appended_to_a_bank_is_durable_when_it_returns(tmp_path, watch) -> None:
  folder = tmp_path.resolve() / "store"
  store = bank.Bank(open_store(folder, label_classes=3))
  seeds = [prng.Stream("verify", i) for i in range(ROWS)]
  masks, margins = rows(ROWS)
  labels = np.random.default_rng(1).integers(0, 3, masks.shape)
  ids = bank.model_ids(masks, labels, seeds)
  disk = watch(folder, lambda: store.append(seeds, masks, labels, margins))
  check_power_cut(disk, lambda path: path.parent.name == "done")
  for copy in disk.copies:
    again = bank.Bank(open_store(copy, label_classes=3))
    again.refresh()
    assert list(maintenance.damage(copy)) == []
    if ids[0] in again:
      np.testing.assert_array_equal(again.margins(ids), margins)
  assert len(again) == ROWS


@pytest.mark.parametrize("kind", ["halves", "json", "checksummed", "arrays"])
def test_a_file_is_what_it_was_or_what_it_becomes(tmp_path, watch, kind) -> None:
  folder = tmp_path.resolve() / "files"
  folder.mkdir()
  path = epath.Path(folder / "file")

  def write(value: int) -> None:
    if kind == "halves":
      with atomic_io.writing(path, "w") as file:
        file.write('{"value":')
        file.flush()
        os.fsync(file.fileno())  # So that a copy is made here, too.
        file.write(f" {value}}}")
    elif kind == "json":
      atomic_io.write_json(path, {"value": value})
    elif kind == "checksummed":
      checksummed_json.write(path, {"value": value})
    else:
      with atomic_io.writing(path) as file:
        np.savez(file, value=np.full(1000, value))

  def read(file: epath.Path) -> int:
    if kind == "arrays":
      found = cache.read(file)["value"]
      assert (found == found[0]).all() and len(found) == 1000
      return int(found[0])
    return checksummed_json.read(file)["value"] if kind == "checksummed" else _json(file)

  write(1)
  disk = watch(folder, lambda: write(2))
  found = [read(epath.Path(copy / "file")) for copy in disk.copies]
  assert found == sorted(found) and set(found) == {1, 2}
  check_power_cut(disk, lambda placed: placed.name == "file")


def _json(path: epath.Path) -> int:
  """The number in a JSON file."""
  return json.loads(path.read_text())["value"]


def test_a_stage_is_finished_once_its_work_is_done(tmp_path, watch) -> None:
  folder = tmp_path / "run"
  opened = Workdir(str(folder))

  def work() -> dict[str, int]:
    with atomic_io.writing(folder / "result", "w") as file:
      file.write("42")
    return {"answer": 42}

  with opened.lock():
    disk = watch(folder, lambda: stages.run(opened, "stage", {"fit": {"tol": 1}}, work))
  finished = []
  for copy in disk.copies:
    again = Workdir(str(copy))
    try:
      assert stages.summary_of(again, "stage")["answer"] == 42
      assert (copy / "result").read_text() == "42"
      finished.append(True)
    except WorkdirError as error:
      assert "lacks a finished stage" in str(error)
      finished.append(False)
  assert finished == sorted(finished) and set(finished) == {False, True}


def placements(disk: Disk, path: pathlib.Path) -> list[int]:
  """Which of the changes give something this path."""
  all_of = enumerate(disk.changes)
  return [i for i, change in all_of if change.kind == "place" and change.path == path]


def check_name_lasts(disk: Disk, path: pathlib.Path) -> None:
  """That the folder is synced after the last time that something gets this path."""
  after = disk.changes[placements(disk, path)[-1] :]
  assert any(change.kind == "sync" and change.path == path.parent for change in after)


def test_a_new_file_has_a_name_that_lasts(tmp_path, watch) -> None:
  folder = tmp_path.resolve() / "new"
  folder.mkdir()
  path = epath.Path(folder / "file")
  disk = watch(folder, lambda: checksummed_json.write(path, {"a": 1}, new=True))
  check_name_lasts(disk, folder / "file")


@pytest.mark.parametrize("times", [1, 2])
def test_a_checkpoint_has_a_name_that_lasts(tmp_path, watch, times) -> None:
  folder = tmp_path.resolve() / "saved"
  folder.mkdir()

  def save() -> None:
    checkpoint.save(folder / "fit", {"x": np.ones(3)}, overwrite=True)

  for _ in range(times - 1):
    save()
  check_name_lasts(watch(folder, save), folder / "fit")


def test_arrays_are_on_the_disk_before_their_record(tmp_path, watch) -> None:
  folder = tmp_path.resolve() / "arrays"
  folder.mkdir()

  def work() -> None:
    made = array_folder.create(folder, {"x": (4, 3)})
    made["x"][:] = 1
    array_folder.finish(folder, made, {})

  disk = watch(folder, work)
  [end] = placements(disk, folder / "record.json")
  before = disk.changes[:end]
  assert any(
    change.kind == "sync" and change.path == folder / "x.npy" for change in before
  )
