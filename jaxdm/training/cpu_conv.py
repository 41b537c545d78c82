"""Convolution of one model on CPU, in the form that is fastest for each shape.

Measured on one core of an AMD EPYC (JAX 0.10.2, 2026-11-27), whose float32 matrix product
reaches 107 GFLOP/s. Inside loops, XLA's CPU backend has fast code only for convolutions
of images [b, h, w, c] by kernels [kh, kw, c, o] without dilation of the images: it
computes those at 90 to 95 GFLOP/s, and others, such as the gradients that JAX derives, up
to a hundred times slower. So the gradients are written as such convolutions here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm.training import winograd
from jaxdm.training.im2col import (
  Padding,
  check_padding,
  im2col,
  joins_rows,
  kernel_products,
  spread_taps,
)
from jaxdm.typing import Array

_NHWC = ("NHWC", "HWIO", "NHWC")
# Below this product of input and output channels, a matrix product is as fast, or faster.
_FEW = 512
# Images of few channels: so many outputs along a row become channels of one. For 3 to 16
# channels on 32x32 images the time falls from 4.4 to 1.4 ms; with 8 it is 2.2.
_OUTPUTS = 4
_FEW_INPUTS = 8
# Images of a block of a sum over images, which stays in the cache: kernel gradients at
# 16x16 with 32 channels take 3.6 ms instead of 4.7.
_BLOCK_BYTES = 2**18
# XLA computes images again inside of their transposition, but not those that a loop takes
# parts of. So more bytes are two blocks at least; of fewer, a loop takes longer.
_LOOP_BYTES = 2**17
# The first cache of an x86 core has eight lines for addresses that differ by multiples of
# 4,096 bytes. A transposition of more images of such a size at a time takes five times as
# long (8x8 with 16 channels).
_ALIAS_BYTES, _ALIAS_IMAGES = 4096, 8


class _How(NamedTuple):
  """Strides and padding, as `cpu` takes them."""

  strides: tuple[int, ...]
  pads: Padding


def cpu(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
) -> Array:
  """XLA's convolution or Winograd's, or `im2col` where images or kernels are small.

  Mapped over models by `jax.vmap`, it is `im2col`. Mapped over examples under one model,
  they are its images; the kernel's gradient of each is then a product for each tap. The
  arguments, the result and the errors are those of `im2col`.
  """
  pads = check_padding(images, kernel, strides, padding)
  how = _How(tuple(strides), pads)
  return _conv(jnp.asarray(images), jnp.asarray(kernel), how)


def _unfolds(images: Any, kernel: Any) -> bool:
  """Whether `im2col` is faster."""
  few = joins_rows(images, kernel) and kernel.shape[2] * kernel.shape[3] < _FEW
  small = images.shape[1] <= kernel.shape[0] or images.shape[2] <= kernel.shape[1]
  return few or small or images.dtype not in (jnp.float32, jnp.float64)


def _of_kernel(fn: Callable[..., Array], of_models: Callable[..., Array]) -> Any:
  """A function of a kernel and images, which is another one if the kernel is mapped.

  Where only the images are, they are those of one call.
  """
  compute = jax.custom_batching.custom_vmap(fn)

  @compute.def_vmap
  def many(size: int, mapped: Sequence[bool], kernel: Array, images: Array) -> Any:
    if mapped[0]:
      return jax.vmap(of_models, (0, 0 if mapped[1] else None))(kernel, images), True
    outputs = fn(kernel, images.reshape(-1, *images.shape[2:]))
    return outputs.reshape(size, -1, *outputs.shape[1:]), True

  return compute


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(images: jax.Array, kernel: jax.Array, how: _How) -> jax.Array:
  """The convolution."""
  one, of_models = (functools.partial(fn, how) for fn in (_outputs, _unfolded))
  output: jax.Array = _of_kernel(one, of_models)(kernel, images)
  return output


def _forward(images: jax.Array, kernel: jax.Array, how: _How) -> tuple[jax.Array, Any]:
  """The convolution, and what its gradients need."""
  return _conv(images, kernel, how), (images, kernel)


def _backward(
  how: _How, residuals: Any, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients with respect to images and kernel."""
  images, kernel = residuals
  one, of_models = (
    functools.partial(fn, how, images.shape[1:])
    for fn in (_image_gradient, _unfolded_image_gradient)
  )
  image_grad = _of_kernel(one, of_models)(kernel, cotangent)
  return image_grad, _of_images(how, kernel.shape)(images, cotangent)


def _of_images(how: _How, shape: tuple[int, ...]) -> Any:
  """The gradient of a kernel of this shape, of images and cotangent or many of both."""
  compute = jax.custom_batching.custom_vmap(
    functools.partial(_kernel_gradient, how, shape)
  )

  @compute.def_vmap
  def many(_: int, mapped: Sequence[bool], images: Array, cotangent: Array) -> Any:
    num_images = images.shape[mapped[0]]
    # The gradient of one image by `im2col` holds more numbers where rows are joined.
    one: Any = functools.partial(_unfolded_kernel_gradient, how, shape)
    if num_images == 1:
      one = functools.partial(kernel_products, shape[:2], *how)
    axes = tuple(0 if is_mapped else None for is_mapped in mapped)
    return jax.vmap(one, axes)(images, cotangent), True

  return compute


_conv.defvjp(_forward, _backward)


def _outputs(how: _How, kernel: jax.Array, images: jax.Array) -> Array:
  """The convolution of one model."""
  compute = _unfolded if _unfolds(images, kernel) else _direct
  return compute(how, kernel, images)


def _unfolded(how: _How, kernel: Array, images: Array) -> Array:
  """The same by `im2col`."""
  return im2col(images, kernel, *how)


def _direct(how: _How, kernel: jax.Array, images: jax.Array) -> jax.Array:
  """The same by XLA or Winograd."""
  strides, pads = how
  if strides == (1, 1) and winograd.is_faster(images, kernel, pads):
    # Two blocks at least: XLA would compute the outputs of one again in every reader.
    block = _block(images, len(images) // 2)
    matrices = winograd.transform_kernel(kernel)

    def of_block(start: jax.Array) -> Array:
      part = lax.dynamic_slice_in_dim(images, start, block)
      return winograd.same(part, matrices)

    of_blocks = lax.map(of_block, jnp.arange(0, len(images), block))
    return of_blocks.reshape(-1, *of_blocks.shape[2:])
  _, kw, channels, features = kernel.shape
  width = images.shape[2] + sum(pads[1]) - kw + 1
  together = _OUTPUTS
  if channels < _FEW_INPUTS and strides[1] == 1 and width % together == 0:
    wide = spread_taps(kernel, 1, kw + together - 1, 1, 0, together)
    kernel = jnp.reshape(wide, (*wide.shape[:3], -1))
    strides = strides[0], together
  output = lax.conv_general_dilated(
    images, kernel, strides, pads, dimension_numbers=_NHWC
  )
  return output.reshape(*output.shape[:2], -1, features)


def _image_gradient(
  how: _How, shape: tuple[int, ...], kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """The gradient with respect to images of this shape [h, w, c]."""
  images = jax.ShapeDtypeStruct((len(cotangent), *shape), cotangent.dtype)
  unfolds = _unfolds(images, kernel)
  compute = _unfolded_image_gradient if unfolds else _direct_image_gradient
  return compute(how, shape, kernel, cotangent)


def _unfolded_image_gradient(
  how: _How, shape: tuple[int, ...], kernel: Array, cotangent: jax.Array
) -> jax.Array:
  """The same by `im2col`."""
  images = jax.ShapeDtypeStruct((len(cotangent), *shape), cotangent.dtype)
  (grad,) = jax.linear_transpose(lambda x: im2col(x, kernel, *how), images)(cotangent)
  return jnp.asarray(grad)


def _direct_image_gradient(
  how: _How, shape: tuple[int, ...], kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """One convolution of the cotangent, whose channels hold all phases of the strides.

  Along an axis, the gradient at place stride * i + a is the sum over offsets d of
  cotangent i + d times tap a + low - stride * d, where the kernel has it.
  """
  pads, counts = [], []
  for axis in (0, 1):
    stride, (low, _), size = how.strides[axis], how.pads[axis], shape[axis]
    taps, at = kernel.shape[2 * axis], 2 * axis
    most, least = (stride - 1 + low) // stride, -((taps - 1 - low) // stride)
    offsets, count = most - least + 1, -(-size // stride)
    before = stride * most - low
    around = [(0, 0)] * kernel.ndim
    around[at] = before, stride * offsets - taps - before
    kernel = jnp.pad(kernel, around)
    split = *kernel.shape[:at], offsets, stride, *kernel.shape[at + 1 :]
    kernel = kernel.reshape(split)
    pads.append((-least, count - 1 + most - (cotangent.shape[1 + axis] - 1)))
    counts.append(count)
  # [offsets, a] of height, the same of width, c, o; offsets descend.
  taps_kernel = lax.rev(kernel, (0, 2)).transpose(0, 2, 5, 1, 3, 4)
  taps_kernel = taps_kernel.reshape(*taps_kernel.shape[:3], -1)
  phases = _direct(_How((1, 1), tuple(pads)), taps_kernel, cotangent)
  (rows, columns), (down, along) = counts, how.strides
  if (down, along) == (1, 1):
    return phases
  phases = phases.reshape(-1, rows, columns, down, along * shape[2])
  # Whole rows one by one: a transposition would be computed again in whatever reads it.
  gradient = jnp.stack([phases[:, :, :, i] for i in range(down)], axis=2)
  gradient = gradient.reshape(-1, rows * down, columns * along, shape[2])
  return gradient[:, : shape[0], : shape[1]]


def _kernel_gradient(
  how: _How, shape: tuple[int, ...], images: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """The gradient with respect to a kernel of this shape."""
  kernel = jax.ShapeDtypeStruct(shape, images.dtype)
  unfolds = _unfolds(images, kernel)
  compute = _unfolded_kernel_gradient if unfolds else _direct_kernel_gradient
  return compute(how, shape, images, cotangent)


def _unfolded_kernel_gradient(
  how: _How, shape: tuple[int, ...], images: jax.Array, cotangent: Array
) -> jax.Array:
  """The same by `im2col`."""
  kernel = jax.ShapeDtypeStruct(shape, images.dtype)
  (grad,) = jax.linear_transpose(lambda k: im2col(images, k, *how), kernel)(cotangent)
  return jnp.asarray(grad)


def _direct_kernel_gradient(
  how: _How, shape: tuple[int, ...], images: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """Convolutions of images [c, h, w, b] by cotangents [h', w', b, o], over blocks."""
  pads = []
  for axis in (0, 1):
    reach = how.strides[axis] * (cotangent.shape[1 + axis] - 1)
    low = how.pads[axis][0]
    pads.append((low, shape[axis] + reach - images.shape[1 + axis] - low))

  def of_block(images: jax.Array, cotangent: jax.Array) -> jax.Array:
    taps = lax.conv_general_dilated(
      images.transpose(3, 1, 2, 0),
      cotangent.transpose(1, 2, 0, 3),
      (1, 1),
      pads,
      rhs_dilation=how.strides,
      dimension_numbers=_NHWC,
    )
    return taps.transpose(1, 2, 0, 3)

  return _sum_over_blocks(of_block, images, cotangent)


def _sum_over_blocks(
  of_block: Callable[[jax.Array, jax.Array], jax.Array],
  images: jax.Array,
  cotangent: jax.Array,
) -> jax.Array:
  """The sum of a function of images and cotangents over blocks of them."""
  most, image_bytes = len(images), images[0].size * images.dtype.itemsize
  if most * image_bytes > _LOOP_BYTES:
    most //= 2
  if image_bytes % _ALIAS_BYTES == 0:
    most = min(most, _ALIAS_IMAGES)
  block = _block(images, most)
  if block == len(images):
    return of_block(images, cotangent)

  def add(i: jax.Array, total: jax.Array) -> jax.Array:
    parts = (lax.dynamic_slice_in_dim(x, i * block, block) for x in (images, cotangent))
    return total + of_block(*parts)

  like = jax.eval_shape(of_block, images[:block], cotangent[:block])
  total: jax.Array = lax.fori_loop(0, len(images) // block, add, jnp.zeros_like(like))
  return total


def _block(images: jax.Array, most: int) -> int:
  """How many images make a block, at most so many: a divisor of their number.

  All of them if no divisor is near.
  """
  size = images[0].size * images.dtype.itemsize
  most = max(1, min(most, _BLOCK_BYTES // max(1, size)))
  block = max(n for n in range(1, most + 1) if len(images) % n == 0)
  return block if 4 * block >= most else len(images)
