"""What training costs, counted and not measured."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import settings as settings_lib
from experiments.runtime import checks, data_source
from jaxdm import training_sets
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training import recipe
from jaxdm.training.config import TrainConfig


class Size(NamedTuple):
  """The size of an experiment's problem.

  Attributes:
    num_train: n.
    num_targets: t.
    image_shape: (h, w, c), as trained on.
    num_classes: k.
  """

  num_train: int
  num_targets: int
  image_shape: tuple[int, ...]
  num_classes: int


# CIFAR-10 as its authors describe it (https://www.cs.toronto.edu/~kriz/cifar.html):
# 6,000 images of 32x32 pixels in each class, of which 1,000 are for testing.
_CIFAR10_CLASSES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)
_CIFAR10_TRAIN, _CIFAR10_TEST, _CIFAR10_SHAPE = 5000, 1000, (32, 32, 3)


def load_blank(
  config: settings_lib.DataConfig, where: Mapping[str, str | None]
) -> Dataset:
  """The dataset that a config describes, without the images of CIFAR-10.

  CIFAR-10 need not be prepared: its images are 0, and its classes take turns. All other
  datasets are loaded.

  Args:
    config: which classes and how many examples of each.
    where: data_dir and arrays of `data.load`.

  Raises:
    DataError: on what a run would refuse, too.
  """
  if config.dataset.partition(":")[0] != "cifar10":
    return data_source.load(config, dict(where))
  labels = np.arange(len(_CIFAR10_CLASSES), dtype=np.int32)
  train, test = np.tile(labels, _CIFAR10_TRAIN), np.tile(labels, _CIFAR10_TEST)
  full = Dataset(
    name=config.dataset,
    train_images=np.zeros((len(train), *_CIFAR10_SHAPE), np.uint8),
    train_labels=train,
    test_images=np.zeros((len(test), *_CIFAR10_SHAPE), np.uint8),
    test_labels=test,
    class_names=_CIFAR10_CLASSES,
  )
  return data_source.select(full, config)


def problem_size(
  experiment: settings_lib.Experiment, where: Mapping[str, str | None] = {}
) -> Size:
  """The size of the problem that an experiment's data config describes.

  Args:
    experiment: its other settings are checked against the data, as before a run.
    where: data_dir and arrays of `data.load`.

  Raises:
    UserError: on settings and data that a run would refuse, too.
  """
  if experiment.retrain.retrain:
    raise UserError("retrain", "has no effect in this program")
  if experiment.network.network != "resnet9":
    raise UserError(
      "network",
      "must be resnet9, the one whose operations are counted, got "
      f"{experiment.network.network}",
    )
  dataset = load_blank(experiment.data, where)
  checks.check(experiment, dataset)
  small = dataset.downscaled(experiment.data.downscale)
  return Size(
    len(small.train_labels),
    len(small.test_labels),
    small.train_images.shape[1:],
    small.num_classes,
  )


def samples_per_model(experiment: settings_lib.Experiment, num_train: int) -> int:
  """Images that one model on a random subset trains on, repetitions counted."""
  size = training_sets.subset_size(num_train, experiment.collect.alpha)
  steps = experiment.train.num_steps(np.array(size))
  return int(steps) * experiment.train.batch_size


def flops_per_sample(
  config: TrainConfig, image_shape: tuple[int, ...], num_classes: int
) -> float:
  """Operations that training on one image asks for, by the layers' own formulas.

  A convolution counts 2 * out_h * out_w * out_c * kh * kw * in_c, taps on padding
  included, however it is carried out, and its backward pass twice that, less the
  gradient for the images. Batch norm, pooling and augmentation count nothing.
  """
  one_recipe = recipe.make(
    config, num_classes=num_classes, input_shape=image_shape, conv_backend="lax"
  )
  net = one_recipe.network
  layers = [
    2.0 * np.prod(eqn.invars[1].aval.shape[:-1]) * np.prod(eqn.outvars[0].aval.shape)
    for eqn in net.operations(image_shape, 1)
    if eqn.primitive.name == "conv_general_dilated"
  ]
  variables = jax.eval_shape(lambda: net.initialise(jax.random.key(0), image_shape))
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  logits, features = jax.eval_shape(net.outputs, variables, image)
  layers.append(2.0 * features.shape[-1] * logits.shape[-1])
  return float(3 * sum(layers) - layers[0])
