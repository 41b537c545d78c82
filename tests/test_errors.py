"""One line for what a user can mend; a traceback for all else, and where to report it."""

import ast
import copy
import dataclasses
import email.message
import errno
import importlib.metadata
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator

import numpy as np
import pytest
from absl.testing import flagsaver

import jaxdm
from experiments.config import settings
from experiments.runtime import launcher, program
from experiments.runtime.workdir import WorkdirError
from jaxdm.data.dataset import DataError
from jaxdm.data.load import load_dataset
from jaxdm.errors import UserError
from jaxdm.storage import checksummed_json
from jaxdm.training import fleet
from jaxdm.training.config import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]


def run(tmp_path: pathlib.Path, work) -> None:
  """Runs a function as a launcher's main."""
  with flagsaver.as_parsed(workdir=str(tmp_path / "run")):
    launcher.Program(lambda _: work(), launcher.open_workdir, "not").start(["prog"])


def raises(error: BaseException):
  """A function that does."""

  def work() -> None:
    raise error

  return work


@pytest.mark.parametrize(
  "error,line",
  [
    (UserError("alpha", "is wrong"), "error: --alpha is wrong"),
    (UserError("sample_weight", "is wrong"), "error: sample_weight is wrong"),
    (UserError(None, "alpha and\n  seed differ"), "error: alpha and seed differ"),
    (DataError("data_dir", ": x"), "error: --data_dir: x"),
    (checksummed_json.StoreError(None, "seed is damaged"), "error: seed is damaged"),
    (WorkdirError("workdir", "=x"), "error: --workdir=x"),
    (OSError(errno.EACCES, "Permission denied", "/x"), "error: [Errno 13] Permission"),
    (OSError(errno.EROFS, "Read-only file system", "/x"), "error: [Errno 30] Read-only"),
    (OSError(errno.ENOSPC, "No space left"), "error: a file cannot be written: the disk"),
    (OSError(errno.EFBIG, "", "/x"), "error: /x cannot be written: it would be larger"),
    (OSError(errno.EDQUOT, "", "/x"), "error: /x cannot be written: the quota of"),
  ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path, error, line) -> None:
  with pytest.raises(SystemExit) as caught:
    run(tmp_path, raises(error))
  assert caught.value.code.startswith(line) and "\n" not in caught.value.code


@pytest.mark.parametrize(
  "work,kind",
  [
    (raises(ValueError("alpha of a function is wrong")), ValueError),
    (lambda: np.concatenate([]), ValueError),
    (lambda: np.zeros(3).reshape(2, 2), ValueError),
    (lambda: json.loads("{"), ValueError),
    (lambda: int("x"), ValueError),
    (lambda: b"\xff".decode(), ValueError),
    (lambda: os.stat("/no/such/file"), FileNotFoundError),
    (raises(OSError("of no number")), OSError),
    (raises(KeyError("x")), KeyError),
    (raises(AssertionError()), AssertionError),
    (raises(RuntimeError("deep inside")), RuntimeError),
  ],
)
def test_every_other_error_is_raised_and_says_where_to_report_it(
  tmp_path, work, kind
) -> None:
  with pytest.raises(kind) as caught:
    run(tmp_path, work)
  [note] = caught.value.__notes__
  assert "report it" in note and importlib.metadata.version("jaxdm") in note


def test_reports_go_to_the_address_that_the_package_names(monkeypatch) -> None:
  about = email.message.Message()
  about["Version"] = "7.8"
  about["Project-URL"] = "Issues, https://example.org/issues"
  monkeypatch.setattr(importlib.metadata, "metadata", lambda _: about)
  said = program._where_to_report.__wrapped__()
  assert "jaxdm 7.8" in said and "to https://example.org/issues." in said


def test_a_traceback_ends_with_the_note(tmp_path) -> None:
  with pytest.raises(ValueError) as caught:
    run(tmp_path, lambda: int("x"))
  *_, error, note = "".join(traceback.format_exception(caught.value)).splitlines()
  assert error.startswith("ValueError: invalid literal") and "Please report it" in note


def test_a_reader_that_reads_no_more_is_no_error() -> None:
  code = (
    "from experiments.runtime import program\n"
    "with program.one_line_errors():\n"
    "  while True: print('a line')"
  )
  writer = subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  assert writer.stdout.readline() == b"a line\n"
  writer.stdout.close()
  assert writer.stderr.read() == b"" and writer.wait() == 1


def test_the_library_raises_what_callers_catch_as_value_errors() -> None:
  for make in (
    lambda: TrainConfig(width=0),
    lambda: fleet.Speed(chunk=0),
    lambda: load_dataset("arrays"),
  ):
    with pytest.raises(ValueError):
      make()


@pytest.mark.parametrize("kind", [UserError, DataError, checksummed_json.StoreError])
@pytest.mark.parametrize(
  "setting,text,message",
  [
    ("alpha", "must be in (0, 1), got 1.5", "alpha must be in (0, 1), got 1.5"),
    ("arrays", "=a.npz cannot be read", "arrays=a.npz cannot be read"),
    ("data_dir", ": a.png is no image", "data_dir: a.png is no image"),
    (None, "a.json is damaged", "a.json is damaged"),
  ],
)
def test_a_users_error_has_its_setting_in_a_field(kind, setting, text, message) -> None:
  error = kind(setting, text)
  for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
    assert type(same) is kind and isinstance(same, ValueError)
    assert (same.setting, str(same)) == (setting, message)


@pytest.mark.parametrize(
  "changes",
  [
    {"test_labels": np.array([[0.5]])},  # `labels` finds it.
    {"test_images": np.zeros((1, 5), np.float32)},  # `Dataset` finds it.
  ],
)
def test_errors_in_data_name_the_setting_that_names_the_data(tmp_path, changes) -> None:
  images = np.zeros((1, 4), np.float32)
  arrays = {"train_images": images, "test_images": images}
  arrays |= {"train_labels": np.zeros(1, int), "test_labels": np.zeros(1, int)}
  np.savez(tmp_path / "mine.npz", **{**arrays, **changes})
  with pytest.raises(DataError) as caught:
    load_dataset("arrays", arrays=str(tmp_path / "mine.npz"))
  assert caught.value.setting == "arrays"
  assert str(caught.value).startswith(f"arrays={tmp_path}/mine.npz: ")
  assert pickle.loads(pickle.dumps(caught.value)).setting == "arrays"


def users_errors() -> Iterator[tuple[str, ast.Call]]:
  """Where the code makes a `UserError` or one of its subclasses."""
  trees = {
    path.relative_to(ROOT): ast.parse(path.read_text())
    for folder in ("jaxdm", "experiments")
    for path in (ROOT / folder).rglob("*.py")
  }
  classes = [
    node
    for tree in trees.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
  ]
  kinds = {"UserError"}
  for _ in range(3):  # A subclass may stand before its base.
    kinds |= {c.name for c in classes if kinds & {name_of(base) for base in c.bases}}
  assert {"StoreError", "OtherArraysError", "DataError", "WorkdirError"} < kinds
  kinds.remove("DamageError")  # Of a file, never of a setting.
  for path, tree in trees.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.Call) and name_of(node.func) in kinds:
        yield f"{path}:{node.lineno}", node


def name_of(node: ast.AST) -> str:
  """The last part of a dotted name."""
  return ast.unparse(node).rpartition(".")[2]


def test_every_users_error_names_its_setting_or_none() -> None:
  """As a literal, or in a variable; and no text of one without begins with a setting."""
  settings: set[str] = set()
  first_words: dict[str, str] = {}
  count = 0
  for where, call in users_errors():
    count += 1
    assert len(call.args) == 2 and not call.keywords, where
    setting, text = call.args
    if isinstance(setting, ast.Name | ast.Attribute):
      continue
    assert isinstance(setting, ast.Constant), f"{where}: name the setting by itself"
    if setting.value is not None:
      assert setting.value.isidentifier(), where
      settings.add(setting.value)
    else:
      first = text.values[0] if isinstance(text, ast.JoinedStr) else text
      word = first.value if isinstance(first, ast.Constant) else ""
      first_words[where] = re.split(r"\W", word)[0]
  assert count > 200 and {"alpha", "workdir", "network", "json"} < settings
  assert {where for where, word in first_words.items() if word in settings} == set()


def raised(path: pathlib.Path) -> list[tuple[str, str, int]]:
  """Function, exception and line of every `raise` in a file."""
  found = []

  def look(node: ast.AST, function: str) -> None:
    if isinstance(node, ast.FunctionDef):
      function = node.name
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
      found.append((function, ast.unparse(node.exc.func), node.lineno))
    for child in ast.iter_child_nodes(node):
      look(child, function)

  look(ast.parse(path.read_text()), "")
  return found


def test_what_programs_and_configs_refuse_is_a_users_error() -> None:
  """Else it would be printed with a traceback, as a fault of the code."""
  files = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "jaxdm").rglob("*.py")]
  assert len(files) > 80
  wrong = [
    f"{path.relative_to(ROOT)}:{line}"
    for path in files
    for function, kind, line in raised(path)
    if kind == "ValueError"
    and ("experiments" in path.relative_to(ROOT).parts or function == "__post_init__")
  ]
  assert wrong == [], "raise jaxdm.errors.UserError there"


WRONG_SETTINGS = [
  *(
    (jaxdm.TrainConfig, name, value, "must be an integer")
    for name in ("width", "batch_size", "epoch_examples", "translate_pixels")
    for value in (1.5, -1, "8", True, None, np.nan)
  ),
  *(
    (jaxdm.TrainConfig, name, value, "must be")
    for name in ("epochs", "peak_learning_rate", "momentum", "peak_at", "weight_decay")
    for value in (-0.1, "0.5", True, None, np.nan, np.inf)
  ),
  (jaxdm.TrainConfig, "compute_dtype", "float64", "must be float32 or bfloat16, got"),
  (jaxdm.TrainConfig, "compute_dtype", None, "must be float32 or bfloat16, got None"),
  *(
    (jaxdm.FitConfig, "seed", seed, "must be an integer in") for seed in (-1, 0.5, 2**32)
  ),
  *((jaxdm.FitConfig, "tol", tol, "must be") for tol in (0, "1", np.inf)),
  (jaxdm.Speed, "chunk", "auto", "must be an integer >= 1, got 'auto'"),
  (jaxdm.Speed, "vmap_width", "all", "must be an integer >= 1, got 'all'"),
  (jaxdm.Speed, "conv_backend", "foo", "must be auto, cpu, im2col or lax, got 'foo'"),
  (jaxdm.Speed, "checkpoint_seconds", "60", "must be a number, got '60'"),
  (jaxdm.SearchConfig, "size_law", "x", "must be grid or surrogate, got 'x'"),
  (settings.CollectConfig, "num_models", 2.5, "must be an integer >= 2, got 2.5"),
  (settings.CollectConfig, "margin_dtype", "int8", "must be float32 or float16, got"),
  (settings.DataConfig, "downscale", 0, "must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize("config, name, value, message", WRONG_SETTINGS)
def test_configs_check_every_setting(config, name, value, message) -> None:
  with pytest.raises(jaxdm.UserError, match=f"^{name} {re.escape(message)}") as raised:
    config(**{name: value})
  assert raised.value.setting == name


def test_text_is_written_and_read_as_utf8() -> None:
  """Whatever the locale; `atomic_io.writing` sees to it for its callers."""
  wrong = []
  for folder in ("jaxdm", "experiments"):
    for path in (ROOT / folder).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
          continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        writes = name == "open" and bool({"w", "a", "w+", "x"} & set(map(str, texts)))
        if (writes or name == "write_text") and "encoding" not in ast.unparse(node):
          wrong.append(f"{os.path.relpath(path, ROOT)}:{node.lineno}")
  assert wrong == []


@pytest.mark.parametrize(
  "make",
  [
    lambda: jaxdm.TrainConfig(batch_size=np.int64(4), epochs=np.float32(2)),
    lambda: jaxdm.SearchConfig(num_sizes=np.int32(9), max_share=np.float32(0.5)),
    lambda: jaxdm.FitConfig(folds=np.int64(3)),
    lambda: jaxdm.Speed(chunk=np.int64(8)),
  ],
)
def test_numbers_of_numpy_become_pythons(make) -> None:
  """Which JSON holds, so that a run with them can be stored."""
  json.dumps(dataclasses.asdict(make()))
