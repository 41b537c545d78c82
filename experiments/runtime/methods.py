"""The ways of choosing training examples that `settings_lib.METHODS` names."""

from collections.abc import Mapping

import numpy as np

from experiments import fit_datamodels
from experiments.runtime import base_models, lab
from jaxdm.attribution.registry import METHODS
from jaxdm.attribution.scores import ScoreRows
from jaxdm.attribution.similarity import pixel_rows
from jaxdm.datamodels import metrics
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.datamodels.model import Datamodels
from jaxdm.lasso import design


def scores(
  opened: lab.Lab, names: tuple[str, ...], models: Datamodels | None = None
) -> dict[str, design.Matrix]:
  """How much each example supports each target, float32[t, n] a method.

  Only the datamodels' weights stay in memory. Scores of models on all data are read, and
  those of pixels and random computed, for the targets that are asked for.

  Args:
    opened: the experiment.
    names: some of `settings_lib.METHODS`.
    models: the experiment's datamodels; None: they are read if a name needs them.
  """
  stored = base_models.load(opened).scores
  found: dict[str, design.Matrix] = {}
  for name in names:
    if name == "datamodel":
      models = models or fit_datamodels.fitted(opened.workdir)
      found[name] = models.weights_tn
    elif name == "pixels":  # At their native size.
      images = opened.dataset.train_images, opened.dataset.test_images
      found[name] = pixel_rows(*images)
    elif rows := METHODS[name].rows:
      found[name] = rows(opened.trainer)
    else:
      found[name] = _read_rows(stored, name)
  return found


def _read_rows(stored: Mapping[str, np.ndarray], name: str) -> ScoreRows:
  """A stored method's scores; the file is mapped while rows are copied, and no longer.

  Pages of a map that stays open count as this process's memory once they are read.
  """
  t, n = stored[name].shape
  return ScoreRows((t, n), lambda targets: stored[name][targets])


def judged(
  opened: lab.Lab, scores: Mapping[str, design.Matrix]
) -> dict[str, metrics.Quality]:
  """How well each method's scores predict the held-out models."""
  held_out = fit_datamodels.held_out_rows(opened)
  return {name: evaluate_scores(rows, *held_out) for name, rows in scores.items()}
