"""Whether the settings of an experiment go together with its data."""

import dataclasses

import numpy as np

from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from jaxdm import training_sets
from jaxdm.brittleness import label_flips
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training import networks, resnet9
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.config import TrainConfig
from jaxdm.training.speed import Speed

# Fields of settings without effect on training by a function of the user.
_OF_NETWORKS = {
  "equal_steps",
  "keep_logits",
  *(
    field.name
    for config in (
      settings_lib.NetworkConfig,
      settings_lib.GradientConfig,
      TrainConfig,
      Speed,
    )
    for field in dataclasses.fields(config)
  ),
}


def check(experiment: settings_lib.Experiment, dataset: Dataset) -> None:
  """Raises UserError where settings and data do not go together."""
  n, alpha = len(dataset.train_labels), experiment.collect.alpha
  size = training_sets.subset_size(n, alpha)
  if not experiment.retrain.retrain:
    _check_network(experiment, dataset)
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
    labels = dataset.test_labels[list(experiment.compare.target_list)]
    if not labels.size:
      raise UserError(
        "flip_to", f"={flip_to} needs targets of other classes, by --search_targets"
      )
    label_flips.one_class(dataset.class_names.index(flip_to), labels)
  if size >= n:
    raise UserError("alpha", f"must leave out at least 1 of {n} examples, got {alpha}")


def _check_network(experiment: settings_lib.Experiment, dataset: Dataset) -> None:
  """Raises UserError on a network that cannot be trained on the data."""
  shape = dataset.downscaled(experiment.data.downscale).train_images.shape[1:]
  height, width = shape[:2] if dataset.has_images else (np.inf, np.inf)
  network = experiment.network.network
  if network == "resnet9" and min(height, width) < resnet9.LEAST_PIXELS:
    factor = experiment.data.downscale
    setting, place = (
      ("downscale", f"={factor} leaves") if factor > 1 else ("dataset", "has")
    )
    least = "x".join([str(resnet9.LEAST_PIXELS)] * 2)
    raise UserError(
      setting, f"{place} images of {height}x{width} pixels; {least} are needed"
    )
  if network in networks.NAMES:  # Others are compiled, and checked, by `make_run`.
    recipe_lib.make(
      experiment.train,
      num_classes=dataset.num_classes,
      input_shape=shape,
      network=network,
    )


def check_used(experiment: settings_lib.Experiment, dataset: Dataset) -> None:
  """Raises UserError on a flag that says nothing of this network or these data."""
  network, fields = experiment.network.network, experiment_flags.flag_fields()
  if experiment.retrain.retrain:
    if fields & _OF_NETWORKS:
      name = min(fields & _OF_NETWORKS)
      raise UserError(name, "has no effect with --retrain")
    return
  if not dataset.has_images:
    for name in ("flip", "translate_pixels", "cutout_pixels"):
      if name in fields:
        raise UserError(name, "has no effect on feature vectors")
  unused = {"resnet9": (), "mlp": ("conv_backend",), "linear": ("width", "conv_backend")}
  for name in unused.get(network, ("width", "compute_dtype", "conv_backend")):
    if name in fields:
      raise UserError(name, f"has no effect on --network={network}")
