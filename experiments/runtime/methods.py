"""The ways of choosing training examples that `settings_lib.METHODS` names."""

from collections.abc import Mapping

import numpy as np

from experiments.runtime import base_models, datamodels
from experiments.runtime.run import Run
from jaxdm import matrices
from jaxdm.attribution.registry import METHODS, all_classes
from jaxdm.attribution.scores import ScoreRows
from jaxdm.attribution.similarity import pixel_rows
from jaxdm.brittleness import label_flips
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError


def scores(
  run: Run, names: tuple[str, ...], models: Datamodels | None = None
) -> dict[str, matrices.Matrix]:
  """How much each example supports each target, float32[t, n] a method.

  Only the datamodels' weights stay in memory. Scores of models on all data are read, and
  those of pixels and random computed, for the targets that are asked for.

  Args:
    run: the experiment.
    names: some of `settings_lib.METHODS`.
    models: the experiment's datamodels; None: they are read if a name needs them.

  Raises:
    UserError: on a method whose scores were not asked for when models were trained.
  """
  stored = base_models.load(run).scores
  scores_of: dict[str, matrices.Matrix] = {}
  for name in names:
    if name == "datamodel":
      models = models or datamodels.load(run.workdir)
      scores_of[name] = models.weights_tn
    elif name == "pixels":  # At their native size.
      images = run.dataset.train_images, run.dataset.test_images
      scores_of[name] = pixel_rows(*images)
    elif rows := METHODS[name].rows:
      scores_of[name] = rows(run.trainer)
    elif name in stored:
      scores_of[name] = _read_rows(stored, name)
    else:
      raise UserError(
        "methods",
        f": {run.workdir.path} has no scores of {name}; run experiments.train_subsets "
        "and experiments.fit_datamodels with these --methods first",
      )
  return scores_of


def rival_classes(run: Run, base_logits_rtk: np.ndarray | None) -> np.ndarray:
  """The class, other than its own, that models give each target most, int32[t].

  It is the class that they predict if the target is wrong. Where models give no logits it
  is the class whose examples lower the margin most by the datamodels.

  Args:
    run: the experiment.
    base_logits_rtk: of the models on all data; None: they give margins only.
  """
  data = run.dataset
  if base_logits_rtk is not None:
    return label_flips.runner_up_class(base_logits_rtk, data.test_labels)
  weights_tn = datamodels.load(run.workdir).weights_tn
  return label_flips.competing_class(weights_tn, data.train_labels, data.test_labels)


def for_repairs(
  scores_of: Mapping[str, matrices.Matrix], data: Dataset, rival_t: np.ndarray
) -> dict[str, matrices.Matrix]:
  """Scores by name; those that say nothing of opposition rank the rival classes first.

  Args:
    scores_of: by method.
    data: examples and targets.
    rival_t: int, see `rival_classes`.
  """
  return {
    name: one if all_classes(name) else of_class(one, data, rival_t)
    for name, one in scores_of.items()
  }


def of_class(
  scores_tn: matrices.Matrix, data: Dataset, class_t: np.ndarray
) -> matrices.Matrix:
  """Scores in which examples of third classes have each target's lowest score.

  Args:
    scores_tn: float, highest for what is to be changed first.
    data: examples and targets.
    class_t: int, whose examples come first; those of the target's own class stay.
  """

  def rows_of(targets: np.ndarray) -> np.ndarray:
    rows_un = np.asarray(scores_tn[targets], np.float32)
    own_u, class_u = data.test_labels[targets], class_t[targets]
    either = np.stack([own_u, class_u], axis=1)[:, :, None] == data.train_labels
    return np.where(either.any(axis=1), rows_un, rows_un.min(axis=1, keepdims=True))

  return ScoreRows((len(data.test_labels), len(data.train_labels)), rows_of)


def _read_rows(stored: Mapping[str, np.ndarray], name: str) -> ScoreRows:
  """A stored method's scores; the file is mapped while rows are copied, and no longer.

  Pages of a map that stays open count as this process's memory once they are read.
  """
  t, n = stored[name].shape
  return ScoreRows((t, n), lambda targets: stored[name][targets])
