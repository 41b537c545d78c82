"""One experiment in its workdir: what the program of a stage works on."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.config import settings as settings_lib
from experiments.runtime import (
  forecast,
  processes,
  progress_bar,
  stages,
  unfinished,
  workdir_models,
)
from experiments.runtime.own_training import OwnTrainer
from experiments.runtime.subset_models import ImportedModels, SubsetModels, TrainedModels
from experiments.runtime.workdir import Workdir
from jaxdm import identity, training_sets
from jaxdm import progress as progress_lib
from jaxdm.data.dataset import Dataset
from jaxdm.storage import step_checkpoints
from jaxdm.training import fleet as fleet_lib
from jaxdm.training.collection import Collection
from jaxdm.training.config import TrainConfig
from jaxdm.training.speed import Speed
from jaxdm.training.trainer import Trainer

# Groups of settings without effect on training by a function of the user.
_OF_NETWORKS = ("network", "train", "gradient")


@dataclasses.dataclass(frozen=True)
class Run:
  """One experiment in its workdir.

  Attributes:
    workdir: for results.
    experiment: the settings that results depend on.
    preset: the experiment's, by name.
    dataset: images at their native size.
    trainer: trains models on any training sets, and stores them.
    subsets: the models on random subsets.
    timer: of the steps of training.
    parts: what is done of models that are still trained, for the bars.
  """

  workdir: Workdir
  experiment: settings_lib.Experiment
  preset: str
  dataset: Dataset
  trainer: Trainer | OwnTrainer
  subsets: SubsetModels
  timer: forecast.StepTimer
  parts: progress_bar.Parts

  @property
  def networks(self) -> Trainer | None:
    """The trainer of networks, which give logits, features and gradients.

    None where a user's function trains, which gives margins only.
    """
    return self.trainer if isinstance(self.trainer, Trainer) else None

  def settings(self, *groups: str) -> dict[str, dict[str, Any]]:
    """Some groups of settings as JSON values; data includes the fingerprint.

    Groups without effect are left out: those of networks, or those of --retrain, and the
    audit's if there is none.
    """
    is_own = bool(self.experiment.retrain.retrain)
    unused = {"start", *(_OF_NETWORKS if is_own else ("retrain",))}
    if not self.experiment.audit.audit:  # Workdirs begun before it was one lack it too.
      unused.add("audit")
    configs = {g: getattr(self.experiment, g) for g in groups if g not in unused}
    values = {name: dataclasses.asdict(config) for name, config in configs.items()}
    if "start" in groups:
      values["start"] = {"preset": self.preset}
    if "data" in values:
      values["data"]["fingerprint"] = self.dataset.fingerprint()
    if "collect" in values:  # Where it stays if there are more models later.
      first = int(self.experiment.collect.held_out_numbers[0])
      values["collect"]["held_out_from"] = first
    return values

  def inputs(self, *finished: str) -> dict[str, str]:
    """Digests of all that a stage reads, so that it is done again where that has changed.

    Args:
      *finished: stages whose outputs it reads too.

    Raises:
      WorkdirError: if stores, models or one of the stages are missing, or a stage has
        read something else than is there now.
    """
    workdir_models.check_stores(self.workdir)
    for stage in reversed(finished):
      stages.summary_of(self.workdir, stage)
    held_out = [rows.margins_mt for rows in self.subsets.held_out_rows()]
    digests = {
      "models": identity.digest(self.trainer.identity()),
      "fitted_rows": identity.digest(self.subsets.fitted_rows().margins_mt),
      "held_out_rows": identity.digest(held_out),
    }
    for stage in finished:
      stages.check_inputs(self.workdir, stage, digests)
      digests |= stages.outputs_of(self.workdir, stage)
    return digests

  def bar(self, name: str, unit: str = "model") -> progress_lib.Progress:
    """A progress bar that the workdir logs, with the number of diverged models."""
    trainer = self.trainer
    return progress_bar.make(
      name, unit, self.workdir.path, lambda: trainer.diverged, self.parts
    )

  def announce(self, text: Callable[[float, int], str], num_examples: int) -> None:
    """Says after the first steps of training what is known then.

    Nothing is said where training is a function of the user, whose steps are not known.

    Args:
      text: of the seconds of a model, and how many models take as long as one.
      num_examples: that such a model is trained on.
    """
    if self.networks is None:
      return
    fleet = self.networks.fleet

    def of_steps(step_seconds: float) -> str:
      steps = int(fleet.recipe.num_steps(num_examples))
      unit = fleet.runner.unit(fleet.rows)
      return text(steps * step_seconds / fleet.rows, unit)

    self.timer.announce(of_steps)


def make_run(
  workdir: Workdir,
  experiment: settings_lib.Experiment,
  dataset: Dataset,
  speed: Speed,
  *,
  preset: str = "",
  imported: Collection | None = None,
) -> Run:
  """Binds the settings of an experiment to its workdir and data; opens no store yet.

  Args:
    workdir: for results.
    experiment: the settings that results depend on.
    dataset: images at their native size.
    speed: settings that results do not depend on.
    preset: the experiment's, by name.
    imported: models on random subsets that others trained, instead of models of one's
      own.
  """
  timer, parts = forecast.StepTimer(), progress_bar.Parts()
  checkpoints = _checkpoints(workdir, speed.checkpoint_seconds, timer, parts)
  trainer = _trainer(workdir, experiment, dataset, speed, checkpoints)
  which = experiment.collect, workdir.path
  subsets = (
    ImportedModels(*which, imported)
    if imported
    else TrainedModels(*which, trainer, experiment.audit.audit)
  )
  return Run(workdir, experiment, preset, dataset, trainer, subsets, timer, parts)


def train_config(experiment: settings_lib.Experiment, num_train: int) -> TrainConfig:
  """The training of one model, with its length resolved."""
  collect = experiment.collect
  if not collect.equal_steps:
    return experiment.train
  size = training_sets.subset_size(num_train, collect.alpha)
  return dataclasses.replace(experiment.train, epoch_examples=size)


def _trainer(
  workdir: Workdir,
  experiment: settings_lib.Experiment,
  dataset: Dataset,
  speed: Speed,
  checkpoints: step_checkpoints.Checkpoints | None,
) -> Trainer | OwnTrainer:
  """Trains the experiment's models on the images at the size that its settings name."""
  small = dataset.downscaled(experiment.data.downscale)
  seed, share = experiment.collect.seed, processes.share()
  if experiment.retrain.retrain:
    return OwnTrainer(experiment.retrain, small, workdir.bank, seed=seed, share=share)
  fleet = fleet_lib.Fleet(
    train_config(experiment, len(small.train_labels)),
    small.train_images,
    small.num_classes,
    speed,
    network=experiment.network.network,
    gradient_dim=experiment.gradient.gradient_dim,
    checkpoints=checkpoints,
    tuning_folder=workdir.path / "tuning",
  )
  return Trainer.of(
    fleet,
    workdir.bank,
    small.train_labels,
    small.test_images,
    small.test_labels,
    seed=seed,
    share=share,
  )


def _checkpoints(
  workdir: Workdir,
  seconds: float,
  timer: forecast.StepTimer,
  parts: progress_bar.Parts,
) -> step_checkpoints.Checkpoints | None:
  """Writes the models that this process has begun to train; None: nothing is written."""
  index, count = processes.share()
  folder = unfinished.checkpoint_folder(workdir, index, count)
  if not seconds:
    return None
  return step_checkpoints.Checkpoints(
    folder, seconds, observe=timer.observe, report=parts.add
  )
