"""The ways of choosing training examples that `presets.METHODS` names."""

from collections.abc import Mapping

import numpy as np

from experiments import base_models, fit_datamodels, lab
from jaxdm import baselines, datamodels, quality

# Their scores say of examples of other classes, too, how much they support a target.
OF_ALL_CLASSES = ("datamodel", "influence", "trak", "tracin")


def scores(opened: lab.Lab, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  """How much each example supports each target, float32[t, n] a method."""
  found = base_models.load(opened).scores
  if "datamodel" in names:
    found["datamodel"] = fit_datamodels.fitted(opened.workdir).weights_tn
  if "pixels" in names:
    images = opened.dataset.train_images, opened.dataset.test_images
    rows = [part.reshape(len(part), -1).astype(np.float32) for part in images]
    found["pixels"] = baselines.by_tile(baselines.closeness, *rows)
  if "random" in names:
    shape = len(opened.target_labels), len(opened.labels)
    found["random"] = baselines.random(*shape, seed=opened.seed)
  return {name: found[name] for name in names}


def judged(
  opened: lab.Lab, scores: Mapping[str, np.ndarray]
) -> dict[str, quality.Quality]:
  """How well each method's scores predict the held-out models."""
  masks, margins_mt = fit_datamodels.held_out_rows(opened)
  found = {}
  for name, scores_tn in scores.items():
    guess_mt = datamodels.predictions_by_subset(masks, scores_tn)
    found[name] = quality.evaluate(guess_mt, margins_mt, masks)
  return found
