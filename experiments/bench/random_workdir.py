"""A workdir of any size whose images, margins, scores and datamodels are random."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import fit_datamodels, train_subsets
from experiments.runtime import base_models, stages
from experiments.runtime.run import Run
from experiments.runtime.workdir_models import BASE_MODELS
from jaxdm import identity, tiling
from jaxdm.attribution.registry import from_full_data
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import Datamodels
from jaxdm.storage import array_folder, atomic_io, bank
from jaxdm.training.collection import Collection, missing_in_store

_TILE_TARGETS = 1024
_NONZERO = 0.01  # Of the datamodels' weights.
_WRITTEN = "made_up"


def with_random_images(blank: Dataset) -> Dataset:
  """The dataset with other pixels."""
  rng = np.random.default_rng(0)
  images = {
    name: rng.integers(0, 256, getattr(blank, name).shape, np.uint8)
    for name in ("train_images", "test_images")
  }
  return dataclasses.replace(blank, **images)


def write(run: Run) -> None:
  """Makes up stores, scores, datamodels, and the summaries of the stages before them."""
  settings = run.settings("data", "collect")
  stages.run(run.workdir, _WRITTEN, settings, lambda: _write_all(run))


def _write_all(run: Run) -> dict[str, Any]:
  """Does so; returns the summary, which is empty."""
  rng = np.random.default_rng(1)
  for collection in run.subsets.make_collections():
    _write_models(run, collection, rng)
  _write_base_models(run, rng)
  models = _write_datamodels(run, rng)
  lds = metrics.Interval(0.0, 0.0, 0.0)._asdict()
  numbers = {
    "num_train": len(run.dataset.train_labels),
    "num_targets": len(run.dataset.test_labels),
  }
  shares = {"base_accuracy": 1.0, "subset_accuracy": 1.0}
  base = {stages.OUTPUTS: {"base_models": "made up"}}
  record(run, train_subsets.STAGE, train_subsets.GROUPS, numbers | shares | base)
  names = ("lds", "pooled_correlation", "r2", "lds_ceiling")
  counts = {
    "models_fitted_to": 0,
    "prior": "none",
    "held_out_models": 0,
    "mean_nonzero_weights": 0.0,
  }
  judged = dict.fromkeys(names, lds) | counts | {"bias_on_full_data": 0.0}
  judged |= {stages.OUTPUTS: {"datamodels": identity.digest(models)}}
  record(run, fit_datamodels.STAGE, fit_datamodels.GROUPS, judged)
  return {}


def record(
  run: Run,
  stage: str,
  groups: tuple[str, ...],
  summary: dict[str, Any],
  inputs: Mapping[str, str] = {},
) -> None:
  """Records a stage as finished."""
  stages.run(run.workdir, stage, run.settings(*groups), lambda: dict(summary), inputs)


def _write_models(run: Run, collection: Collection, rng: np.random.Generator) -> None:
  """Fills a store; chunks of models that are fitted to share one file of margins.

  A held-out subset is the same in all stores.
  """
  n, t, store = (
    len(run.dataset.train_labels),
    len(run.dataset.test_labels),
    collection.store,
  )
  fitted = run.experiment.collect.num_models - collection.subsets.first
  shared_mt = rng.standard_normal((store.rows_per_chunk, t), np.float32)
  first = None
  for models in missing_in_store(store, collection.models):
    chunk, m = models.start // store.rows_per_chunk, len(models)
    shares = models.stop <= fitted and m == store.rows_per_chunk
    sources = [rng] * m if shares else [_of_subset(collection, i) for i in models]
    bits = [one.integers(0, 256, -(-n // 8), np.uint8) for one in sources]
    masks = np.unpackbits(np.array(bits), axis=1)
    margins_mt = shared_mt if shares else rng.standard_normal((m, t), np.float32)
    bank.write(store, chunk, masks[:, :n].astype(bool), margins_mt)
    [path] = atomic_io.find(store.path / "margins" / "c" / str(chunk), "*")
    if shares and first:
      path.unlink()
      os.link(first, path)
    elif shares:
      first = path


def _of_subset(collection: Collection, number: int) -> np.random.Generator:
  """Draws a model's subset."""
  return np.random.default_rng(collection.subsets.first + number)


def _write_base_models(run: Run, rng: np.random.Generator) -> None:
  """Random scores, and logits that are right about every target."""
  t, n = len(run.dataset.test_labels), len(run.dataset.train_labels)
  shapes: dict[str, tuple[int, ...]] = dict.fromkeys(from_full_data(), (t, n))
  k, r = run.dataset.num_classes, run.experiment.collect.num_base
  folder = run.workdir.path / BASE_MODELS
  arrays = array_folder.create(folder, shapes | {"logits": (r, t, k)})
  for name in from_full_data():
    for part in tiling.tiles(t, _TILE_TARGETS):
      arrays[name][part] = rng.standard_normal(arrays[name][part].shape, np.float32)
  arrays["logits"][:] = 4 * (run.dataset.test_labels[:, None] == np.arange(k))
  arrays["logits"][:] += rng.standard_normal((r, t, k), np.float32) / 4
  array_folder.finish(folder, arrays, base_models.identity_of(run))


def _write_datamodels(run: Run, rng: np.random.Generator) -> Datamodels:
  """Random sparse weights."""
  t, n = len(run.dataset.test_labels), len(run.dataset.train_labels)
  weights_tn = np.zeros((t, n), np.float32)
  columns = rng.integers(0, n, (t, max(1, round(_NONZERO * n))))
  numbers = rng.standard_normal(columns.shape, np.float32)
  np.put_along_axis(weights_tn, columns, numbers, axis=1)
  zeros_t = np.zeros(t, np.float32)
  status_t, choice_t = np.zeros(t, np.int8), np.zeros(t, np.int32)
  models = Datamodels(weights_tn, zeros_t, zeros_t, zeros_t, status_t, choice_t)
  models.save(run.workdir.path / "datamodels", overwrite=True)
  return models
