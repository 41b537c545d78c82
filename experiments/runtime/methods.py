"""The ways of choosing training examples that `settings_lib.METHODS` names."""

from collections.abc import Mapping

import numpy as np

from experiments import fit_datamodels
from experiments.runtime import base_models
from experiments.runtime.run import Run
from jaxdm.attribution.registry import METHODS
from jaxdm.attribution.scores import ScoreRows
from jaxdm.attribution.similarity import pixel_rows
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError
from jaxdm.lasso import design


def scores(
  run: Run, names: tuple[str, ...], models: Datamodels | None = None
) -> dict[str, design.Matrix]:
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
  found: dict[str, design.Matrix] = {}
  for name in names:
    if name == "datamodel":
      models = models or fit_datamodels.load(run.workdir)
      found[name] = models.weights_tn
    elif name == "pixels":  # At their native size.
      images = run.dataset.train_images, run.dataset.test_images
      found[name] = pixel_rows(*images)
    elif rows := METHODS[name].rows:
      found[name] = rows(run.trainer)
    elif name in stored:
      found[name] = _read_rows(stored, name)
    else:
      raise UserError(
        "methods",
        f": {run.workdir.path} has no scores of {name}; run experiments.train_subsets "
        "and experiments.fit_datamodels with these --methods first",
      )
  return found


def _read_rows(stored: Mapping[str, np.ndarray], name: str) -> ScoreRows:
  """A stored method's scores; the file is mapped while rows are copied, and no longer.

  Pages of a map that stays open count as this process's memory once they are read.
  """
  t, n = stored[name].shape
  return ScoreRows((t, n), lambda targets: stored[name][targets])
