"""ResNet-9, the network of the datamodels paper, at any width and image size."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdm.training import batch_norm, conv, pooling
from jaxdm.typing import Array

LEAST_PIXELS = 3  # A side; of less the pooling leaves nothing.

_LOGIT_SCALE = 0.2
_MOMENTUM = 0.9


class BatchNormRelu(nn.Module):
  """Batch norm and ReLU over [b, h, w, c], with the variables of Flax's `BatchNorm`."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    x = x.astype(self.dtype)
    if not train:
      moments = batch_norm.Moments(mean.value, var.value)
      return batch_norm.scale_and_relu(x, scale, bias, moments)
    y, now = batch_norm.normalise_and_relu(x, scale, bias)
    if not self.is_initializing():
      mean.value = _MOMENTUM * mean.value + (1 - _MOMENTUM) * now.mean
      var.value = _MOMENTUM * var.value + (1 - _MOMENTUM) * now.var
    return y


class ConvBlock(nn.Module):
  """Convolution without bias, batch norm, ReLU."""

  features: int
  kernel: int
  stride: int
  padding: str | int
  dtype: Any
  conv_backend: conv.Backend

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      strides=self.stride,
      padding=self.padding,
      use_bias=False,
      dtype=self.dtype,
      conv_general_dilated=conv.convolution(self.conv_backend),
    )(x)
    return BatchNormRelu(self.dtype, name="BatchNorm_0")(x, train)


class ResNet9(nn.Module):
  """The published network: conv64 - conv128/2 - Res - conv256 - pool - Res - conv128.

  Attributes:
    num_classes: k.
    width: channels of the first layer; 64 as published, all others in proportion.
    dtype: of activations and products; parameters and statistics stay float32.
    conv_backend: the convolution's backend (see `conv.convolution`).
  """

  num_classes: int
  width: int = 64
  dtype: Any = jnp.float32
  conv_backend: conv.Backend = "lax"

  @nn.compact
  def __call__(self, images: Array, train: bool) -> tuple[Array, Array]:
    """Logits and penultimate features of normalised images.

    Args:
      images: float[b, h, w, c], h and w at least LEAST_PIXELS.
      train: whether batch norm uses the batch's statistics (and updates the
        running ones in the 'batch_stats' collection) or the running ones.

    Returns:
      float32[b, k] logits and float32[b, 2 * width] features.

    Raises:
      ValueError: if images are too small.
    """
    if min(images.shape[1:3]) < LEAST_PIXELS:
      raise ValueError(
        f"images must have {LEAST_PIXELS} pixels a side or more, got shape {images.shape}"
      )

    def block(
      x: Array, features: int, kernel: int = 3, stride: int = 1, padding: Any = 1
    ) -> Array:
      return ConvBlock(features, kernel, stride, padding, self.dtype, self.conv_backend)(
        x, train
      )

    wide = self.width
    x = block(images.astype(self.dtype), wide)
    x = block(x, 2 * wide, kernel=5, stride=2, padding=2)
    x = x + block(block(x, 2 * wide), 2 * wide)
    x = pooling.max_pool(block(x, 4 * wide))
    x = x + block(block(x, 4 * wide), 4 * wide)
    # Images below 12 pixels leave less than 3x3 here: then keep the border.
    x = block(x, 2 * wide, padding="VALID" if min(x.shape[1:3]) >= 3 else 1)
    features = x.max(axis=(1, 2)).astype(jnp.float32)
    head = nn.Dense(self.num_classes, use_bias=False, dtype=self.dtype)
    return head(features).astype(jnp.float32) * _LOGIT_SCALE, features


def initial_variables(net: ResNet9, key: Array, image_shape: tuple[int, ...]) -> Any:
  """Fresh variables, as PyTorch (and so the published code) initialises them.

  Kernels are uniform in +-1 / sqrt(fan_in), statistics 0 and 1. All kernels come out
  of one draw: one draw a kernel, as `net.init` makes them, compiles for seconds.

  Args:
    net: the module.
    key: a typed JAX key.
    image_shape: (h, w, c).

  Returns:
    float32 'params' and 'batch_stats'.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(lambda k, x: net.init(k, x, False), key, image)
  paths, treedef = jax.tree_util.tree_flatten_with_path(shapes)
  kernels = sum(leaf.size for path, leaf in paths if path[-1].key == "kernel")
  draw = jax.random.uniform(key, (kernels,), minval=-1.0, maxval=1.0)
  leaves, start = [], 0
  for path, leaf in paths:
    if path[-1].key == "kernel":
      fan_in = leaf.size // leaf.shape[-1]
      part = draw[start : start + leaf.size].reshape(leaf.shape)
      leaves.append(part / fan_in**0.5)
      start += leaf.size
    else:
      is_one = path[-1].key in ("scale", "var")
      leaves.append(jnp.full(leaf.shape, float(is_one)))
  return jax.tree.unflatten(treedef, leaves)
