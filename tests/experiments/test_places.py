"""Paths that a workdir remembers, when it or what they lead to is moved."""

import pathlib
import shutil

import numpy as np
import pytest
from support.programs import TOY_OF_STORES as TOY
from support.programs import start

from experiments import fit_datamodels
from experiments.runtime import launcher, stages
from experiments.runtime.workdir import Workdir, WorkdirError


def _stage(workdir: Workdir) -> None:
  """Runs a stage that does nothing, after which the paths are remembered."""
  with workdir.lock():
    stages.run(workdir, "stage", {}, dict)


@pytest.mark.parametrize("name", ["bank", "stores"])
def test_stores_inside_move_with_the_workdir(tmp_path, name) -> None:
  first = tmp_path / "first"
  _stage(Workdir(str(first), str(first / name)))
  copied = pathlib.Path(shutil.copytree(first, tmp_path / "copied"))
  moved = first.rename(tmp_path / "moved")
  for folder in (copied, moved):
    workdir = Workdir(str(folder))
    assert str(workdir.bank) == str(folder / name)
    _stage(workdir)
  assert not first.exists()


def test_stores_elsewhere_that_moved_are_named_again(tmp_path) -> None:
  folder, stores = str(tmp_path / "run"), tmp_path / "stores"
  _stage(Workdir(folder, str(stores)))
  moved = str(stores.rename(tmp_path / "moved"))
  with pytest.raises(WorkdirError, match="; name its new place by --bank_dir=NEW, or"):
    _stage(Workdir(folder))
  _stage(Workdir(folder, moved))
  assert str(Workdir(folder).bank) == moved


def test_images_that_moved_are_named_again(tmp_path) -> None:
  labels = np.arange(24) % 2
  pixels = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 1)).astype(np.uint8)
  parts = {"train_images": pixels, "train_labels": labels}
  parts |= {"test_images": pixels[:8], "test_labels": labels[:8]}
  path, moved = tmp_path / "images.npz", tmp_path / "moved.npz"
  np.savez(path, **parts)
  program = launcher.Program(lambda opened: _run_in(opened.workdir))
  toy = {k: v for k, v in TOY.items() if not k.endswith("per_class")}
  start(program, tmp_path / "run", toy=toy, arrays=str(path))
  path.rename(moved)
  with pytest.raises(SystemExit, match="earlier command .* not there; give --arrays=NEW"):
    start(program, tmp_path / "run", toy=toy)
  start(program, tmp_path / "run", toy=toy, arrays=str(moved))
  start(program, tmp_path / "run", toy=toy)


def _run_in(workdir: Workdir) -> None:
  """Runs a stage in a workdir that is locked already."""
  stages.run(workdir, "stage", {}, dict)


def test_margins_that_moved_are_named_again(tmp_path) -> None:
  rng = np.random.default_rng(0)
  masks = rng.random((40, 12)) < 0.5
  np.save(tmp_path / "masks.npy", masks)
  np.save(tmp_path / "margins.npy", masks[:, :3] + 0.1 * rng.normal(size=(40, 3)))
  files = {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}
  toy = {"num_held_out": "10", "num_lambdas": "3"}
  start(fit_datamodels.PROGRAM, tmp_path / "run", toy=toy | files)
  moved = (tmp_path / "margins.npy").rename(tmp_path / "moved.npy")
  with pytest.raises(SystemExit, match="not there; give --margins=NEW"):
    start(fit_datamodels.PROGRAM, tmp_path / "run", toy=toy)
  start(
    fit_datamodels.PROGRAM, tmp_path / "run", toy=toy | files | {"margins": str(moved)}
  )
