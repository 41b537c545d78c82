"""Trains ONE model on ONE training set; `fleet` makes many of it."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax import lax

from jaxdm import prng, training_sets
from jaxdm.errors import UserError
from jaxdm.rounding import share_of
from jaxdm.training import augment, conv, resnet9
from jaxdm.typing import Array

Variables = dict[str, Any]
_PREDICT_IMAGES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """All that decides what a trained model is, besides its data and its seed.

  The defaults are the recipe of the datamodels paper's released code.

  Attributes:
    width: channels of ResNet-9's first layer.
    epochs: passes over the training set; may be fractional.
    epoch_examples: what counts as one pass. 0: the model's own set, as published.
      More: that many examples, so that models on sets of any size take the same
      number of steps.
    batch_size: examples a step.
    peak_learning_rate: of a schedule that rises from 0 to `peak_at`, then falls
      to 0, both linearly.
    peak_at: where the peak stands, as a share of training.
    momentum: of SGD, and of Muon.
    weight_decay: this many times a parameter is added to its gradient, as published. A
      kernel that follows Muon instead shrinks by this many times its own learning rate at
      every step, beside the orthogonal update ('decoupled'): what is added before it is
      made orthogonal would have no size.
    muon_rate: 0: SGD for every parameter, as published. More: the kernels of all
      convolutions but the first follow Muon (Jordan, 2024: momentum, made orthogonal)
      with this peak learning rate, on the same schedule.
    label_smoothing: in [0, 1).
    flip: mirror training images at random, and average each prediction with that
      of the mirrored image.
    translate_pixels: largest random shift.
    cutout_pixels: side of the random square set to the mean.
    compute_dtype: 'float32' or 'bfloat16'; parameters are always float32.
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
        raise UserError(f"{name} must be positive, got {getattr(self, name)}")
    for name in ("momentum", "label_smoothing"):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
    if not 0 < self.peak_at < 1:
      raise UserError(f"peak_at must be in (0, 1), got {self.peak_at}")
    least_0 = "epoch_examples", "muon_rate", "weight_decay"
    for name in (*least_0, "translate_pixels", "cutout_pixels"):
      if not getattr(self, name) >= 0:
        raise UserError(f"{name} must be >= 0, got {getattr(self, name)}")
    if self.compute_dtype not in ("float32", "bfloat16"):
      raise UserError(
        f"compute_dtype must be float32 or bfloat16, got {self.compute_dtype!r}"
      )

  def num_steps(self, count: Any) -> Any:
    """Steps that a model on `count` examples takes; accepts arrays."""
    if self.epoch_examples:
      examples = share_of(self.epochs, self.epoch_examples)
      return 0 * count + math.ceil(examples / self.batch_size)
    exact = count * (self.epochs / self.batch_size)
    # Rounding up an almost-integer would depend on the float width in use.
    return (exact + (1 - 1e-3)) // 1


class Images(NamedTuple):
  """Training images, with what it takes to normalise by any subset of them.

  Attributes:
    pixels_n: uint8[n, h, w, c].
    mean_nc: float32, each image's mean pixel.
    power_nc: float32, each image's mean squared pixel.
  """

  pixels_n: Array
  mean_nc: Array
  power_nc: Array

  @classmethod
  def of(cls, pixels_n: np.ndarray) -> "Images":
    """From uint8[n, h, w, c]."""
    mean = pixels_n.mean(axis=(1, 2), dtype=np.float32)
    power = np.square(pixels_n, dtype=np.float32).mean(axis=(1, 2))
    return cls(pixels_n, mean, power)


def _pixel_stats(images: Images, indices_s: Array, count: Array) -> dict[str, Array]:
  """Mean and standard deviation of the pixels of one training set, as float32[c].

  Taken over the model's own set: a statistic of all images would let an excluded
  example change the model.
  """
  used = (jnp.arange(len(indices_s)) < count)[:, None]
  mean, power = (
    jnp.where(used, jnp.asarray(table)[indices_s], 0.0).sum(axis=0) / count
    for table in (images.mean_nc, images.power_nc)
  )
  return {"mean": mean, "std": jnp.sqrt(jnp.maximum(power - mean**2, 1.0))}


def _normalise(pixels: Array, stats: dict[str, Array]) -> jax.Array:
  """float32 images with the training set's mean colour at 0."""
  return (jnp.asarray(pixels, jnp.float32) - stats["mean"]) / stats["std"]


def network(
  config: TrainConfig, num_classes: int, conv_backend: conv.Backend = "auto"
) -> resnet9.ResNet9:
  """The Flax module that a config describes."""
  return resnet9.ResNet9(
    num_classes, config.width, jnp.dtype(config.compute_dtype), conv_backend
  )


def learning_rate(config: TrainConfig, progress: Array) -> Array:
  """The triangular schedule at `progress` in [0, 1)."""
  rise = progress / config.peak_at
  fall = (1 - progress) / (1 - config.peak_at)
  return config.peak_learning_rate * jnp.maximum(jnp.minimum(rise, fall), 0.0)


class State(NamedTuple):
  """A model in training.

  Attributes:
    params: float32 pytree.
    batch_stats: float32 pytree, batch norm's running statistics.
    momentum: the optimiser's state.
  """

  params: Any
  batch_stats: Any
  momentum: Any


def _kind(path: Any, leaf: Array) -> str:
  """Which rule a parameter follows, where there are two."""
  first_layer = path[0].key == "ConvBlock_0"
  return "muon" if leaf.ndim == 4 and not first_layer else "sgd"


def _optimiser(config: TrainConfig) -> optax.GradientTransformation:
  """From gradients to the direction that the learning rate scales."""
  decay = optax.add_decayed_weights(config.weight_decay)
  sgd = optax.chain(decay, optax.trace(config.momentum))
  if not config.muon_rate:
    return sgd
  # A kernel [kh, kw, c, o] as a matrix of kh * kw * c by o.
  matrix = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
  muon = optax.chain(
    optax.contrib.scale_by_muon(
      beta=config.momentum,
      weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrix, tree),
    ),
    decay,
    optax.scale(config.muon_rate / config.peak_learning_rate),
  )
  kinds = functools.partial(jax.tree_util.tree_map_with_path, _kind)
  return optax.partition({"muon": muon, "sgd": sgd}, kinds)


def initial_state(config: TrainConfig, variables: Variables) -> State:
  """A model before its first step, from its 'params' and 'batch_stats'."""
  params = variables["params"]
  return State(params, variables["batch_stats"], _optimiser(config).init(params))


def loss(
  params: Any,
  batch_stats: Any,
  net: resnet9.ResNet9,
  images: Array,
  labels_b: Array,
  label_smoothing: float,
) -> tuple[Array, Any]:
  """Mean cross-entropy of a batch, and the batch statistics it leaves.

  Args:
    params: float32 pytree.
    batch_stats: float32 pytree.
    net: the module.
    images: float32[b, h, w, c], normalised.
    labels_b: int32.
    label_smoothing: in [0, 1).

  Returns:
    float32 scalar, and the updated `batch_stats`.
  """
  variables = {"params": params, "batch_stats": batch_stats}
  (logits, _), updates = net.apply(variables, images, True, mutable=["batch_stats"])
  goal_bk = optax.smooth_labels(
    jax.nn.one_hot(labels_b, net.num_classes), label_smoothing
  )
  return optax.softmax_cross_entropy(logits, goal_bk).mean(), updates["batch_stats"]


def step(
  config: TrainConfig,
  net: resnet9.ResNet9,
  state: State,
  images: Array,
  labels_b: Array,
  rate: Array,
) -> State:
  """One step of SGD on one batch.

  Args:
    config: the recipe.
    net: `network(config, ...)`.
    state: the model.
    images: float32[b, h, w, c], normalised and augmented.
    labels_b: int32.
    rate: float32 scalar, the learning rate.

  Returns:
    The model after the step.
  """
  grads, batch_stats = jax.grad(loss, has_aux=True)(
    state.params, state.batch_stats, net, images, labels_b, config.label_smoothing
  )
  updates, momentum = _optimiser(config).update(grads, state.momentum, state.params)
  params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
  return State(params, batch_stats, momentum)


def begin(config: TrainConfig, net: resnet9.ResNet9, images: Images, key: Array) -> State:
  """One model before its first step; the arguments are those of `advance`."""
  shape = images.pixels_n.shape[1:]
  key = prng.key_for(key, "init")
  return initial_state(config, resnet9.initial_variables(net, key, shape))


def advance(
  config: TrainConfig,
  net: resnet9.ResNet9,
  images: Images,
  training_set: training_sets.TrainingSets,
  key: Array,
  state: State,
  steps: tuple[Array, Array],
) -> State:
  """Trains one model for some steps; where it is interrupted changes nothing.

  Args:
    config: the recipe.
    net: `network(config, ...)`.
    images: the dataset.
    training_set: one row of `TrainingSets`: int32[s], int32[s], int32[].
    key: the model's typed JAX key; the result depends on it and the set alone.
    state: the model at the first of the steps.
    steps: int32 scalars, the first step and the one to stop at. Those from
      `config.num_steps(count)` on change nothing. Models trained side by side must
      take the same ones.

  Returns:
    The model. One that diverged holds values that are not finite, and so do its logits.
  """
  indices_s, labels_s, count = training_set
  num_steps = jnp.asarray(config.num_steps(count), jnp.int32)
  pixel_stats = _pixel_stats(images, indices_s, count)

  def one_step(i: Array, state: State) -> State:
    place = i * config.batch_size + jnp.arange(config.batch_size, dtype=jnp.int32)
    slots_b = prng.shuffled(
      prng.key_for(key, "shuffle"), place // count, place % count, count
    )
    images_b = augment.augment(
      prng.key_for(key, "augment", i),
      _normalise(images.pixels_n[indices_s[slots_b]], pixel_stats),
      use_flip=config.flip,
      translate_pixels=config.translate_pixels,
      cutout_pixels=config.cutout_pixels,
    )
    active = i < num_steps
    rate = jnp.where(active, learning_rate(config, (i + 0.5) / num_steps), 0.0)
    new = step(config, net, state, images_b, labels_s[slots_b], rate)
    kept = jax.tree.map(
      lambda now, before: jnp.where(active, now, before),
      new.batch_stats,
      state.batch_stats,
    )
    return new._replace(batch_stats=kept)

  return lax.fori_loop(*steps, one_step, state)


def variables_of(
  state: State, images: Images, training_set: training_sets.TrainingSets
) -> Variables:
  """A trained model's variables, float32: 'params', 'batch_stats' and 'pixel_stats'."""
  indices_s, _, count = training_set
  return {
    "params": state.params,
    "batch_stats": state.batch_stats,
    "pixel_stats": _pixel_stats(images, indices_s, count),
  }


def train_one(
  config: TrainConfig,
  net: resnet9.ResNet9,
  images: Images,
  training_set: training_sets.TrainingSets,
  key: Array,
  loop_steps: Array,
) -> Variables:
  """Trains one model from its first step to its last; see `advance`."""
  state = begin(config, net, images, key)
  steps = jnp.zeros_like(loop_steps), loop_steps
  state = advance(config, net, images, training_set, key, state, steps)
  return variables_of(state, images, training_set)


def predict(
  net: resnet9.ResNet9, variables: Variables, pixels: Array, *, mirror: bool
) -> tuple[Array, Array]:
  """Logits and features of images under one trained model.

  Args:
    net: the module.
    variables: one model's.
    pixels: uint8[t, h, w, c].
    mirror: average with the prediction for the image mirrored along its width.

  Returns:
    float32[t, k] and float32[t, f].
  """

  def block(pixels: Array) -> tuple[Array, Array]:
    images = _normalise(pixels, variables["pixel_stats"])
    views = [images, images[:, :, ::-1, :]] if mirror else [images]
    outputs: Any = net.apply(variables, jnp.concatenate(views), False)
    logits, features = (
      out.reshape(len(views), len(images), -1).mean(axis=0) for out in outputs
    )
    return logits, features

  # All at once, the activations of a whole test set would not fit on a device.
  count = len(pixels)
  num_blocks = -(-count // _PREDICT_IMAGES)
  size = -(-count // num_blocks)
  padded = jnp.pad(pixels, [(0, num_blocks * size - count), (0, 0), (0, 0), (0, 0)])
  outputs = lax.map(block, padded.reshape(num_blocks, size, *pixels.shape[1:]))
  logits, features = (out.reshape(-1, out.shape[-1])[:count] for out in outputs)
  return logits, features
