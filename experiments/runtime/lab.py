"""What every stage works with: the data, the fleet, the store."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tqdm
from etils import epath

from experiments.config import settings as settings_lib
from experiments.runtime import imported, preemption, processes, workdir
from jaxdm import progress as progress_lib
from jaxdm import training_sets
from jaxdm.brittleness import label_flips
from jaxdm.data.dataset import Dataset
from jaxdm.data.load import load_dataset
from jaxdm.errors import UserError
from jaxdm.storage import (
  array_folder,
  atomic_io,
  bank,
  checkpoint,
  checksummed_json,
  identity,
)
from jaxdm.storage import store as store_lib
from jaxdm.training import fleet, resnet9
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.collection import Collection, Subsets, missing
from jaxdm.training.recipe import TrainConfig
from jaxdm.training.trainer import Trainer

# In the workdir, what is kept of the models on all data.
BASE_MODELS = "base_models"


class Rows(NamedTuple):
  """Some models of a collection, all of which are stored.

  Attributes:
    store: where they are.
    numbers: int[m], their rows.
  """

  store: store_lib.Store
  numbers: np.ndarray

  @property
  def masks(self) -> training_sets.PackedMasks:
    """The training sets, as they were stored with the margins."""
    return bank.packed_masks(self.store, self.numbers)

  @property
  def margins_mt(self) -> store_lib.Matrix:
    """The margins, read where they are indexed."""
    return store_lib.Matrix(self.store, "margins", self.numbers)


def progress_bar(
  name: str,
  unit: str = "model",
  folder: workdir.Workdir | None = None,
  diverged: Callable[[], int] = lambda: 0,
) -> progress_lib.Progress:
  """A bar with the time left, driven by (done, total).

  A workdir logs it, too, with the number of models that diverged. After a report the run
  may be cancelled, see `preemption`.
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

  return preemption.check_after(update)


def dataset_of(
  config: settings_lib.DataConfig, where: Mapping[str, str | None]
) -> Dataset:
  """The dataset that a config describes, images at their native size."""
  loaded = load_dataset(config.dataset, background=config.background, **where)
  return select(loaded, config)


def select(full: Dataset, config: settings_lib.DataConfig) -> Dataset:
  """The classes and examples of a dataset that a config asks for."""
  classes = config.classes.split(",") if config.classes else None
  return full.take(classes, config.train_per_class or None, config.test_per_class or None)


@dataclasses.dataclass(frozen=True)
class Lab:
  """One experiment in its workdir.

  Attributes:
    workdir: where its results are.
    experiment: what they depend on.
    speed: what they do not.
    dataset: images at their native size.
    preset: the experiment's, by name.
    imported: models on random subsets that others trained, instead of models of one's
      own.
  """

  workdir: workdir.Workdir
  experiment: settings_lib.Experiment
  speed: fleet.Speed
  dataset: Dataset
  preset: str = ""
  imported: Collection | None = None

  def settings(self, *groups: str) -> dict[str, dict[str, Any]]:
    """Some groups of settings as JSON values; data includes the fingerprint."""
    chosen = {g: dataclasses.asdict(getattr(self.experiment, g)) for g in groups}
    if "data" in chosen:
      chosen["data"]["fingerprint"] = self.dataset.fingerprint()
    if "collect" in chosen:  # Where it stays if there are more models later.
      first = int(self.experiment.collect.held_out_numbers[0])
      chosen["collect"]["held_out_from"] = first
    return chosen

  def model_settings(self) -> dict[str, dict[str, Any]]:
    """The settings that no model of a workdir may differ in, by group."""
    found = self.settings("data", "collect", "network", "train")
    for name in settings_lib.GROWING:
      del found["collect"][name]
    return found | {"start": {"preset": self.preset}}

  def holds_models(self) -> bool:
    """Whether the workdir holds a model that was trained for it."""
    if (self.workdir.path / BASE_MODELS / array_folder.RECORD).exists():
      return True
    return any(atomic_io.find(path / "done", "*.json") for path in self._own_stores())

  def forget_empty_stores(self) -> None:
    """Removes stores of one's own that hold no model; nobody may be writing to them."""
    for path in self._own_stores():
      if not atomic_io.find(path / "done", "*.json"):
        path.rmtree()

  def _own_stores(self) -> list[epath.Path]:
    """Folders of models that were trained for this workdir."""
    found = [path for path in atomic_io.find(self.workdir.bank, "*") if path.is_dir()]
    return [path for path in found if path.name != imported.NAME]

  def check_models(self) -> None:
    """Raises WorkdirError if other settings made the workdir's models, naming those."""
    stored = self.workdir.stage_settings("train_subsets")
    wrong = [
      f"--{difference}"
      for group, values in self.model_settings().items()
      if group in stored
      for difference in checksummed_json.differences(_of(stored[group], values), values)
    ]
    if wrong and self.holds_models():
      raise workdir.WorkdirError(
        "workdir",
        f"={self.workdir.path} holds other models ({'; '.join(wrong)}); give the "
        "stored values, or name another --workdir",
      )

  def bar(self, name: str, unit: str = "model") -> progress_lib.Progress:
    """A progress bar that the workdir logs."""
    return progress_bar(name, unit, self.workdir, self._diverged)

  def _diverged(self) -> int:
    """Models that this process has trained and that diverged."""
    return self.trainer.diverged if "trainer" in vars(self) else 0

  @property
  def labels(self) -> np.ndarray:
    """int32[n]."""
    return self.dataset.train_labels

  @property
  def target_labels(self) -> np.ndarray:
    """int32[t]."""
    return self.dataset.test_labels

  @functools.cached_property
  def small(self) -> Dataset:
    """The dataset at the size that is trained on."""
    return self.dataset.downscaled(self.experiment.data.downscale)

  @property
  def train_config(self) -> TrainConfig:
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
      self.train_config,
      self.small.train_images,
      self.small.num_classes,
      self.speed,
      network=self.experiment.network.network,
      gradient_dim=self.experiment.gradient.gradient_dim,
      progress=self._progress(),
      tuning_folder=self.workdir.path / "tuning",
    )

  def _progress(self) -> checkpoint.Progress | None:
    """Keeps models that this process is in the middle of."""
    index, count = processes.mine()
    folder = self.workdir.path / "checkpoints" / f"host-{index}-of-{count}"
    seconds = self.speed.checkpoint_seconds
    return checkpoint.Progress(folder, seconds) if seconds else None

  @functools.cached_property
  def trainer(self) -> Trainer:
    """Opens and fills the stores of the workdir's bank."""
    return Trainer.of(
      self.fleet,
      self.workdir.bank,
      self.labels,
      self.small.test_images,
      self.target_labels,
      seed=self.seed,
      share=processes.mine(),
    )

  def open_stores(self) -> None:
    """Makes every store that is not there yet."""
    self.collections()
    _ = self.trainer.changes

  def collections(self) -> list[Collection]:
    """Models on random subsets: all of them, then the held-out ones' further seeds."""
    if self.imported:
      return [self.imported]
    config = self.experiment.collect
    first = int(config.held_out_numbers[0])
    kept: dict[str, Any] = {
      "dtype": config.margin_dtype,
      "keep_logits": config.keep_logits,
    }
    subsets = Subsets(alpha=config.alpha)
    models = 1 + int(max(config.fitted_numbers[-1], config.held_out_numbers[-1]))
    found = [self.trainer.open_subsets("subsets", subsets, models, **kept)]
    for repeat in range(1, config.held_out_seeds):
      name = f"held-out-{first}-{repeat}"
      again = dataclasses.replace(subsets, first=first, family=f"subset-{repeat}")
      found.append(self.trainer.open_subsets(name, again, config.num_held_out, **kept))
    return found

  @property
  def seed(self) -> int:
    """Root of everything random."""
    return self.experiment.collect.seed

  def subset_masks(self, ids: np.ndarray) -> np.ndarray:
    """Random subsets by number, drawn from the seed, as bool[m, n]."""
    subsets = Subsets(alpha=self.experiment.collect.alpha)
    return subsets.masks(self.seed, len(self.labels), ids)

  def fitted_rows(self) -> Rows:
    """The models that datamodels are fitted to.

    Raises:
      WorkdirError: if some of them are missing.
    """
    return self._rows(self.collections()[0], self.experiment.collect.fitted_numbers)

  def held_out_rows(self) -> list[Rows]:
    """The models that fits are judged on; every subset as often as it was trained on.

    Raises:
      WorkdirError: if some of them are missing.
    """
    subsets, *repeats = self.collections()
    found = [self._rows(subsets, self.experiment.collect.held_out_numbers)]
    return found + [self._rows(again, np.arange(again.models)) for again in repeats]

  def base_models_identity(self) -> dict[str, Any]:
    """All that the models on all data, and the scores made of them, depend on."""
    return self.trainer.identity() | {
      "gradient": dataclasses.asdict(self.experiment.gradient),
      "num_base": self.experiment.collect.num_base,
    }

  def inputs(self, *stages: str) -> dict[str, str]:
    """Digests of all that a stage reads, so that it is done again where that has changed.

    Args:
      *stages: finished ones, whose outputs it reads too.

    Raises:
      WorkdirError: if models or one of the stages are missing, or a stage has read
        something else than is there now.
    """
    for stage in reversed(stages):
      self.workdir.summary(stage)
    held_out = [rows.margins_mt for rows in self.held_out_rows()]
    found = {
      "models": identity.digest(self.trainer.identity()),
      "fitted_rows": identity.digest(self.fitted_rows().margins_mt),
      "held_out_rows": identity.digest(held_out),
    }
    for stage in stages:
      self.workdir.check_inputs(stage, found)
      found |= self.workdir.outputs(stage)
    return found

  def _rows(self, collection: Collection, numbers: np.ndarray) -> Rows:
    """Some models of a collection, all of which must be there."""
    lacking = missing(collection.store, collection.models)
    if lacking:
      count = sum(len(chunk) for chunk in lacking)
      raise workdir.WorkdirError(
        None,
        f"{collection.store.path} lacks {count} of {collection.models} models; run "
        f"python -m experiments.train_subsets --workdir={self.workdir.path}, with the "
        "same settings",
      )
    return Rows(collection.store, numbers)


def _of(stored: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
  """Some of the stored values."""
  return {name: value for name, value in stored.items() if name in names}


def check(experiment: settings_lib.Experiment, dataset: Dataset) -> None:
  """Raises ValueError where settings and data do not go together."""
  shape = dataset.downscaled(experiment.data.downscale).train_images.shape[1:]
  height, width = shape[:2] if dataset.has_images else (np.inf, np.inf)
  network = experiment.network.network
  if network == "resnet9" and min(height, width) < resnet9.LEAST_PIXELS:
    factor = experiment.data.downscale
    setting, place = ("dataset", "has")
    if factor > 1:
      setting, place = ("downscale", f"={factor} leaves")
    least = "x".join([str(resnet9.LEAST_PIXELS)] * 2)
    raise UserError(
      setting, f"{place} images of {height}x{width} pixels; {least} are needed"
    )
  recipe_lib.make(
    experiment.train,
    num_classes=dataset.num_classes,
    input_shape=shape,
    network=network,
  )
  n, alpha = len(dataset.train_labels), experiment.collect.alpha
  size = training_sets.subset_size(n, alpha)
  if size < experiment.train.batch_size:
    raise UserError(
      "batch_size",
      f"must be at most alpha * n = {alpha} * {n} = {size}, "
      f"got {experiment.train.batch_size}",
    )
  wrong = [i for i in experiment.compare.target_list if i >= len(dataset.test_labels)]
  if wrong:
    raise UserError(
      "search_targets", f"must be in [0, {len(dataset.test_labels)}), got {wrong}"
    )
  flip_to = experiment.flip.flip_to
  if flip_to not in ("runner-up", "best", *dataset.class_names):
    raise UserError(
      "flip_to",
      "must be runner-up, best or one of "
      f"{', '.join(dataset.class_names)}, got {flip_to!r}",
    )
  if flip_to in dataset.class_names:
    asked = dataset.test_labels[list(experiment.compare.target_list)]
    if not asked.size:
      raise UserError(
        "flip_to", f"={flip_to} needs targets of other classes, by --search_targets"
      )
    label_flips.given_class(dataset.class_names.index(flip_to), asked)
  if size >= n:
    raise UserError("alpha", f"must leave out at least 1 of {n} examples, got {alpha}")
