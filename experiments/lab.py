"""What every stage works with: the data, the fleet, the store."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tqdm

from experiments import hosts, presets, stopping, workdir
from jaxdm import (
  bank,
  checkpoint,
  data,
  fleet,
  label_flip,
  retrain,
  train,
  training_sets,
)
from jaxdm import progress as progress_lib
from jaxdm import store as store_lib

_BLOCK_MODELS = 512


class Collection(NamedTuple):
  """Models on random subsets, a row of a store each.

  Attributes:
    store: of `bank.open_store`.
    first: the subset of row 0.
    models: rows.
    family: of the models' seeds.
  """

  store: store_lib.Store
  first: int
  models: int
  family: str


def progress_bar(
  name: str,
  unit: str = "model",
  folder: workdir.Workdir | None = None,
  diverged: Callable[[], int] = lambda: 0,
) -> progress_lib.Progress:
  """A bar with the time left, driven by (done, total).

  A workdir logs it, too, with the number of models that diverged. Where it moves nothing
  is half done, so that it is also where a run ends that was asked to.
  """
  log = folder.log(name, diverged) if folder else progress_lib.silent
  seconds = 1.0 if sys.stderr.isatty() else 15.0  # Fewer lines in a log file.
  bar = tqdm.tqdm(desc=name, unit=unit, mininterval=seconds, dynamic_ncols=True)

  def update(done: int, total: int) -> None:
    bar.total = total
    if bar.n == 0 and done:
      bar.initial = done  # What a former run did says nothing of this one's speed.
    bar.n = done
    bar.close() if done >= total else bar.update(0)
    log(done, total)
    stopping.check()

  return update


def load_dataset(
  config: presets.DataConfig, where: dict[str, str | None]
) -> data.Dataset:
  """The dataset that a config describes, images at their native size."""
  full = data.load(config.dataset, background=config.background, **where)
  classes = config.classes.split(",") if config.classes else None
  return full.take(classes, config.train_per_class or None, config.test_per_class or None)


@dataclasses.dataclass(frozen=True)
class Lab:
  """One experiment in its workdir."""

  workdir: workdir.Workdir
  experiment: presets.Experiment
  speed: fleet.Speed
  dataset: data.Dataset
  preset: str = ""

  def settings(self, *groups: str) -> dict[str, dict[str, Any]]:
    """Some groups of settings as JSON values; data includes the fingerprint."""
    chosen = {g: dataclasses.asdict(getattr(self.experiment, g)) for g in groups}
    if "data" in chosen:
      chosen["data"]["fingerprint"] = self.dataset.fingerprint()
    return chosen

  def bar(self, name: str, unit: str = "model") -> progress_lib.Progress:
    """A progress bar that the workdir logs."""
    return progress_bar(name, unit, self.workdir, self._diverged)

  def _diverged(self) -> int:
    """Models that this process has trained and that diverged."""
    return self.retrain.diverged if "retrain" in vars(self) else 0

  @property
  def labels(self) -> np.ndarray:
    """int32[n]."""
    return self.dataset.train_labels

  @property
  def target_labels(self) -> np.ndarray:
    """int32[t]."""
    return self.dataset.test_labels

  @functools.cached_property
  def small(self) -> data.Dataset:
    """The dataset at the size that is trained on."""
    return self.dataset.downscaled(self.experiment.data.downscale)

  @property
  def recipe(self) -> train.TrainConfig:
    """The trainer's settings, with the length of training resolved."""
    collect = self.experiment.collect
    if not collect.equal_steps:
      return self.experiment.train
    size = training_sets.subset_size(len(self.labels), collect.alpha)
    return dataclasses.replace(self.experiment.train, epoch_examples=size)

  @functools.cached_property
  def fleet(self) -> fleet.Fleet:
    """The trainer."""
    return fleet.Fleet(
      self.recipe,
      self.small.train_images,
      self.small.num_classes,
      self.speed,
      gradient_dim=self.experiment.gradient.gradient_dim,
      progress=self._progress(),
    )

  def _progress(self) -> checkpoint.Progress | None:
    """Keeps models that this process is in the middle of."""
    index, count = hosts.mine()
    folder = self.workdir.path / "checkpoints" / f"host-{index}-of-{count}"
    seconds = self.speed.checkpoint_seconds
    return checkpoint.Progress(folder, seconds) if seconds else None

  @functools.cached_property
  def retrain(self) -> retrain.Retrainer:
    """Margins on demand, remembered in the workdir's bank."""
    return retrain.Retrainer(
      self.fleet,
      bank.Bank(self._changes()),
      self.labels,
      self.small.test_images,
      self.target_labels,
      seed=self.seed,
      share=hosts.mine(),
    )

  def _store(
    self, name: str, *, dtype: str = "float32", num_logits: int = 0, **settings: Any
  ) -> store_lib.Store:
    """One of the workdir's stores; its options are those of `bank.open_store`."""
    everywhere = {
      "dataset": self.small.fingerprint(),
      "train": dataclasses.asdict(self.recipe),
      "seed": self.seed,
    }
    return bank.open_store(
      self.workdir.bank / name,
      num_targets=len(self.target_labels),
      num_train=len(self.labels),
      settings=everywhere | settings,
      dtype=dtype,
      num_logits=num_logits,
    )

  def _changes(self) -> store_lib.Store:
    """Models on changed sets."""
    return self._store("changes")

  def open_stores(self) -> None:
    """Makes every store that is not there yet."""
    self.collections()
    self._changes()

  def collections(self) -> list[Collection]:
    """Models on random subsets: all of them, then the held-out ones' further seeds."""
    config = self.experiment.collect
    of: dict[str, Any] = {
      "alpha": config.alpha,
      "law": "uniform, of exactly alpha * n examples",
      "dtype": config.margin_dtype,
      "num_logits": self.small.num_classes if config.keep_logits else 0,
    }
    subsets = self._store("subsets", **of)
    found = [Collection(subsets, 0, config.num_models + config.num_held_out, "subset")]
    for repeat in range(1, config.held_out_seeds):
      of["first"] = config.num_models
      again = self._store(f"held-out-{config.num_models}-{repeat}", **of)
      family = f"subset-{repeat}"
      found.append(Collection(again, config.num_models, config.num_held_out, family))
    return found

  def collect(
    self,
    collection: Collection,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> None:
    """Trains what is missing of a collection, or of this host's shard of it."""
    first, models = collection.first, collection.models
    self.retrain.collect(
      collection.store,
      retrain.missing(collection.store, models, shard=shard),
      lambda rows: self.subset_masks(first + rows),
      collection.family,
      progress=progress,
    )

  @property
  def seed(self) -> int:
    """Root of everything random."""
    return self.experiment.collect.seed

  def subset_masks(self, ids: np.ndarray) -> np.ndarray:
    """Random subsets by model id, as bool[m, n]."""
    alpha = self.experiment.collect.alpha
    return training_sets.random_masks(self.seed, len(self.labels), alpha, ids)

  def packed_masks(self, ids: np.ndarray) -> training_sets.PackedMasks:
    """The same for any number of models, eight examples to a byte."""
    starts = range(0, len(ids), _BLOCK_MODELS)
    return training_sets.PackedMasks.of(
      self.subset_masks(ids[start : start + _BLOCK_MODELS]) for start in starts
    )

  def subset_margins(self) -> tuple[np.ndarray, store_lib.Matrix]:
    """Subsets int[m] and margins [m, t] of the models that datamodels are fitted to."""
    ids = np.arange(self.experiment.collect.num_models)
    return ids, self._rows(self.collections()[0], ids)

  def held_out_margins(self) -> tuple[np.ndarray, np.ndarray]:
    """Subsets int[m] and margins float32[m, t] of those that fits are judged on.

    Every subset is there as often as it was trained on.
    """
    subsets, *repeats = self.collections()
    ids = np.arange(self.experiment.collect.num_models, subsets.models)
    parts = [self._rows(subsets, ids)]
    parts += [self._rows(repeat, np.arange(repeat.models)) for repeat in repeats]
    margins_mt = np.concatenate([part[:] for part in parts]).astype(np.float32)
    return np.tile(ids, len(parts)), margins_mt

  def _rows(self, collection: Collection, rows: np.ndarray) -> store_lib.Matrix:
    """Margins of some rows, all of which must be there."""
    lacking = retrain.missing(collection.store, collection.models)
    if lacking:
      count = sum(len(chunk) for chunk in lacking)
      raise workdir.WorkdirError(
        f"{collection.store.path} lacks {count} of {collection.models} models; "
        f"run python -m experiments.train_subsets --workdir={self.workdir.path}"
      )
    return store_lib.Matrix(collection.store, "margins", rows)


def check(experiment: presets.Experiment, dataset: data.Dataset) -> None:
  """Raises ValueError where settings and data do not go together."""
  dataset.downscaled(experiment.data.downscale)
  n, alpha = len(dataset.train_labels), experiment.collect.alpha
  size = training_sets.subset_size(n, alpha)
  if size < experiment.train.batch_size:
    raise ValueError(
      f"batch_size must be at most alpha * n = {alpha} * {n} = {size}, "
      f"got {experiment.train.batch_size}"
    )
  wrong = [i for i in experiment.compare.target_list if i >= len(dataset.test_labels)]
  if wrong:
    raise ValueError(
      f"search_targets must be in [0, {len(dataset.test_labels)}), got {wrong}"
    )
  flip_to = experiment.flip.flip_to
  if flip_to not in ("runner-up", "best", *dataset.class_names):
    raise ValueError(
      "flip_to must be runner-up, best or one of "
      f"{', '.join(dataset.class_names)}, got {flip_to!r}"
    )
  if flip_to in dataset.class_names:
    asked = dataset.test_labels[list(experiment.compare.target_list)]
    if not asked.size:
      raise ValueError(
        f"flip_to={flip_to} needs targets of other classes, by --search_targets"
      )
    label_flip.given_class(dataset.class_names.index(flip_to), asked)
  if size >= n:
    raise ValueError(f"alpha must leave out at least 1 of {n} examples, got {alpha}")
