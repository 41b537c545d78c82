"""One line for what a user can mend; a traceback for all else, and where to report it."""

import ast
import email.message
import errno
import importlib.metadata
import json
import os
import pathlib
import traceback

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.runtime import launcher, program
from experiments.runtime.workdir import WorkdirError
from jaxdm.data.dataset import DataError
from jaxdm.data.load import load_dataset
from jaxdm.errors import UserError
from jaxdm.storage import checksummed_json
from jaxdm.training import fleet
from jaxdm.training.recipe import TrainConfig

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
    (UserError("alpha is wrong"), "error: --alpha is wrong"),
    (UserError("no flag's\n  name"), "error: no flag's name"),
    (DataError("data_dir: x"), "error: --data_dir: x"),
    (checksummed_json.StoreError("x is damaged"), "error: x is damaged"),
    (WorkdirError("workdir=x"), "error: --workdir=x"),
    (OSError(errno.EACCES, "Permission denied", "/x"), "error: [Errno 13] Permission"),
    (OSError(errno.EROFS, "Read-only file system", "/x"), "error: [Errno 30] Read-only"),
    (OSError(errno.ENOSPC, "No space left"), "error: --workdir's disk is full; make"),
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


def test_the_library_raises_what_callers_catch_as_value_errors() -> None:
  for make in (
    lambda: TrainConfig(width=0),
    lambda: fleet.Speed(chunk=0),
    lambda: load_dataset("arrays"),
  ):
    with pytest.raises(ValueError):
      make()


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
