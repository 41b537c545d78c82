"""What models that others trained predict of their training examples, as `.npy` files."""

import dataclasses
from typing import Any

import numpy as np

from experiments.config import experiment_flags
from experiments.config.path_flags import define_path
from experiments.runtime import (
  datamodels,
  imported_models,
  launcher,
  margin_files,
  stages,
)
from experiments.runtime.workdir import Workdir
from jaxdm import identity, training_sets
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.margins import Margins
from jaxdm.storage import bank as bank_lib

TRAIN_MARGINS = define_path(
  "train_margins",
  None,
  "Instead of models of one's own: an .npy of float [m, n], the margins of all training "
  "examples under each model. Needed only once per workdir, as the next two.",
)
TRAIN_LABELS = define_path(
  "train_labels",
  None,
  "With --train_margins: an .npy of int [n], the labels of the training examples; "
  "default: those of the workdir's images.",
)
TRAIN_CLASSES = define_path(
  "train_classes",
  None,
  "With --train_margins: an .npy of int [m, n], the classes that the models choose. With "
  "two classes they follow from the margins; with more, no label is suggested without "
  "them.",
)
_OURS = (TRAIN_MARGINS, TRAIN_LABELS, TRAIN_CLASSES)


@dataclasses.dataclass(frozen=True)
class TrainingPredictions:
  """Models, and what they predict of their training examples.

  Attributes:
    workdir: for the results.
    masks: bool[m, n].
    margins_mn: float.
    labels: int[n].
    classes_mn: int; None: unknown.
    scores: float[t, n], for support and opposition; None: there are none.
    data: the examples; None: there are only labels.
    settings: what the result depends on, by group.
    inputs: digests of what else it depends on, by name.
  """

  workdir: Workdir
  masks: training_sets.PackedMasks
  margins_mn: Margins
  labels: np.ndarray
  classes_mn: Margins | None
  scores: np.ndarray | None
  data: Dataset | None
  settings: dict[str, dict[str, Any]]
  inputs: dict[str, str]

  def class_name(self, label: int) -> str:
    """The name of a class; its number where names are unknown or it is none."""
    names = self.data.class_names if self.data else ()
    return names[label] if 0 <= label < len(names) else str(label)

  def source(self, example: int) -> str:
    """Where an example came from, if that is known."""
    return self.data.train_sources[example] if self.data else ""


def are_requested() -> bool:
  """Whether flags or workdir ask for somebody else's models."""
  if any(flag.value for flag in _OURS) or margin_files.MASKS.value:
    return True
  workdir = launcher.open_workdir()
  if "files" in stages.stored_settings(workdir) or imported_models.exist(workdir):
    return True
  return _paths(workdir)["train_margins"] is not None


def open_predictions() -> TrainingPredictions:
  """Reads and checks what flags or workdir name.

  Raises:
    UserError: on files that are missing, or do not match.
  """
  unused = margin_files.MARGINS, margin_files.TARGETS, margin_files.DROP_NONFINITE
  for flag in unused:
    if flag.value:
      raise UserError(flag.name, "has no effect in this program; see --train_margins")
  workdir = launcher.open_workdir()
  paths = _paths(workdir)
  if imported_models.exist(workdir) and not margin_files.MASKS.value:
    paths["masks"] = None  # The store has them, and the file may be gone.
  needed = [name for name in ("train_margins", "train_classes", "masks") if paths[name]]
  workdir.places.check_exist(*needed)
  if paths["train_margins"] is None:
    raise UserError(
      "train_margins",
      "is needed to audit models that others trained: an .npy of float [m, n], the "
      "margins of all training examples",
    )
  masks = _masks(workdir, paths["masks"])
  margins_mn = margin_files.read_matrix("train_margins", paths["train_margins"])
  classes_mn = None
  if paths["train_classes"]:
    classes_mn = margin_files.read_matrix("train_classes", paths["train_classes"])
  for flag, matrix in ((TRAIN_MARGINS, margins_mn), (TRAIN_CLASSES, classes_mn)):
    if matrix is not None and matrix.shape != masks.shape:
      raise UserError(
        flag.name,
        f"must be [models, training examples] = {list(masks.shape)}, as the masks, got "
        f"{list(matrix.shape)}",
      )
  stored = stages.stored_settings(workdir)
  has_images = "files" not in stored and experiment_flags.names_images(stored)
  data = launcher.open_run().dataset if has_images else None
  labels = _labels(paths["train_labels"], data, masks.shape[1])
  digest = identity.digest([masks, margins_mn, labels, classes_mn])
  inputs, scores = {}, None
  if stages.is_finished(workdir, datamodels.STAGE):
    inputs = stages.outputs_of(workdir, datamodels.STAGE)
    scores = datamodels.load(workdir).weights_tn
    if scores.shape[1] != len(labels):
      raise UserError(
        "workdir",
        f"={workdir.path} holds datamodels of {scores.shape[1]} examples, and the masks "
        f"are of {len(labels)}; name another one",
      )
  settings = {"audit_files": {"digest": digest}}
  return TrainingPredictions(
    workdir, masks, margins_mn, labels, classes_mn, scores, data, settings, inputs
  )


def _paths(workdir: Workdir) -> dict[str, str | None]:
  """The files that flags name now, or earlier."""
  values = {flag.name: flag.value for flag in (*_OURS, margin_files.MASKS)}
  return workdir.places.find(**values)


def _masks(workdir: Workdir, path: str | None) -> training_sets.PackedMasks:
  """The training sets, of a file or of the models that were imported."""
  if path is None and imported_models.exist(workdir):
    models = imported_models.collection(workdir)
    return bank_lib.packed_masks(models.store, np.arange(models.models))
  if path is None:
    raise UserError(
      "masks", "is needed with --train_margins: an .npy of bool [m, n] training masks"
    )
  blocks = margin_files.check_blocks(margin_files.read_matrix("masks", path))
  return training_sets.PackedMasks.of(blocks)


def _labels(path: str | None, data: Dataset | None, count: int) -> np.ndarray:
  """The labels of the training examples."""
  if path is None and data is not None:
    return data.train_labels
  if path is None:
    raise UserError(
      "train_labels", "is needed with --train_margins: an .npy of int [n] labels"
    )
  try:
    labels = np.load(path, allow_pickle=False)
  except Exception as error:  # NumPy parses the header as Python, and so fails.
    raise UserError(
      "train_labels", f"={path} is not a whole .npy file: {error}"
    ) from error
  if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
    raise UserError("train_labels", f"={path} must hold integers")
  if labels.shape != (count,):
    raise UserError(
      "train_labels", f"={path} must hold {count} labels, got {list(labels.shape)}"
    )
  return labels
