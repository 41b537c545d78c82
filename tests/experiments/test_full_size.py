"""Predictions at full size, the archive of images, and the script for a device."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest
from absl.testing import flagsaver
from support.prepared import write_tfds

from experiments.ops import image_files
from experiments.studies import full_size
from jaxdm.data.load import load_dataset
from jaxdm.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


def test_targets_are_right_in_most_models_and_hold_least() -> None:
  margins = np.array([[0.1, 3.0, 1.0, -1.0, 0.5], [0.3, 2.0, 2.0, 5.0, 0.4]])
  np.testing.assert_array_equal(full_size.weakest_targets(margins, 2), [0, 4])
  with pytest.raises(UserError, match="weakest must be at most 4, got 5"):
    full_size.weakest_targets(margins, 5)


def test_three_quarters_of_the_models_and_their_mean_must_be_right() -> None:
  margins = np.array([[1.0, 1, 2, 1], [1, 1, 2, 1], [1, 1, 2, -1], [-1, -9, 2, -0.5]])
  np.testing.assert_array_equal(full_size.weakest_targets(margins, 2), [0, 2])
  with pytest.raises(UserError, match="weakest must be at most 2, got 3"):
    full_size.weakest_targets(margins, 3)


def test_a_target_that_half_of_the_models_get_right_is_not_mostly_wrong() -> None:
  change = full_size.Change("influence", "removed", 3, 1, None, None)
  found = full_size.outcome(change, np.array([[1.0, -1.0], [-1.0, -1.0]]))
  assert found["mostly_wrong"] == 0.5


def test_every_target_loses_its_first_images_at_once() -> None:
  labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
  rankings = {
    "influence": [np.array([0, 1, 2]), np.array([3, 0, 4])],
    "random": [np.array([2, 1, 0]), np.array([5, 4, 3])],
  }
  found = full_size.all_changes(labels, rankings, np.array([1, 2]), [1, 2], [2])
  told = [(c.method, c.action, c.size, list(np.flatnonzero(~c.mask_n))) for c in found]
  assert told == [
    ("", "removed", 0, []),
    ("influence", "removed", 1, [0, 3]),
    ("influence", "removed", 2, [0, 1, 3]),
    ("random", "removed", 1, [2, 5]),
    ("random", "removed", 2, [1, 2, 4, 5]),
    ("influence", "relabelled", 2, []),
  ]
  # Image 0 is of both targets: the first one's label counts.
  np.testing.assert_array_equal(found[-1].labels_n, [1, 1, 0, 2, 1, 1])
  assert all((c.labels_n == labels).all() for c in found[:-1])
  assert [c.changed for c in found] == [0, 2, 3, 2, 4, 3]


def test_a_line_of_the_table_is_about_targets() -> None:
  change = full_size.Change("influence", "removed", 3, 1, None, None)
  margins = np.array([[1.0, -1.0, -2.0], [3.0, 1.0, -4.0]])
  found = full_size.outcome(change, margins)
  assert (found["right"], found["margin"]) == (0.5, pytest.approx(-1 / 3))
  assert found["right_error"] == pytest.approx(0.5 / 3**0.5)
  assert (found["changed"], found["mostly_wrong"]) == (1, pytest.approx(1 / 3))
  line = full_size.table([found]).splitlines()[-1]
  assert line.startswith("| influence | removed | 3 | 0.50 +- 0.29 | -0.33 +- ")


def test_an_archive_holds_a_data_sets_own_files(tmp_path) -> None:
  home = tmp_path / "tfds" / "toy" / "1.0.0"
  write_tfds(home)
  count = image_files.write_archive("toy", str(tmp_path / "tfds"), f"{tmp_path}/a.tar.gz")
  with tarfile.open(tmp_path / "a.tar.gz") as file:
    file.extractall(tmp_path / "images", filter="data")
  ours = load_dataset("folder", data_dir=str(tmp_path / "images"))
  theirs = load_dataset("toy", data_dir=str(tmp_path / "tfds"))
  assert count == len(theirs.train_labels) + len(theirs.test_labels)
  for split in ("train", "test"):
    names = getattr(ours, f"{split}_sources")
    order = [int(name.rpartition("/")[2]) for name in names]
    images, labels = (getattr(theirs, f"{split}_{what}") for what in ("images", "labels"))
    np.testing.assert_array_equal(getattr(ours, f"{split}_images"), images[order])
    np.testing.assert_array_equal(getattr(ours, f"{split}_labels"), labels[order])
  assert not (tmp_path / "a.tar.gz.part").exists()
  with pytest.raises(UserError, match="dataset 'none' is none that TFDS knows"):
    image_files.write_archive("none", str(tmp_path), f"{tmp_path}/b.tar.gz")


@pytest.fixture
def archive(tmp_path) -> pathlib.Path:
  """Bright and dark images of 8x8 pixels."""
  import PIL.Image

  rng = np.random.default_rng(0)
  for split, count in (("train", 24), ("test", 8)):
    for level, name in ((90, "dark"), (160, "light")):
      folder = tmp_path / "images" / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        pixels = np.clip(rng.normal(level, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
  with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as file:
    for split in ("train", "test"):
      file.add(tmp_path / "images" / split, split)
  return tmp_path / "images.tar.gz"


@pytest.mark.slow
def test_the_script_for_a_device_runs_from_end_to_end(tmp_path, archive) -> None:
  arguments = {
    "ARGS_tests": "-k batch_norm_and_relu",
    "ARGS_trainer": "--sides=fleet --rounds=1 --rows=w8-8x8-b32 --seconds=0.01",
    "ARGS_lasso": "--sides=jaxdm --shapes=20x60x4 --distances=1e-3 --path_points=4",
    "ARGS_full_size": "--width=4 --batch_size=8 --epochs=2 --compute_dtype=float32 "
    "--weakest=2 --fresh_models=2 --num_base=4 --remove=3 --relabel=2 --gradient_dim=64",
  }
  out = tmp_path / "out"
  ran = subprocess.run(
    ["bash", "experiments/bench/device.sh", out, archive],
    cwd=ROOT,
    env={**os.environ, **arguments, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  ended = [line for line in ran.stdout.splitlines() if " ended with " in line]
  assert [line.split()[1] for line in ended] == ["tests", "trainer", "lasso", "full_size"]
  assert all(" ended with 0 after " in line for line in ended), ran.stdout
  assert "| w8-8x8-b32 | fleet |" in ran.stdout and "20x60x4" in ran.stdout
  made = json.loads((out / "full_size.json").read_text())
  changes = [(c["method"], c["action"], c["size"]) for c in made["changes"]]
  assert changes == [
    ("", "removed", 0),
    *((method, "removed", 3) for method in full_size.METHODS),
    ("influence", "relabelled", 2),
  ]
  assert json.loads((out / "trainer.json").read_text())["results"]
  assert json.loads((out / "lasso.json").read_text())


def change(mask: np.ndarray) -> full_size.Change:
  return full_size.Change("mine", "removed", 1, 1, mask, np.array([0, 1, 0]))


class Trainer:
  """Of whose models some diverge."""

  labels = np.array([0, 1, 0])

  def __init__(self, margins_mu: np.ndarray):
    self.margins = margins_mu

  def __call__(self, masks, labels, seeds):
    assert masks.shape == (len(seeds), 3) and (masks == [True, False, True]).all()
    return self.margins[: len(seeds)]


def test_models_that_diverge_are_left_out_of_a_line() -> None:
  changes = [change(np.array([True, False, True]))]
  margins = np.array([[1.0, -1], [np.nan, 5], [3, -3], [np.inf, 0]])
  with flagsaver.flagsaver(fresh_models=4):
    [line] = full_size._outcomes(Trainer(margins), changes)
    assert (line["models"], line["margin"], line["right"]) == (2, 0.0, 0.5)
    with pytest.raises(UserError, match="peak_learning_rate is too large: all models of"):
      list(full_size._outcomes(Trainer(np.full((4, 2), np.nan)), changes))


def test_as_many_images_are_ranked_as_the_largest_change_needs() -> None:
  labels, targets = np.repeat([0, 1], [7, 30]), np.array([1, 0])
  data = types.SimpleNamespace(train_labels=labels, test_labels=np.array([0, 1]))
  scores = {"similar": np.random.default_rng(0).normal(size=(2, len(labels)))}
  for most in range(1, 7):
    rankings = full_size._rankings(scores, data, targets, most)["similar"]
    for row, (ranking, label) in enumerate(zip(rankings, (1, 0), strict=True)):
      own = np.flatnonzero(labels == label)
      best = own[np.argsort(-scores["similar"][row, own])]
      np.testing.assert_array_equal(ranking[:most], best[:most])


def test_no_class_is_removed_as_a_whole(monkeypatch) -> None:
  data = types.SimpleNamespace(
    train_labels=np.repeat([0, 1], [7, 30]), downscaled=lambda factor: "small"
  )
  experiment = types.SimpleNamespace(
    retrain=types.SimpleNamespace(retrain=""), data=types.SimpleNamespace(downscale=2)
  )
  monkeypatch.setattr(full_size.data_source, "load", lambda config, where: data)
  monkeypatch.setattr(full_size.checks, "check", lambda experiment, dataset: None)
  assert full_size._dataset(experiment, 6) == "small"
  with pytest.raises(UserError, match="remove and --relabel must be below 7, the small"):
    full_size._dataset(experiment, 7)
