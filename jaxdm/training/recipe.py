"""How one model is trained, as functions of arrays that follow from its settings."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from flax import linen as nn

from jaxdm.errors import UserError
from jaxdm.training import augment, conv, networks
from jaxdm.training.config import TrainConfig
from jaxdm.training.networks import Network
from jaxdm.training.optimiser import optimiser
from jaxdm.training.schedule import learning_rate
from jaxdm.typing import Array


class Recipe(NamedTuple):
  """How a model is trained, as functions of arrays; made once, and passed on.

  Attributes:
    network: what is trained.
    batch_size: examples a step.
    num_steps: from the size of a training set to steps.
    learning_rate: from progress in [0, 1) to the rate.
    optimiser: from gradients to the direction that the learning rate scales.
    augment: from a key and normalised inputs to inputs.
    label_smoothing: in [0, 1).
    mirror: whether predictions are averaged with those of the mirrored image.
  """

  network: Network
  batch_size: int
  num_steps: Callable[[Any], Any]
  learning_rate: Callable[[Array], Array]
  optimiser: optax.GradientTransformation
  augment: Callable[[Array, Array], Array]
  label_smoothing: float
  mirror: bool


def make(
  config: TrainConfig,
  *,
  num_classes: int,
  input_shape: tuple[int, ...],
  network: str | nn.Module = "resnet9",
  conv_backend: conv.Backend = "lax",
) -> Recipe:
  """The recipe that a config describes.

  Feature vectors are neither augmented nor mirrored.

  Args:
    config: the settings.
    num_classes: k.
    input_shape: of one input, (h, w, c) or (d,).
    network: see `networks.make`.
    conv_backend: of ResNet-9's convolutions.

  Raises:
    UserError: on a network that does not fit the inputs or the config.
  """
  is_images = len(input_shape) == 3
  net = networks.make(
    network,
    num_classes=num_classes,
    input_shape=input_shape,
    width=config.width,
    dtype=config.compute_dtype,
    conv_backend=conv_backend,
  )
  if config.muon_rate and not net.convolves:
    raise UserError(
      "muon_rate",
      "must be 0 for a network without convolutions, which has no kernels that "
      f"follow Muon, got {config.muon_rate}",
    )

  if is_images and config.cutout_pixels >= min(input_shape[:2]):
    raise UserError(
      "cutout_pixels",
      f"must be smaller than the images' side of {min(input_shape[:2])} pixels, got "
      f"{config.cutout_pixels}; 0: no cutout",
    )

  def augment_inputs(key: Array, inputs: Array) -> Array:
    if not is_images:
      return inputs
    return augment.augment(
      key,
      inputs,
      use_flip=config.flip,
      translate_pixels=config.translate_pixels,
      cutout_pixels=config.cutout_pixels,
    )

  return Recipe(
    net,
    config.batch_size,
    config.num_steps,
    functools.partial(learning_rate, config),
    optimiser(config),
    augment_inputs,
    config.label_smoothing,
    config.flip and is_images,
  )
