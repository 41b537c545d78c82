"""3x3 convolution by Winograd's F(2x2, 3x3): 16 products for 4 outputs instead of 36.

Lavin and Gray, 'Fast Algorithms for Convolutional Neural Networks' (arXiv:1509.09308),
section 4.1. Rounding is that of other forms: about 1e-6 of the largest output in float32.
F(4x4, 3x3) needs a quarter of the products of the direct form, but its transforms take
as long as that saves.
"""

import jax.numpy as jnp

from jaxdm.training.im2col import Padding
from jaxdm.typing import Array

# Measured on one core of an AMD EPYC (JAX 0.10.2, 2026-11-28) in blocks of images that
# stay in the cache: 0.55 to 0.85 of the time of XLA's convolution from 8x8 with 32
# channels and 4x4 with 64 on, 1.0 to 1.2 of it with 16. Its form of the kernel's gradient
# takes 1.2 to 1.4 of it.
_LEAST_CHANNELS = 32
_LEAST_PRODUCT = 256  # Of a side and the channels.


def is_faster(images: Array, kernel: Array, pads: Padding) -> bool:
  """Whether `same` computes this convolution, and faster than XLA does."""
  height, width, channels = images.shape[1:]
  fits = kernel.shape[:2] == (3, 3) and tuple(pads) == ((1, 1), (1, 1))
  fits = fits and height % 2 == 0 and width % 2 == 0
  side, channels = min(height, width), min(channels, kernel.shape[3])
  return fits and channels >= _LEAST_CHANNELS and side * channels >= _LEAST_PRODUCT


def transform_kernel(kernel: Array) -> Array:
  """The matrices [16, c, o] by which `same` multiplies, of a kernel [3, 3, c, o]."""
  rows = _taps([kernel[i] for i in range(3)])
  return _flat([_taps([row[j] for j in range(3)]) for row in rows])


def same(images: Array, matrices_gco: Array) -> Array:
  """The convolution of [b, h, w, c], of even sizes, padded by 1, by a kernel.

  Args:
    images: float.
    matrices_gco: of the kernel, by `transform_kernel`.

  Returns:
    [b, h, w, o].
  """
  batch, height, width, _ = images.shape
  squares = _squares(images)
  products = jnp.einsum("gtc,gco->gto", squares, matrices_gco)
  products = products.reshape(4, 4, batch, height // 2, width // 2, -1)
  columns = [_outputs(list(products[:, j])) for j in range(4)]
  outputs = [
    jnp.stack(_outputs(list(of_row)), 3) for of_row in zip(*columns, strict=True)
  ]
  return jnp.stack(outputs, 2).reshape(batch, height, width, -1)


def _squares(images: Array) -> Array:
  """[16, t, c]: what the products are of, of each 4x4 square around 2x2 outputs."""
  height, width = images.shape[1:3]
  padded = jnp.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
  rows = _inputs([padded[:, i : i + height - 1 : 2] for i in range(4)])
  ends = [(j, j + width - 1) for j in range(4)]
  return _flat([_inputs([row[:, :, i:end:2] for i, end in ends]) for row in rows])


def _flat(rows: list[list[Array]]) -> Array:
  """[16, t, channels] of 4x4 arrays [..., channels]."""
  return jnp.stack([x.reshape(-1, x.shape[-1]) for row in rows for x in row])


def _taps(at: list[Array]) -> list[Array]:
  """Four combinations of three neighbouring taps."""
  mean, half = (at[0] + at[2]) / 2, at[1] / 2
  return [at[0], mean + half, mean - half, at[2]]


def _inputs(at: list[Array]) -> list[Array]:
  """Four combinations of four neighbours, to be multiplied by those of the taps."""
  return [at[0] - at[2], at[1] + at[2], at[2] - at[1], at[1] - at[3]]


def _outputs(products: list[Array]) -> list[Array]:
  """Two outputs from four products."""
  first, second, third, fourth = products
  return [first + second + third, second - third - fourth]
