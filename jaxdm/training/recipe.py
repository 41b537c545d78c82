"""How one model is trained: its settings, and the functions that follow from them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import linen as nn

from jaxdm.errors import UserError
from jaxdm.rounding import share_of
from jaxdm.training import augment, conv, networks
from jaxdm.training.networks import Network
from jaxdm.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """All that decides what a trained model is, besides its data and its seed.

  The defaults are the recipe of the datamodels paper's released code.

  >>> import jaxdm
  >>> config = jaxdm.TrainConfig(epochs=10, batch_size=100)
  >>> float(config.num_steps(2000))  # On 2,000 examples.
  200.0

  Attributes:
    width: Number of channels of the first layer of ResNet-9, or number of hidden units
      of the MLP.
    epochs: Number of passes over the training set; can be a fraction.
    epoch_examples: Number of examples that count as one epoch. 0: the size of the
      model's own training set, as published. With another number, all models take the
      same number of steps, whatever the size of their training sets.
    batch_size: Number of examples per step.
    peak_learning_rate: Maximum learning rate. The rate rises linearly from 0 to this
      value and then falls linearly to 0.
    peak_at: Share of the training steps after which the learning rate has its maximum.
    momentum: Momentum of SGD, and of Muon.
    weight_decay: Weight decay. With SGD, this multiple of a parameter is added to its
      gradient, as published. With Muon, weight decay is decoupled: at every step, a
      kernel shrinks by this multiple of its learning rate. Reason: the size of a term
      that is added before orthogonalisation would have no effect.
    muon_rate: Maximum learning rate of the optimiser Muon (Jordan, 2024: orthogonalised
      momentum), with the same schedule. Muon updates the kernels of all convolutions
      except the first. 0: SGD for all parameters, as published.
    label_smoothing: Label smoothing, in [0, 1).
    flip: Mirror training images at random. Average each prediction with the prediction
      for the mirrored image.
    translate_pixels: Largest random shift of a training image, in pixels.
    cutout_pixels: Side length, in pixels, of the square in a training image that is set
      to the mean; 0: no cutout.
    compute_dtype: Data type of activations and matrix products: 'float32' or
      'bfloat16'. Parameters are always float32.
  """

  width: int = 64
  epochs: float = 24.0
  epoch_examples: int = 0
  batch_size: int = 512
  peak_learning_rate: float = 0.5
  peak_at: float = 5 / 24
  momentum: float = 0.9
  weight_decay: float = 5e-4
  muon_rate: float = 0.0
  label_smoothing: float = 0.1
  flip: bool = True
  translate_pixels: int = 2
  cutout_pixels: int = 4
  compute_dtype: str = "float32"

  def __post_init__(self) -> None:
    for name in ("width", "epochs", "batch_size", "peak_learning_rate"):
      if not 0 < getattr(self, name) < float("inf"):
        raise UserError(name, f"must be positive, got {getattr(self, name)}")
    for name in ("momentum", "label_smoothing"):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(name, f"must be in [0, 1), got {getattr(self, name)}")
    if not 0 < self.peak_at < 1:
      raise UserError("peak_at", f"must be in (0, 1), got {self.peak_at}")
    least_0 = "epoch_examples", "muon_rate", "weight_decay"
    for name in (*least_0, "translate_pixels", "cutout_pixels"):
      if not getattr(self, name) >= 0:
        raise UserError(name, f"must be >= 0, got {getattr(self, name)}")
    if self.compute_dtype not in ("float32", "bfloat16"):
      raise UserError(
        "compute_dtype", f"must be float32 or bfloat16, got {self.compute_dtype!r}"
      )

  def num_steps(self, count: Any) -> Any:
    """Steps that a model on `count` examples takes; accepts arrays."""
    if self.epoch_examples:
      examples = share_of(self.epochs, self.epoch_examples)
      return 0 * count + math.ceil(examples / self.batch_size)
    exact = count * (self.epochs / self.batch_size)
    # Rounding up an almost-integer would depend on the float width in use.
    return (exact + (1 - 1e-3)) // 1


def learning_rate(config: TrainConfig, progress: Array) -> Array:
  """The triangular schedule at `progress` in [0, 1)."""
  rise = progress / config.peak_at
  fall = (1 - progress) / (1 - config.peak_at)
  return config.peak_learning_rate * jnp.maximum(jnp.minimum(rise, fall), 0.0)


def _kind(path: Any, leaf: Array) -> str:
  """Which rule a parameter follows, where there are two."""
  first_layer = path[0].key == "ConvBlock_0"
  return "muon" if leaf.ndim == 4 and not first_layer else "sgd"


def _as_matrices(kernels: Any) -> Array:
  """Kernels [kh, kw, c, o] as matrices of kh * kw * c by o, with zeros to equal sizes."""
  matrices = [kernel.reshape(-1, kernel.shape[-1]) for kernel in jax.tree.leaves(kernels)]
  rows, columns = (max(m.shape[axis] for m in matrices) for axis in (0, 1))
  return jnp.stack(
    [jnp.pad(m, [(0, rows - len(m)), (0, columns - m.shape[1])]) for m in matrices]
  )


def _as_kernels(matrices: Array, like: Any) -> Any:
  """What `_as_matrices` made matrices of."""
  leaves, treedef = jax.tree.flatten(like)
  found = [
    matrix[: leaf.size // leaf.shape[-1], : leaf.shape[-1]].reshape(leaf.shape)
    for matrix, leaf in zip(matrices, leaves, strict=True)
  ]
  return jax.tree.unflatten(treedef, found)


def _all_at_once(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """A transformation of matrices, applied to all kernels as one array.

  One by one, Muon's many small products keep an accelerator waiting for launches. The
  zeros that fill a matrix change none of its singular vectors.
  """

  def init(kernels: Any) -> Any:
    return inner.init(_as_matrices(kernels))

  def update(kernels: Any, state: Any, params: Any = None) -> Any:
    matrices, state = inner.update(_as_matrices(kernels), state)
    return _as_kernels(matrices, kernels), state

  return optax.GradientTransformation(init, update)


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
  """From gradients to the direction that the learning rate scales."""
  decay = optax.add_decayed_weights(config.weight_decay)
  sgd = optax.chain(decay, optax.trace(config.momentum))
  if not config.muon_rate:
    return sgd
  # Matrices lie along the first axis.
  matrices = optax.contrib.MuonDimensionNumbers(1, 2)
  by_muon = optax.contrib.scale_by_muon(
    beta=config.momentum, weight_dimension_numbers=matrices
  )
  muon = optax.chain(
    _all_at_once(by_muon),
    decay,
    optax.scale(config.muon_rate / config.peak_learning_rate),
  )
  kinds = functools.partial(jax.tree_util.tree_map_with_path, _kind)
  return optax.partition({"muon": muon, "sgd": sgd}, kinds)


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
  made = networks.make(
    network,
    num_classes=num_classes,
    input_shape=input_shape,
    width=config.width,
    dtype=config.compute_dtype,
    conv_backend=conv_backend,
  )
  if config.muon_rate and not made.convolves:
    raise UserError(
      "muon_rate",
      "must be 0 for a network without convolutions, which has no kernels that "
      f"follow Muon, got {config.muon_rate}",
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
    made,
    config.batch_size,
    config.num_steps,
    functools.partial(learning_rate, config),
    optimiser(config),
    augment_inputs,
    config.label_smoothing,
    config.flip and is_images,
  )
