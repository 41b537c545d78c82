"""Workdirs that predict their training examples (--audit) from the start, or later."""

import json
import pathlib

import numpy as np
from support import planted
from support.programs import contents

from experiments import fit_datamodels, train_subsets
from experiments.config.settings import RetrainConfig
from experiments.runtime.own_training import OwnTrainer
from experiments.runtime.run import Run
from jaxdm.data.dataset import Dataset
from jaxdm.storage.store import Store
from jaxdm.training.collection import Subsets


def run(folder: pathlib.Path, *stages, **changes: str | None) -> Run:
  with planted.experiment(folder, **changes) as opened:
    for stage in stages:
      stage.main(opened)
  return opened


def predictions(opened: Run) -> Store:
  store = opened.subsets.collections()[0].training
  assert store is not None
  return store


def record(folder: pathlib.Path, stage: str) -> dict:
  return json.loads((folder / "stages" / f"{stage}.json").read_text())


def test_a_workdir_gets_them_later_and_keeps_all_else(tmp_path, capsys) -> None:
  folder = tmp_path / "run"
  run(folder, train_subsets, fit_datamodels)
  bank, fit = contents(folder / "bank"), record(folder, "fit_datamodels")
  assert "audit" not in record(folder, "train_subsets")["settings"]
  capsys.readouterr()
  opened = run(folder, train_subsets, fit_datamodels, audit="true")
  told = capsys.readouterr().out
  assert "174 models of subsets are trained again, to predict the training" in told
  assert "fit_datamodels: done again" not in told
  after = contents(folder / "bank")
  assert {name: after[name] for name in bank} == bank
  new = {name.partition("/")[0] for name in after.keys() - bank.keys()}
  assert new == {"subsets-training"}
  assert record(folder, "fit_datamodels") == fit
  # The workdir remembers it, and one that was begun with it holds the same.
  run(folder, train_subsets)
  assert "trained again" not in capsys.readouterr().out
  assert run(folder).experiment.audit.audit
  at_once = run(tmp_path / "at once", train_subsets, audit="true")
  assert contents(tmp_path / "at once" / "bank") == after
  # More models have them too.
  run(folder, train_subsets, num_models="180")
  grown = predictions(run(folder))
  assert sum(grown.chunks().values()) == 204
  rows = slice(0, 160)
  for name in ("margins", "classes"):
    np.testing.assert_array_equal(
      grown.read(name, rows), predictions(at_once).read(name, rows)
    )
  labels = opened.dataset.train_labels
  right = grown.read("margins", rows) > 0
  np.testing.assert_array_equal(right, grown.read("classes", rows) == labels)


def test_a_users_function_predicts_them_with_its_targets(tmp_path, monkeypatch) -> None:
  (tmp_path / "nearest_mean.py").write_text("""
import numpy as np

def factory(data):
  signs = 2 * data.test_labels - 1

  def retrain(masks, labels, seeds):
    x = data.train_images
    means = [[x[m & (y == k)].mean(0) for k in (0, 1)] for m, y in zip(masks, labels)]
    gaps = [
      ((data.test_images - a) ** 2).sum(1) - ((data.test_images - b) ** 2).sum(1)
      for a, b in means
    ]
    return np.array(gaps) * signs

  return retrain
""")
  monkeypatch.syspath_prepend(str(tmp_path))

  rng, labels = np.random.default_rng(0), np.arange(20) % 2
  x = (rng.normal(size=(20, 2)) + labels[:, None]).astype(np.float32)
  data = Dataset("points", x, labels, x[:4] + 1, labels[:4], ("no", "yes"))

  def collected(name: str, targets: Dataset, audit: bool):
    config = RetrainConfig(retrain="nearest_mean:factory")
    own = OwnTrainer(config, targets, tmp_path / name, seed=0, share=(0, 1))
    half = Subsets(alpha=0.5)
    opened = own.open_subsets("subsets", half, 40, predict_training=audit)
    own.collect(opened)
    return opened

  found = collected("audit", data, True)
  plain = collected("plain", data, False)
  for name in ("margins", "masks"):
    np.testing.assert_array_equal(
      found.store.read(name, slice(0, 40)), plain.store.read(name, slice(0, 40))
    )
  of_all = Dataset("points", x, labels, x, labels, ("no", "yes"))
  expected = collected("all", of_all, False).store.read("margins", slice(0, 40))
  assert list(found.training.columns) == ["margins"]
  margins = found.training.read("margins", slice(0, 40))
  np.testing.assert_allclose(margins, expected, rtol=2e-3)
