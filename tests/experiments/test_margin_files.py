"""Datamodels of models that others trained."""

import json
import pathlib
import re

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import fit_datamodels
from experiments.ops import bank, bank_files
from experiments.runtime import imported_models
from experiments.runtime.workdir import Workdir
from jaxdm.datamodels.model import Datamodels
from jaxdm.lasso import result


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
  """A bank in the public layout, with two planted weights a target."""
  rng = np.random.default_rng(0)
  masks = rng.random((300, 30)) < 0.5
  weights = np.zeros((4, 30))
  weights[np.arange(4), np.arange(4)] = 2.0
  margins = masks @ weights.T + 0.3 * rng.normal(size=(300, 4))
  np.save(tmp_path / "masks.npy", masks)
  np.save(tmp_path / "margins.npy", margins.astype(np.float16))
  return {
    "masks": str(tmp_path / "masks.npy"),
    "margins": str(tmp_path / "margins.npy"),
    "workdir": str(tmp_path / "run"),
    "num_held_out": "60",
    "num_lambdas": "6",
  }


def start(given: dict[str, str]) -> None:
  with flagsaver.as_parsed(**given):
    fit_datamodels.PROGRAM.start(["prog"])


def test_files_are_fitted_and_judged(files, tmp_path, capsys) -> None:
  start(files)
  assert "300 models on" in capsys.readouterr().out
  models = Datamodels.load(tmp_path / "run/datamodels")
  np.testing.assert_array_equal(models.weights_tn.argmax(axis=1), np.arange(4))
  record = json.loads((tmp_path / "run/stages/fit_datamodels.json").read_text())
  assert record["summary"]["held_out_models"] == 60
  assert record["summary"]["r2"]["estimate"] > 0.9
  assert not (tmp_path / "run/datamodels.parts").exists()


def test_a_slice_of_targets_is_that_slice_of_all(files, tmp_path) -> None:
  start(files)
  part = {**files, "targets": "1:3", "workdir": str(tmp_path / "part")}
  start(part)
  whole = Datamodels.load(tmp_path / "run/datamodels")
  some = Datamodels.load(tmp_path / "part/datamodels")
  np.testing.assert_allclose(some.weights_tn, whole.weights_tn[1:3], atol=1e-5)


def test_models_without_finite_margins_are_named_and_can_be_dropped(files, capsys):
  margins = np.load(files["margins"])
  margins[[5, 17], 1] = np.nan, np.inf
  np.save(files["margins"], margins)
  with pytest.raises(SystemExit, match="2 models are not finite: rows 5, 17"):
    start(files)
  start({**files, "drop_nonfinite": "true"})
  assert "2 models left out" in capsys.readouterr().out


@pytest.mark.parametrize("do", ["fit", "import"])
def test_a_target_without_margins_leaves_the_others_usable(
  files, tmp_path, capsys, do
) -> None:
  margins = np.load(files["margins"])
  start({**files, "workdir": str(tmp_path / "others")})
  lost = np.insert(margins, 1, np.nan, axis=1)
  lost[7:20, 1] = 1.0  # A few models have one.
  np.save(files["margins"], lost)
  asked = files
  if do == "import":
    look_after({name: files[name] for name in ("workdir", "masks", "margins")}, "import")
    asked = {k: v for k, v in files.items() if k not in ("masks", "margins")}
  with pytest.warns(UserWarning, match="left out of the scores: 1 of 5 targets"):
    start(asked)
  assert "1 targets without margins" in capsys.readouterr().out
  found, others = (
    Datamodels.load(tmp_path / name / "datamodels") for name in ("run", "others")
  )
  known = [0, 2, 3, 4]
  np.testing.assert_array_equal(found.weights_tn[known], others.weights_tn)
  np.testing.assert_array_equal(found.intercepts_t[known], others.intercepts_t)
  assert not found.weights_tn[1].any() and np.isnan(found.intercepts_t[1])
  assert found.status_t[1] == result.Status.NONFINITE
  one, two = (
    json.loads((tmp_path / name / "stages/fit_datamodels.json").read_text())["summary"]
    for name in ("run", "others")
  )
  assert one["lds"] == two["lds"] and one["held_out_models"] == 60
  assert (one["targets_left_out"], two["targets_left_out"]) == (1, 0)
  assert one["largest_relative_gap"] == two["largest_relative_gap"]
  assert one["unconverged_targets"] == 0


def damaged(files, name, change) -> None:
  array = np.load(files[name])
  np.save(files[name], change(array))


@pytest.mark.parametrize(
  "name,change,message",
  [
    (
      "masks",
      lambda a: a.astype(np.uint8) * 2,
      "--masks must be bool, or numbers 0 and 1, got 2",
    ),
    ("masks", lambda a: a * 0.5, "--masks must be bool, or numbers 0 and 1, got 0.5"),
    ("masks", lambda a: a[0], "must hold one matrix"),
    ("masks", lambda a: a[:-1], "--margins has 300 rows but --masks has 299"),
    ("margins", lambda a: a.astype(int), "--margins must hold floats"),
    ("margins", lambda a: a[:, :0], "must hold one matrix that is not empty"),
  ],
)
def test_bad_files_get_one_line(name, change, message, files, tmp_path) -> None:
  damaged(files, name, change)
  with pytest.raises(SystemExit, match=re.escape(message)):
    start(files)
  assert not (tmp_path / "run").exists()


def test_a_truncated_file_is_named(files, tmp_path) -> None:
  path = tmp_path / "margins.npy"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(SystemExit, match="--margins=.* is not a whole .npy file"):
    start(files)


@pytest.mark.parametrize(
  "given,message",
  [
    ({"targets": "2:9"}, "--targets must lie in 0:4, got '2:9'"),
    ({"targets": "2:2"}, "--targets must lie in 0:4, got '2:2'"),
    ({"epochs": "3"}, "--epochs has no effect on models that others trained"),
    ({"num_models": "200"}, "--num_models has no effect on models that others"),
    ({"dataset": "fashion"}, "--dataset has no effect on models that others trained"),
    ({"methods": "random"}, "--methods has no effect on models that others trained"),
    ({"vmap_width": "2"}, "--vmap_width has no effect on models that others trained"),
    ({"arrays": "x.npz"}, "--arrays has no effect on models that others trained"),
    ({"targets": "3"}, "--targets must be a:b, got '3'"),
    ({"masks": None}, "--masks and --margins are needed together"),
    ({"masks": "none.npy"}, "--masks=none.npy is not a whole .npy file"),
    ({"num_held_out": "298"}, "--num_held_out must leave some of 300 models"),
  ],
)
def test_bad_flags_get_one_line(given, message, files, tmp_path) -> None:
  asked = {k: v for k, v in {**files, **given}.items() if v is not None}
  with pytest.raises(SystemExit, match=re.escape(message)):
    start(asked)
  assert not (tmp_path / "run").exists()


def look_after(given: dict[str, str], do: str) -> None:
  with flagsaver.as_parsed(**given, do=do):
    bank.PROGRAM.start(["prog"])


def test_imported_models_are_fitted_as_the_files_are(files, tmp_path, capsys) -> None:
  start({**files, "targets": "1:4"})
  taken = {"workdir": str(tmp_path / "taken"), "num_held_out": "60"}
  named = {name: files[name] for name in ("masks", "margins")}
  look_after({**taken, **named}, "import")
  # Nothing more is needed of the files.
  for path in named.values():
    pathlib.Path(path).unlink()
  start({**taken, "targets": "1:4", "num_lambdas": "6"})
  one, two = (
    Datamodels.load(tmp_path / name / "datamodels") for name in ("run", "taken")
  )
  np.testing.assert_array_equal(one.weights_tn, two.weights_tn)
  capsys.readouterr()
  look_after(taken, "show")
  assert re.search(r"imported +300 ", capsys.readouterr().out)
  look_after(taken, "verify")
  path = tmp_path / "taken/bank/imported/margins/c/0/0"
  path.write_bytes(path.read_bytes()[:-1] + b"?")
  with pytest.raises(SystemExit):
    look_after(taken, "verify")
  assert "imported/margins/c/0/0: its digest" in capsys.readouterr().out
  look_after(taken, "repair")
  with pytest.raises(SystemExit, match="python -m experiments.ops.bank --do=import"):
    start({**taken, "targets": "1:4", "num_lambdas": "6"})
  with pytest.raises(SystemExit, match="do=export is for models of one's own"):
    look_after({**taken, "other": "x"}, "export")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_import_keeps_models_where_a_target_has_no_margins(
  files, tmp_path, value, capsys
) -> None:
  damaged(files, "margins", lambda a: np.where(np.arange(4) == 2, value, a))
  margins = np.load(files["margins"])
  folder = tmp_path / "taken"
  look_after(files | {"workdir": str(folder)}, "import")
  assert "1 targets without margins" in capsys.readouterr().out
  store = imported_models.collection(Workdir(str(folder))).store
  stored = store.read("margins", slice(0, 300))
  np.testing.assert_array_equal(stored[:, [0, 1, 3]], margins[:, [0, 1, 3]])
  assert np.isnan(stored[:, 2]).all()


def test_an_import_continues_and_ends_with_the_same_bytes(files, tmp_path) -> None:
  monkey = pytest.MonkeyPatch()
  monkey.setattr(bank_files, "_IMPORTED_ROWS", 64)
  asked = {**files, "workdir": str(tmp_path / "a")}
  look_after(asked, "import")
  written = []

  def write(*args, original=bank.bank.write) -> None:
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(original(*args))

  monkey.setattr(bank_files.bank, "write", write)
  with pytest.raises(KeyboardInterrupt):
    look_after({**asked, "workdir": str(tmp_path / "b")}, "import")
  assert len(list((tmp_path / "b/bank/imported/done").iterdir())) == 2
  monkey.undo()
  monkey.setattr(bank_files, "_IMPORTED_ROWS", 64)
  look_after({**asked, "workdir": str(tmp_path / "b")}, "import")
  monkey.undo()
  one, two = (
    {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    for root in (tmp_path / "a/bank", tmp_path / "b/bank")
  )
  assert one == two and len(one) == 1 + 2 + 5 * 3


def test_other_files_in_a_used_workdir_are_refused(files) -> None:
  start(files)
  damaged(files, "margins", lambda a: a + 1)
  with pytest.raises(SystemExit, match="begun with other files"):
    start(files)


def test_files_of_other_examples_are_others_whatever_the_targets(files) -> None:
  start({**files, "targets": "0:2"})
  damaged(files, "masks", lambda a: a[:, :-1])
  with pytest.raises(SystemExit, match="begun with other files"):
    start({**files, "targets": "2:4"})
