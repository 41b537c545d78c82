"""Workdirs that began with models that others trained, before and after naming images."""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import contents, start

from experiments import (
  brittleness,
  fit_datamodels,
  label_flip,
  pipeline,
  repair,
  report,
  train_subsets,
)
from experiments.config import presets
from experiments.ops import bank
from experiments.runtime import imported_models, launcher
from experiments.runtime.workdir import Workdir
from experiments.studies import efficiency, explain, removal_curves
from jaxdm.datamodels.model import Datamodels

N, T, M = 48, 6, 60
LATER = (brittleness, label_flip, repair, explain, efficiency, removal_curves, pipeline)
OWN = {"width": "4", "epochs": "1", "batch_size": "8", "num_base": "4", "chunk": "4"}
LINEAR = {"network": "linear", "batch_size": "8", "num_base": "2", "chunk": "4"}
LINEAR |= {"epochs": "1", "methods": "datamodel,random"}
SEARCH = {"methods": "datamodel,random", "num_targets": "2", "num_sizes": "2"}
SEARCH |= {"search_models": "1", "verify_seeds": "2", "priors": "none"}


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
  """Masks and margins, in which three examples a target matter."""
  rng = np.random.default_rng(0)
  masks = rng.random((M, N)) < 0.4
  weights = np.zeros((T, N))
  for target in range(T):
    weights[target, 3 * target : 3 * target + 3] = 2.0
  margins = masks @ weights.T + 0.1 * rng.normal(size=(M, T)) + 1
  np.save(tmp_path / "masks.npy", masks)
  np.save(tmp_path / "margins.npy", margins.astype(np.float32))
  return {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}


@pytest.fixture
def images(tmp_path) -> dict[str, str]:
  """Images for them: two classes that can be told apart."""
  rng = np.random.default_rng(1)

  def some(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 100, (count, 8, 8, 1)) + 120 * labels[:, None, None, None]
    return pixels.astype(np.uint8), labels

  arrays = {}
  for split, count in (("train", N), ("test", T)):
    arrays[f"{split}_images"], arrays[f"{split}_labels"] = some(count)
  np.savez(tmp_path / "images.npz", **arrays)
  return {"arrays": str(tmp_path / "images.npz")}


@pytest.mark.parametrize(
  ("given", "stored"),
  [(">f4", "float32"), ("<f8", "float32"), (">f8", "float32"), (">f2", "float16")],
)
def test_margins_of_every_float_type_are_imported(
  tmp_path, files, given, stored, capsys
) -> None:
  margins = np.load(files["margins"]).astype(np.float64) * (1 + 1e-12)
  np.save(files["margins"], margins.astype(given))
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=files, do="import")
  said = "are imported as float32, which has fewer digits" in capsys.readouterr().out
  assert said == given.endswith("8")
  found = imported_models.collection(Workdir(str(folder))).store.read("margins", slice(M))
  assert found.dtype == stored
  np.testing.assert_array_equal(found, margins.astype(stored))


def test_margins_that_no_store_holds_are_not_imported(tmp_path, files) -> None:
  margins = np.load(files["margins"]).astype(np.float64)
  margins[3, 2] = 1e39
  np.save(files["margins"], margins)
  with pytest.raises(SystemExit, match="--margins has numbers that float32 cannot hold"):
    start(bank.PROGRAM, tmp_path / "run", toy=files, do="import")
  assert not (tmp_path / "run" / "bank").exists()


@pytest.fixture(params=["imported", "files"])
def begun(request, files, tmp_path) -> pathlib.Path:
  """A workdir of such models, that no datamodel has been fitted in, or one has."""
  folder, fit = tmp_path / "run", {"num_held_out": "20", "num_lambdas": "4"}
  if request.param == "imported":
    start(bank.PROGRAM, folder, toy=files, do="import")
    start(fit_datamodels.PROGRAM, folder, toy=fit)
  else:
    start(fit_datamodels.PROGRAM, folder, toy=files | fit)
  return folder


def test_what_can_be_done_without_images_is_done(begun, capsys) -> None:
  """And goes on being what it is when the same is asked for again, without a flag."""
  before = contents(begun)
  start(fit_datamodels.PROGRAM, begun, toy={})
  assert {k: v for k, v in contents(begun).items() if k in before} == before
  start(report.PROGRAM, begun, toy={})
  summary = json.loads((begun / "summary.json").read_text())
  lds = summary["fit_datamodels"]["lds"]["estimate"]
  page = (begun / "report.html").read_text()
  assert f"{lds:.3f}" in page and "--dataset" in page and "20 held-out models" in page
  assert summary["fit_datamodels"]["r2"]["estimate"] > 0.9
  # More lambdas are another fit; the models are the same.
  start(fit_datamodels.PROGRAM, begun, toy={}, num_lambdas="5")
  assert "done again" in capsys.readouterr().out


@pytest.mark.parametrize("program", [p.PROGRAM for p in (*LATER, train_subsets)])
def test_what_needs_images_says_so_and_trains_nothing(begun, program) -> None:
  before = contents(begun)
  with pytest.raises(SystemExit) as caught:
    start(program, begun, toy={})
  text = str(caught.value)
  assert text.startswith("error: --workdir=") and "--dataset, --arrays" in text, text
  assert "\n" not in text
  assert contents(begun) == before


@pytest.mark.parametrize(
  "given,message",
  [
    (
      {"dataset": "fashion"},
      "--dataset=fashion has 200 training and 120 test images, but",
    ),
    ({"num_models": "30"}, "--num_models has no effect on imported models"),
    ({"alpha": ".3"}, "--alpha has no effect on imported models"),
    ({"num_held_out": "58"}, "--num_held_out must leave some of 60 models to fit to"),
    ({"batch_size": "32"}, "--batch_size must be at most alpha"),
  ],
)
def test_images_and_flags_must_be_of_these_models(
  files, images, tmp_path, given, message
) -> None:
  start(bank.PROGRAM, tmp_path / "run", toy=files, do="import")
  named = {} if "dataset" in given else images
  toy = OWN | {"num_held_out": "20"} | named | given
  with pytest.raises(SystemExit, match=message):
    start(train_subsets.PROGRAM, tmp_path / "run", toy=toy)


@pytest.mark.slow
def test_with_images_everything_follows(files, images, tmp_path) -> None:
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=files, do="import")
  imported = contents(folder / "bank" / "imported")
  start(train_subsets.PROGRAM, folder, toy=OWN | images | {"num_held_out": "20"})
  start(pipeline.PROGRAM, folder, toy=SEARCH)
  models = Datamodels.load(folder / "datamodels")
  for target in range(T):  # The planted ones, which no model of one's own knows.
    first = np.sort(models.top(target, 3))
    np.testing.assert_array_equal(first, 3 * target + np.arange(3))
  rows = list(csv.DictReader((folder / "brittleness.csv").open()))
  assert {row["method"] for row in rows} == {"datamodel", "random"}
  assert (folder / "report.html").exists()
  assert contents(folder / "bank" / "imported") == imported
  assert sorted(p.name for p in (folder / "bank").iterdir()) == ["changes", "imported"]


def test_imported_models_come_back_from_their_files(
  files, images, tmp_path, capsys
) -> None:
  """Whatever has been done with them since, and from no other files."""
  folder, again = tmp_path / "run", files | {"do": "import"}
  start(bank.PROGRAM, folder, toy=again)
  start(fit_datamodels.PROGRAM, folder, toy={"num_held_out": "20", "num_lambdas": "4"})
  start(train_subsets.PROGRAM, folder, toy=LINEAR | images | {"num_held_out": "20"})
  before = contents(folder / "bank")

  def restore() -> None:
    start(bank.PROGRAM, folder, toy=again)
    assert contents(folder / "bank") == before
    start(bank.PROGRAM, folder, toy={}, do="verify")

  chunk = folder / "bank" / "imported" / "margins" / "c" / "0" / "0"
  chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
  start(bank.PROGRAM, folder, toy={}, do="repair")
  assert "--do=import, with --masks and --margins, brings" in capsys.readouterr().out
  np.save(tmp_path / "other.npy", np.load(files["margins"]) + 1)
  with pytest.raises(SystemExit, match="begun with other files .*digest"):
    start(bank.PROGRAM, folder, toy=again | {"margins": str(tmp_path / "other.npy")})
  restore()
  shutil.rmtree(folder / "bank" / "imported")
  for program, toy in (
    (pipeline.PROGRAM, SEARCH),
    (train_subsets.PROGRAM, {}),
    (bank.PROGRAM, {"do": "repair"}),
  ):
    with pytest.raises(SystemExit, match="has no imported models .*--do=import"):
      start(program, folder, toy=toy)
  assert [path.name for path in (folder / "bank").iterdir()] == ["changes"]
  restore()


def test_what_is_damaged_beside_imported_models_is_repaired(
  files, images, tmp_path, capsys
) -> None:
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=files | {"do": "import"})
  start(train_subsets.PROGRAM, folder, toy=LINEAR | images | {"num_held_out": "20"})
  start(bank.PROGRAM, folder, toy={}, do="verify")
  before = contents(folder / "base_models")
  path = folder / "base_models" / "logits.npy"
  path.write_bytes(path.read_bytes()[:-1] + b"?")
  with pytest.raises(SystemExit):
    start(bank.PROGRAM, folder, toy={}, do="verify")
  assert "base_models/logits.npy" in capsys.readouterr().out
  start(bank.PROGRAM, folder, toy={}, do="repair")
  start(train_subsets.PROGRAM, folder, toy={})
  assert contents(folder / "base_models").keys() == before.keys()
  start(bank.PROGRAM, folder, toy={}, do="verify")


def test_a_lost_record_of_an_import_is_written_again(files, images, tmp_path) -> None:
  """Also where much has been done with the models since."""
  folder, again = tmp_path / "run", files | {"do": "import"}
  start(bank.PROGRAM, folder, toy=again)
  start(train_subsets.PROGRAM, folder, toy=LINEAR | images | {"num_held_out": "20"})
  record = folder / "stages" / "import.json"
  record.write_bytes(b"{")
  with pytest.raises(SystemExit, match="remove it, and .*--do=import"):
    start(train_subsets.PROGRAM, folder, toy={})
  record.unlink()
  start(bank.PROGRAM, folder, toy=again)
  start(train_subsets.PROGRAM, folder, toy={})


def test_damage_to_models_of_changes_is_not_that_of_imported_ones(
  files, images, tmp_path, capsys
) -> None:
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=files, do="import")
  start(train_subsets.PROGRAM, folder, toy=LINEAR | images | {"num_held_out": "20"})
  (folder / "bank" / "changes" / "margins" / "zarr.json").write_bytes(b"{}")
  start(bank.PROGRAM, folder, toy={}, do="repair")
  printed = capsys.readouterr().out
  assert "train_subsets" in printed and "--do=import" not in printed
  assert json.loads((folder / "stages" / "import.json").read_text())["complete"]


def test_a_preset_that_is_named_later_has_all_of_its_settings(
  files, images, tmp_path
) -> None:
  """The fit of imported models has stored those of the default preset."""
  folder = tmp_path / "run"
  start(bank.PROGRAM, folder, toy=files | {"do": "import"})
  start(fit_datamodels.PROGRAM, folder, toy={"num_held_out": "20", "num_lambdas": "4"})
  given = images | {"preset": "cifar10", "batch_size": "8"}
  with flagsaver.as_parsed(workdir=str(folder), **given):
    experiment = launcher.open_run().experiment
  preset = presets.PRESETS["cifar10"]()
  train = dataclasses.replace(preset.train, batch_size=8)
  assert experiment.fit == preset.fit and experiment.train == train
  assert experiment.collect.equal_steps == preset.collect.equal_steps
  assert experiment.collect.num_base == preset.collect.num_base
  assert experiment.collect.num_held_out == 20
