"""The ways of choosing training examples that `presets.METHODS` names."""

from collections.abc import Mapping

import numpy as np

from experiments import fit_datamodels
from experiments.runtime import base_models, lab
from jaxdm import training_sets
from jaxdm.attribution.random_scores import random_rows
from jaxdm.attribution.scores import ScoreRows
from jaxdm.attribution.similarity import pixel_rows
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import Datamodels, predictions_by_subset
from jaxdm.lasso import design

# Their scores say of examples of other classes, too, how much they support a target.
OF_ALL_CLASSES = ("datamodel", "influence", "trak", "tracin")


def scores(
  opened: lab.Lab, names: tuple[str, ...], models: Datamodels | None = None
) -> dict[str, design.Matrix]:
  """How much each example supports each target, float32[t, n] a method.

  Only the datamodels' weights stay in memory. Scores of models on all data are read, and
  those of pixels and random computed, for the targets that are asked for.

  Args:
    opened: the experiment.
    names: some of `presets.METHODS`.
    models: the experiment's datamodels; None: they are read if a name needs them.
  """
  stored = base_models.load(opened).scores
  found: dict[str, design.Matrix] = {}
  for name in names:
    if name == "datamodel":
      models = models or fit_datamodels.fitted(opened.workdir)
      found[name] = models.weights_tn
    elif name == "pixels":
      images = opened.dataset.train_images, opened.dataset.test_images
      found[name] = pixel_rows(*images)
    elif name == "random":
      shape = len(opened.target_labels), len(opened.labels)
      found[name] = random_rows(*shape, seed=opened.seed)
    else:
      found[name] = _read_rows(stored, name)
  return found


def _read_rows(stored: Mapping[str, np.ndarray], name: str) -> ScoreRows:
  """A stored method's scores; the file is mapped while rows are copied, and no longer.

  Pages of a map that stays open count as this process's memory once they are read.
  """
  t, n = stored[name].shape
  return ScoreRows((t, n), lambda targets: stored[name][targets])


def judge(
  scores_tn: design.Matrix,
  masks: training_sets.PackedMasks,
  margins_mt: np.ndarray,
) -> metrics.Quality:
  """How well one method's scores predict the held-out models.

  Args:
    scores_tn: float.
    masks: of the held-out models.
    margins_mt: float, of the held-out models.
  """
  guess_mt = predictions_by_subset(masks, scores_tn)
  return metrics.evaluate(guess_mt, margins_mt, masks)


def judged(
  opened: lab.Lab, scores: Mapping[str, design.Matrix]
) -> dict[str, metrics.Quality]:
  """How well each method's scores predict the held-out models."""
  held_out = fit_datamodels.held_out_rows(opened)
  return {name: judge(rows, *held_out) for name, rows in scores.items()}
