"""Batch norm and ReLU in one operation with a derivative of its own.

Derived automatically, the backward pass keeps float32 copies of the normalised input and
many small vectors between the passes. Here it keeps the input in its own type and two
vectors per channel, and computes the rest again from them.

Arrays are seen as rows of w * c numbers, or of c where that is longer than _LONGEST_ROW:
XLA's CPU backend sums and scales long rows fast.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm.typing import Array

EPSILON = 1e-5
_LONGEST_ROW = 256


class Moments(NamedTuple):
  """Mean and variance of a batch, float32[c] each; no gradient passes through them."""

  mean: Array
  var: Array


def _span(shape: tuple[int, ...]) -> int:
  """How many pixels of a row of an image are one row of numbers."""
  _, _, width, channels = shape
  return width if width * channels <= _LONGEST_ROW else 1


def _rows(x: Array, span: int) -> Array:
  """float32[..., span * c] of [b, h, w, c]; a reshape would fix the layout of all."""
  x = x if span == 1 else x.reshape(-1, span * x.shape[-1])
  return x.astype(jnp.float32)


def _sums(a: Array, b: Array) -> Array:
  """Sums over rows of two arrays that are computed from the same ones.

  On GPUs in one pass. XLA's CPU backend vectorises two, and its TPU backend computes them
  together with the convolution before.
  """
  axes = tuple(range(a.ndim - 1))

  def add(x: Any, y: Any) -> Any:
    return x[0] + y[0], x[1] + y[1]

  def together(a: Array, b: Array) -> Array:
    return jnp.stack(lax.reduce((a, b), (0.0, 0.0), add, axes))

  def apart(a: Array, b: Array) -> Array:
    return jnp.stack([a.sum(axis=axes), b.sum(axis=axes)])

  sums: Array = lax.platform_dependent(a, b, cuda=together, default=apart)
  return sums


def _per_channel(sums: Array, span: int) -> Array:
  """float32[..., c], sums over the pixels of rows of sums [..., span * c]."""
  return sums.reshape(*sums.shape[:-1], span, -1).sum(axis=-2)


def _along_rows(vectors_kc: Array, span: int) -> Array:
  """float32[k, span * c]: each vector once for every pixel of a row.

  On CPU by a product with a 0/1 matrix: XLA would fuse any other way of repeating into
  the loop over the row, which it then cannot vectorise.
  """
  if span == 1:
    return vectors_kc

  def product(vectors_kc: Array) -> Array:
    repeat = np.tile(np.eye(vectors_kc.shape[1], dtype=np.float32), (1, span))
    return jnp.dot(vectors_kc, repeat, precision=lax.Precision.HIGHEST)

  def tiled(vectors_kc: Array) -> Array:
    return jnp.tile(vectors_kc, (1, span))

  rows: Array = lax.platform_dependent(vectors_kc, cpu=product, default=tiled)
  return rows


def scale_and_relu(x: Array, scale_c: Array, bias_c: Array, moments: Moments) -> Array:
  """relu(scale * (x - mean) / sqrt(var + EPSILON) + bias), in the type and shape of x.

  Args:
    x: [b, h, w, c].
    scale_c: float32.
    bias_c: float32.
    moments: to normalise by.
  """
  span = _span(x.shape)
  line = _along_rows(_line(scale_c, bias_c, moments), span)
  y = jnp.maximum(_rows(x, span) * line[0] + line[1], 0.0)
  return y.astype(x.dtype).reshape(x.shape)


def _line(scale_c: Array, bias_c: Array, moments: Moments) -> Array:
  """float32[2, c]: slope and offset of the normalisation as one line per channel."""
  slope_c = scale_c * lax.rsqrt(moments.var + EPSILON)
  return jnp.stack([slope_c, bias_c - slope_c * moments.mean])


@jax.custom_vjp
def normalise_and_relu(x: Array, scale_c: Array, bias_c: Array) -> tuple[Array, Moments]:
  """`scale_and_relu` by the batch's own moments, and those.

  Args:
    x: [b, h, w, c].
    scale_c: float32.
    bias_c: float32.

  Returns:
    An array like x, and the moments, whose variance is that of the batch as a population.
  """
  return _forward(x, scale_c, bias_c)[0]


def _forward(x: Array, scale_c: Array, bias_c: Array) -> tuple[Any, Any]:
  """The outputs, and what the backward pass needs."""
  span = _span(x.shape)
  rows = _rows(x, span)
  sums = _sums(rows, rows**2)
  mean_c, square_c = _per_channel(sums, span) / (x.size // x.shape[-1])
  moments = Moments(mean_c, jnp.maximum(square_c - mean_c**2, 0.0))
  y = scale_and_relu(x, scale_c, bias_c, moments)
  return (y, moments), (x, scale_c, bias_c, moments)


def _backward(residuals: Any, cotangents: Any) -> tuple[Array, Array, Array]:
  """Ioffe and Szegedy, 'Batch Normalization' (arXiv:1502.03167), section 3; and ReLU."""
  x, scale_c, bias_c, moments = residuals
  span, count = _span(x.shape), x.size // x.shape[-1]
  rows, cotangent = _rows(x, span), _rows(cotangents[0], span)
  line_c = _line(scale_c, bias_c, moments)
  line = _along_rows(line_c, span)
  full = cotangent
  cotangent = jnp.where(rows * line[0] + line[1] > 0, cotangent, 0.0)

  def by_sign(full: Array, _: Array) -> Array:
    return full * jnp.sign(jnp.maximum(rows * line[0] + line[1], 0.0))

  # The same again for GPUs: XLA would keep the signs in memory between the sums and the
  # gradient, even from the forward pass on, which takes longer than to compute them twice
  # from what is read anyway.
  terms = lax.platform_dependent(
    full, cotangent, cuda=by_sign, default=lambda _, positive: positive
  )
  sums = _sums(terms, terms * rows)
  cotangent_c, product_c = _per_channel(sums, span)
  inverse_c = lax.rsqrt(moments.var + EPSILON)
  scale_grad_c = inverse_c * (product_c - moments.mean * cotangent_c)
  # dx = slope * (dy - mean(dy) - x_hat * mean(dy * x_hat)), as one line in x.
  tilt_c = -line_c[0] * inverse_c * scale_grad_c / count
  level_c = -line_c[0] * cotangent_c / count - tilt_c * moments.mean
  back = _along_rows(jnp.stack([line_c[0], tilt_c, level_c]), span)
  x_grad = cotangent * back[0] + rows * back[1] + back[2]
  return x_grad.astype(x.dtype).reshape(x.shape), scale_grad_c, cotangent_c


normalise_and_relu.defvjp(_forward, _backward)
