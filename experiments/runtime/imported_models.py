"""Models on random subsets that others trained, kept by `ops.bank --do=import`.

Such a workdir can be fitted, judged and reported as it is. Once its images are named, by
--dataset, --arrays or --data_dir, it is an experiment like any other: models on all data
are trained beside what was imported, and changes are searched and verified.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath

from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from experiments.runtime import bank_folder, stages
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.storage import bank, store_layout
from jaxdm.training.collection import Collection, Subsets, missing_in_store

STAGE = "import"
# Of the store, in the bank.
NAME = bank_folder.IMPORTED
# Brings damaged or missing models back.
RESTORE = "python -m experiments.ops.bank --do=import, with --masks and --margins,"
# Settings of models that are there already.
_FIXED = (
  "alpha",
  "num_models",
  "held_out_from",
  "held_out_seeds",
  "margin_dtype",
  "keep_logits",
)


def path(workdir: Workdir) -> epath.Path:
  """Where imported models are."""
  return workdir.bank / NAME


def exist(workdir: Workdir) -> bool:
  """Whether a workdir is one of imported models, as its records say.

  Whatever became of them: without its models it is no other experiment.
  """
  return stages.is_begun(workdir, STAGE)


def has_store(workdir: Workdir) -> bool:
  """Whether a store of imported models exists, whatever the records say."""
  return store_layout.exists(path(workdir))


def _summary(workdir: Workdir) -> dict[str, Any]:
  """What the import reported; raises WorkdirError if it has not ended."""
  if not stages.is_recorded(workdir, STAGE):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} lacks imported models; {RESTORE} imports the rest of the same "
      "files",
    )
  return stages.summary_of(workdir, STAGE)


def store_settings(digest: object) -> dict[str, object]:
  """What imported models depend on, of which the files' digest is all that is known."""
  return {"law": "somebody else's, as imported", "files": digest}


def without_images(workdir: Workdir, stored: Mapping[str, Any]) -> bool:
  """Whether a workdir is of others' models, and nothing says which images they saw."""
  return (exist(workdir) or "files" in stored) and not experiment_flags.names_images(
    stored
  )


def how_to_go_on(workdir: Workdir) -> str:
  """What makes more of others' models than a fit."""
  images = (
    "python -m experiments.train_subsets, with their images named by --dataset, --arrays "
    "or --data_dir, trains models on all data, and everything else can follow"
  )
  if exist(workdir):
    return images
  return (
    f"python -m experiments.ops.bank --do=import stores them in a new workdir; {images}"
  )


def check_images(workdir: Workdir, stored: Mapping[str, Any]) -> None:
  """Raises WorkdirError on a workdir of others' models that lacks these, or images."""
  if "files" in stored and not exist(workdir):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds datamodels of others' models, and none of these; "
      f"{how_to_go_on(workdir)}",
    )
  if without_images(workdir, stored):
    about = _summary(workdir)
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds imported models of {about['examples']} examples and "
      f"{about['targets']} targets, and no images; {how_to_go_on(workdir)}",
    )


def collection(workdir: Workdir) -> Collection:
  """The imported models.

  Raises:
    WorkdirError: if the import has not ended, or some are missing.
  """
  check_store(workdir)
  about = _summary(workdir)
  store = bank.open_store(
    path(workdir),
    num_targets=about["targets"],
    num_train=about["examples"],
    settings=store_settings(about["digest"]),
    dtype=about["dtype"],
  )
  if missing_in_store(store, about["models"]):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} lacks imported models; {RESTORE} brings them back from the same "
      "files",
    )
  subsets = Subsets(alpha=about["alpha"], family=NAME)
  return Collection(store, subsets, about["models"])


def check_store(workdir: Workdir) -> None:
  """Raises WorkdirError if the store of the imported models does not exist."""
  workdir.check_bank_exists()
  if not has_store(workdir):
    raise WorkdirError(
      "workdir",
      f"={workdir.path} has no imported models in {path(workdir)}; {RESTORE} brings them "
      "back from the same files",
    )


def check_held_out(held_out: int, models: int) -> None:
  """Raises UserError where models are too few to be judged on others of them."""
  if held_out > models - 4:
    raise UserError(
      "num_held_out", f"must leave some of {models} models to fit to, got {held_out}"
    )


def note_held_out(held_out: int, models: int) -> str:
  """A warning if more than a third of the models judge the fit; else empty."""
  if 3 * held_out <= models:
    return ""
  return (
    f"warning: {held_out:,} of {models:,} models judge the fit, and only "
    f"{models - held_out:,} are fitted to; --num_held_out={max(2, models // 5)} holds "
    "out fewer"
  )


def adapt(
  experiment: settings_lib.Experiment, models: Collection, dataset: Dataset
) -> settings_lib.Experiment:
  """The experiment with the numbers of the imported models.

  Raises:
    UserError: on flags that speak of other models, or images that are not theirs.
  """
  for name in _FIXED:
    if flags.FLAGS[name].value is not None:
      raise UserError(name, "has no effect on imported models")
  if experiment.audit.audit:
    raise UserError(
      "audit",
      "is for models of one's own; experiments.audit reads what imported models predict "
      "of their training examples from a file (--train_margins)",
    )
  sizes = models.store.settings["num_train"], models.store.settings["num_targets"]
  counts = len(dataset.train_labels), len(dataset.test_labels)
  if sizes != counts:
    raise UserError(
      "dataset",
      f"={experiment.data.dataset} has {counts[0]} training and {counts[1]} test "
      f"images, but the imported models are of {sizes[0]} and {sizes[1]}",
    )
  held_out = experiment.collect.num_held_out
  check_held_out(held_out, models.models)
  collect = dataclasses.replace(
    experiment.collect,
    alpha=models.subsets.alpha,
    num_models=models.models - held_out,
    held_out_from=models.models - held_out,
    held_out_seeds=1,
  )
  return dataclasses.replace(experiment, collect=collect)
