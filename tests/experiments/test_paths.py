"""Any path, disk and locale: names as people have them, links, folders that are read."""

import csv
import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import PIL.Image
import pytest
from absl.testing import flagsaver
from etils import epath
from support import programs
from support.tables import dataset, read_twice

from experiments import report
from experiments.ops import status
from experiments.runtime import launcher, stages
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.data.dataset import DataError
from jaxdm.data.folder import load_folder
from jaxdm.report import tables
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

ROOT = pathlib.Path(__file__).parents[2]
CAN_MOUNT = (
  shutil.which("unshare")
  and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
)

# Names of files and classes on disk, and the text that stands for them in tables.
NAMES = {
  b"a b": "a b",
  b"a,b;c": "a,b;c",
  b'"a" [b]*?': '"a" [b]*?',
  b"two\nlines": "two\nlines",
  b"two\rlines": "two\rlines",
  b"100%s {0} $x$": "100%s {0} $x$",
  b"\xc3\xa4 \xe2\x89\xa5 \xe7\x8c\xab": "\u00e4 \u2265 \u732b",
  b"latin \xe4": "latin \\xe4",
  b"\xff\xfe": "\\xff\\xfe",
  b"~": "~",
  b"#&<b>": "#&<b>",
}


def images(root: pathlib.Path) -> list[str]:
  """A folder of images with such names, and the text of their paths, in order."""
  classes = sorted(NAMES)[:2] + sorted(NAMES)[-2:]
  texts = []
  for split in (b"train", b"test"):
    for name in classes:
      folder = os.path.join(os.fsencode(root), split, name)
      os.makedirs(folder)
      for place, file in enumerate(sorted(NAMES)):
        path = os.path.join(folder, file + b".png")
        with open(path, "wb") as opened:
          PIL.Image.new("L", (4, 4), 10 * place).save(opened, "png")
        texts.append(f"{split.decode()}/{NAMES[name]}/{NAMES[file]}.png")
  return texts


def open_store(path: pathlib.Path) -> store_lib.Store:
  """A store of chunks of 4 models on 9 examples, with 3 targets."""
  return bank.open_store(path, num_targets=3, num_train=9, settings={}, rows_per_chunk=4)


def test_names_in_any_encoding_are_read_and_come_back(tmp_path) -> None:
  expected = images(tmp_path / "mine")
  found = load_folder(tmp_path / "mine")
  assert [*found.train_sources, *found.test_sources] == expected
  values = [image.max() for image in found.train_images]
  assert values == 4 * [10 * place for place in range(len(NAMES))]
  path = epath.Path(tmp_path / "examples.csv")
  tables.write_examples(path, found)
  assert [row["source"] for row in read_twice(path)] == expected
  assert {row["class"] for row in read_twice(path)} == set(found.class_names)
  json.dumps(found.class_names, ensure_ascii=False).encode()


_IN_A_LOCALE = """
import sys
from etils import epath
from experiments.runtime import program
from jaxdm.data.folder import load_folder
from jaxdm.storage import atomic_io
from jaxdm.report import page, tables

def main(argv):
  found = load_folder(sys.argv[1])
  tables.write_examples(epath.Path("examples.csv"), found)
  atomic_io.write_json(epath.Path("names.json"), found.class_names)
  with atomic_io.writing(epath.Path("page.html"), "w") as file:
    names = [page.Section(name, name) for name in found.class_names]
    file.write(page.page("\\u2265", names))
  print(found.fingerprint(), *found.class_names, "\\u2265", "\\udcff")

sys.argv[2:] = []
program.run(lambda argv: main(argv))
"""


@pytest.mark.slow
def test_locale_and_terminal_change_no_byte_and_end_no_run(tmp_path) -> None:
  images(tmp_path / "mine")
  (tmp_path / "run.py").write_text(_IN_A_LOCALE, encoding="utf-8")
  plain = {
    k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYT"))
  }
  found = []
  for number, told in enumerate(
    [
      {"PYTHONUTF8": "1"},
      {"LC_ALL": "C"},
      {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
      {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"},
    ]
  ):
    folder = tmp_path / str(number)
    folder.mkdir()
    done = subprocess.run(
      [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "mine")],
      cwd=folder,
      env={**plain, **told, "PYTHONPATH": str(ROOT)},
      capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    fingerprint = done.stdout.split()[0]
    found.append((fingerprint, programs.contents(folder)))
  assert len(found[0][1]) == 4 and all(other == found[0] for other in found)


@pytest.mark.parametrize(
  "name", ["[1] *?", "a\\b", "\u00e4 \u2265", "two\nlines", "100%s {0}", "\udcff"]
)
def test_all_that_is_kept_may_be_in_any_folder(tmp_path, name) -> None:
  folder, values = tmp_path / name, np.arange(12, dtype=np.float32).reshape(4, 3)
  bank.write(open_store(folder / "store"), 0, np.eye(4, 9, dtype=bool), values)
  found = open_store(folder / "store").read("margins", slice(0, 4))
  np.testing.assert_array_equal(found, values)
  assert list(maintenance.damage(folder / "store")) == []
  for _ in range(2):
    checkpoint.save(folder / "fit", {"values": values}, overwrite=True)
  np.testing.assert_array_equal(checkpoint.load(folder / "fit")["values"], values)
  parts = cache.Cache(folder / "parts", {})
  np.testing.assert_array_equal(parts("x", lambda: {"x": values})["x"], values)
  arrays = array_folder.create(folder / "arrays", {"x": (4, 3)})
  arrays["x"][:] = values
  array_folder.finish(folder / "arrays", arrays, {})
  read = array_folder.ArrayFolder(folder / "arrays", {}).read_verified("x")
  np.testing.assert_array_equal(read, values)


def test_a_flag_that_nobody_gave_is_not_named(tmp_path) -> None:
  first = Workdir(str(tmp_path / "run"))
  with first.lock():
    stages.run(first, "stage", {}, dict)
  (tmp_path / "run" / "bank").rmdir()
  (tmp_path / "run" / "bank").symlink_to(tmp_path / "unmounted")
  again = Workdir(str(tmp_path / "run"))
  with pytest.raises(WorkdirError) as caught, again.lock():
    stages.run(again, "next", {}, dict)
  assert re.match(
    "workdir: .*/run/bank is not there, and the stores .*", str(caught.value)
  )
  assert "bank_dir" not in str(caught.value)


@pytest.mark.parametrize("place", ["class_names", "train_sources", "test_sources"])
def test_text_that_no_table_can_hold_is_refused(place) -> None:
  labels = np.arange(2)
  with pytest.raises(DataError, match=rf"{place} must be text .*\\udcff"):
    dataset(labels, labels, **{place: ("a", "b\udcff")})


def test_links_are_what_they_lead_to(tmp_path) -> None:
  for split in ("train", "test"):
    for name, value in (("a", 10), ("b", 20)):
      folder = tmp_path / "real" / split / name
      folder.mkdir(parents=True)
      PIL.Image.new("L", (4, 4), value).save(folder / "1.png")
  linked = tmp_path / "linked"
  (linked / "train" / "a").mkdir(parents=True)
  (linked / "train" / "a" / "1.png").symlink_to(tmp_path / "real/train/a/1.png")
  (linked / "train" / "b").symlink_to(tmp_path / "real/train/b")
  (linked / "test").symlink_to(tmp_path / "real/test")
  (tmp_path / "link").symlink_to(linked)
  one, two = (load_folder(tmp_path / name) for name in ("real", "link"))
  assert one.fingerprint() == two.fingerprint()
  assert one.train_sources == two.train_sources
  (linked / "train" / "a" / "2.png").symlink_to(tmp_path / "gone.png")
  with pytest.raises(DataError, match=r"2\.png is no image .* No such file"):
    load_folder(linked)
  # A workdir.
  (tmp_path / "disk").mkdir()
  (tmp_path / "run").symlink_to(tmp_path / "disk")
  opened = Workdir(str(tmp_path / "run"))
  with opened.lock():
    stages.run(opened, "stage", {}, lambda: {"answer": 42})
  assert stages.summary_of(Workdir(str(tmp_path / "disk")), "stage")["answer"] == 42


LACKING = [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]


def without_links(monkeypatch, number: int) -> None:
  """A disk without hard links, on which a folder cannot be synced either."""
  sync = os.fsync

  def link(*_, **__) -> None:
    raise OSError(number, os.strerror(number))

  def fsync(descriptor: int) -> None:
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
      raise OSError(errno.EINVAL, "Invalid argument")
    sync(descriptor)

  monkeypatch.setattr(os, "link", link)
  monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", LACKING)
def test_stores_need_no_hard_links(tmp_path, monkeypatch, number) -> None:
  without_links(monkeypatch, number)
  rng = np.random.default_rng(0)
  masks, margins = rng.random((4, 9)) < 0.5, rng.normal(size=(4, 3)).astype(np.float32)
  for _ in range(2):
    store = open_store(tmp_path / "store")
    bank.write(store, 0, masks, margins)
  np.testing.assert_array_equal(store.read("margins", slice(0, 4)), margins)
  assert list(maintenance.damage(tmp_path / "store")) == []
  assert not list(tmp_path.rglob("*.partial"))
  checksummed_json.write(epath.Path(tmp_path / "note.json"), {"first": True}, new=True)
  checksummed_json.write(epath.Path(tmp_path / "note.json"), {"first": False}, new=True)
  assert checksummed_json.read(epath.Path(tmp_path / "note.json")) == {"first": True}


@pytest.mark.parametrize("has_links", [True, False])
def test_of_several_writers_one_wins_and_all_see_it(
  tmp_path, monkeypatch, has_links
) -> None:
  if not has_links:
    without_links(monkeypatch, errno.EPERM)
    rename = os.rename

    def slow(*names) -> None:
      time.sleep(0.01)  # So that all would have looked before one has renamed.
      rename(*names)

    monkeypatch.setattr(os, "rename", slow)
  path, seen, ready = epath.Path(tmp_path / "note"), [], threading.Barrier(8)

  def write(number: int) -> None:
    ready.wait()
    atomic_io.write_new(path, f"writer {number}".encode())
    seen.append(path.read_bytes())

  threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(seen) == 8 and len(set(seen)) == 1
  assert os.listdir(tmp_path) == ["note"]


def test_a_disk_that_fails_is_no_disk_without_links(tmp_path, monkeypatch) -> None:
  without_links(monkeypatch, errno.EIO)
  with pytest.raises(OSError, match="Input/output error"):
    atomic_io.write_new(epath.Path(tmp_path / "note"), b"")
  assert os.listdir(tmp_path) == []


def test_what_reads_makes_nothing_and_keeps_writers_out(tmp_path) -> None:
  reader = Workdir(str(tmp_path / "run"))
  with reader.lock_for_reading():
    assert not (tmp_path / "run").exists()
  with reader.lock():
    pass
  before = programs.contents(tmp_path)
  with reader.lock_for_reading():
    for again in (reader.lock_for_reading, reader.lock):
      with pytest.raises(WorkdirError, match="in use by another"), again():
        pass
  assert programs.contents(tmp_path) == before


def test_a_folder_of_stores_is_used_by_one_experiment_at_a_time(tmp_path) -> None:
  disk = tmp_path / "disk"
  one, other = (Workdir(str(tmp_path / name), str(disk)) for name in ("one", "other"))
  in_use = pytest.raises(WorkdirError, match="disk is in use by another experiment")
  with one.lock(), in_use, other.lock():
    pass
  # Processes that share the work of an experiment may have workdirs of their own.
  with one.lock(0, 2), other.lock(1, 2):
    pass
  with one.lock(0, 2), in_use, other.lock(0, 2):
    pass
  with other.lock(), Workdir(str(tmp_path / "third")).lock():
    pass
  assert {path.name for path in disk.iterdir()} <= {
    ".lock",
    ".lock-0-of-2",
    ".lock-1-of-2",
  }


def test_the_stores_inside_a_workdir_are_used_by_it_alone(tmp_path) -> None:
  one = Workdir(str(tmp_path / "one"))
  with one.lock():
    (one.path / "bank").mkdir()
  other = Workdir(str(tmp_path / "other"), str(tmp_path / "one" / "bank"))
  with (
    one.lock(),
    pytest.raises(WorkdirError, match="bank is in use by another experiment"),
    other.lock(),
  ):
    pass
  with (
    other.lock(),
    pytest.raises(WorkdirError, match="one is in use by another process"),
    one.lock(),
  ):
    pass
  with one.lock():
    pass


def test_a_folder_of_stores_that_is_not_mounted_is_not_made(tmp_path) -> None:
  disk = tmp_path / "disk"
  opened = Workdir(str(tmp_path / "run"), str(disk))
  with opened.lock():
    stages.run(opened, "stage", {}, dict)
  shutil.rmtree(disk)
  with opened.lock():
    assert not disk.exists()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs user namespaces")
def test_read_only_workdirs_are_read(finished, tmp_path) -> None:
  folder, out = tmp_path / "read only", tmp_path / "out"
  folder.mkdir()
  asked = [
    ("ops.status", []),
    ("ops.bank", ["--do=show"]),
    ("ops.bank", ["--do=verify"]),
    ("ops.bank", ["--do=export", f"--other={out}/matrices"]),
    ("report", [f"--out={out}/report"]),
    ("report", []),
    ("train_subsets", []),
    ("ops.bank", ["--do=repair"]),
  ]
  parts = [[name, [f"--workdir={folder}", *more], ""] for name, more in asked]
  # One after the other: each keeps the others out.
  alone = "import os, runpy; os.cpu_count = lambda: 1; "
  alone += "runpy.run_path('tests/support/fork_programs.py', run_name='__main__')"
  script = f"""
    mount --bind '{finished}' '{folder}' && mount -o remount,ro,bind '{folder}' &&
    "$0" -c "$1"
  """
  command = ["unshare", "-rm", "sh", "-c", script, sys.executable, alone]
  found = programs.in_forks(parts, command)
  for one, (name, more) in zip(found[:5], asked, strict=False):
    assert one["status"] == 0, (name, more, one)
  assert "every byte is as it was written" in found[2]["out"]
  masks = np.load(out / "matrices" / "masks.npy")
  assert masks.shape == (48, 48) and (masks.sum(axis=1) == 24).all()
  assert "<html" in (out / "report" / "report.html").read_text(encoding="utf-8")
  for one in found[5:]:
    [line] = one["err"].strip().splitlines()
    assert one["status"] == 1 and line.startswith(
      f"error: --workdir={folder} cannot be w"
    )
  assert "--out=" in found[5]["err"]


_FULL = """
import sys, numpy as np
from jaxdm.storage import checkpoint
try:
  checkpoint.save(sys.argv[1] + "/x", {"x": np.random.default_rng(0).random(10**6)})
except OSError as error:
  print("number", error.errno)
"""


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs user namespaces")
def test_a_full_disk_is_no_fault_of_the_code(tmp_path) -> None:
  """Orbax and TensorStore raise ValueError, and say there what it was."""
  script = f'mount -t tmpfs -o size=1m none "{tmp_path}" && "$0" -c "$1" "{tmp_path}"'
  done = subprocess.run(
    ["unshare", "-rm", "sh", "-c", script, sys.executable, _FULL],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.stdout == f"number {errno.ENOSPC}\n", done.stderr


@pytest.mark.slow
def test_the_report_shows_the_settings_of_the_searches(finished, tmp_path) -> None:
  """Whatever flags its own command has, and later searches have had."""
  folder, expected = tmp_path / "run", finished / "summary.json"
  shutil.copytree(finished, folder)
  record = epath.Path(folder) / "stages" / "label_flip.json"
  content = checksummed_json.read(record)
  content["settings"]["search"]["confidence"] = 0.75
  checksummed_json.write(record, content)
  given = {"max_share": "0.125", "folds": "2", "search_targets": "0"}
  with flagsaver.as_parsed(workdir=str(folder), out=str(tmp_path / "out"), **given):
    report.PROGRAM.start(["prog"])
  settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]
  assert settings.pop("search of label flips") == {"confidence": 0.75}
  assert settings == json.loads(expected.read_text())["settings"]
  page = (tmp_path / "out" / "report.html").read_text()
  assert "other settings than those for removals: confidence = 0.75" in page


@pytest.mark.slow
def test_the_report_may_be_elsewhere(finished, tmp_path) -> None:
  """And says which files its pictures show."""
  out = tmp_path / "new" / "report"
  with flagsaver.as_parsed(workdir=str(finished), out=str(out)):
    report.PROGRAM.start(["prog"])
  assert {path.name for path in out.iterdir()} == {
    "figures",
    "report.html",
    "summary.json",
  }
  made = {path.name for path in (out / "figures").iterdir()}
  assert made == {path.name for path in (finished / "figures").iterdir()}
  with flagsaver.as_parsed(workdir=str(finished), out="/proc/none"):
    with pytest.raises(SystemExit, match="^error: --out=/proc/none cannot be written"):
      report.PROGRAM.start(["prog"])
    opened = launcher.open_run()
  sources = opened.dataset.train_sources
  with open(finished / "brittleness.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
      changed = [int(i) for i in row["examples"].split()][: int(row["k_tried"])]
      assert json.loads(row["changed_sources"]) == [sources[i] for i in changed]
      assert row["target_source"].startswith("fashion:test[")
  text = (out / "report.html").read_text(encoding="utf-8")
  for caption in json.loads((out / "summary.json").read_text())["captions"].values():
    assert caption in text and "fashion:test[" in caption


def test_logs_that_are_no_text_are_left_out(tmp_path) -> None:
  (tmp_path / "logs").mkdir()
  line = dict.fromkeys(status._KEYS, 3)
  content = json.dumps(line).encode() + b"\n\xff\xfe\n"
  (tmp_path / "logs" / "host-0-of-1.jsonl").write_bytes(content)
  assert status.last_lines(epath.Path(tmp_path)) == [line]


def test_home_directories_are_expanded(tmp_path, monkeypatch) -> None:
  home, here = tmp_path / "home", tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  monkeypatch.setenv("HOME", str(home))
  checkpoint.save("~/fit", {"x": np.zeros(3)})
  assert checkpoint.load("~/fit").keys() == {"x"}
  cache.Cache("~/cache", {})
  open_store("~/store")
  assert sorted(os.listdir(home)) == ["cache", "fit", "store"] and not os.listdir(here)
  for path in ("./~", "~no-such-user/x", "a", here / "b", "gs://bucket/~"):
    once = atomic_io.as_path(path)
    assert os.path.abspath(once) == os.path.abspath(path)
    assert atomic_io.as_path(once) == once and not os.fspath(once).startswith("~")
