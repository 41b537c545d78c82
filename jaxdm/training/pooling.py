"""Maximum pooling with a derivative of its own.

Derived automatically, the backward pass on accelerators reads and writes several arrays
as large as the input. Here it keeps a byte for each maximum.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm.typing import Array


def _maxima(y: Array) -> Array:
  """Maxima over 2x2 squares; the gradient of `reduce_window` is slow on CPU."""
  height, width = (size // 2 * 2 for size in y.shape[1:3])
  y = y[:, :height, :width]
  y = jnp.maximum(y[:, ::2], y[:, 1::2])
  return jnp.maximum(y[:, :, ::2], y[:, :, 1::2])


@jax.custom_vjp
def max_pool(y: Array) -> Array:
  """Maxima over the 2x2 squares of [b, h, w, c]; odd edges are left out.

  Equal maxima of a square share its gradient.
  """
  return _maxima(y)


def _forward(y: Array) -> tuple[Array, Any]:
  """The maxima, and what the backward pass needs: on accelerators, only their places."""

  def without_places(y: Array) -> tuple[Array, Array]:
    top = _maxima(y)
    return top, jnp.zeros(top.shape, jnp.uint8)

  top, places = lax.platform_dependent(y, cpu=without_places, default=_with_places)
  return top, (y, top, places)


def _with_places(y: Array) -> tuple[Array, Array]:
  """The maxima, and where they are: uint8, a bit for each corner of a square."""
  top = _maxima(y)
  height, width = (2 * size for size in top.shape[1:3])
  corners = [y[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
  bits = [(corner == top).astype(jnp.uint8) << i for i, corner in enumerate(corners)]
  return top, functools.reduce(jnp.bitwise_or, bits)


def _backward(residuals: Any, cotangent: Array) -> tuple[Array]:
  """The gradient with respect to y."""
  gradient = lax.platform_dependent(
    cotangent, *residuals, cpu=_at_maxima, default=_at_places
  )
  return (gradient,)


def _at_maxima(cotangent: Array, y: Array, top: Array, _: Array) -> Array:
  """An array like y with gradients of maxima, in equal parts, where y has them."""
  batch, height, width, channels = top.shape
  even = y[:, : 2 * height, : 2 * width]
  corners = [even[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  count = functools.reduce(jnp.add, [(x == top).astype(y.dtype) for x in corners])
  squares = even.reshape(batch, height, 2, width, 2, channels)
  top, share = (x[:, :, None, :, None] for x in (top, cotangent / count))
  gradient = jnp.where(squares == top, share, jnp.zeros((), y.dtype)).reshape(even.shape)
  edges = [(0, large - small) for large, small in zip(y.shape, even.shape, strict=True)]
  return jnp.pad(gradient, edges)


def _at_places(cotangent: Array, y: Array, _: Array, places: Array) -> Array:
  """An array like y with gradients of maxima, in equal parts, where `places` has them."""
  count = jnp.maximum(lax.population_count(places), 1)
  share = cotangent.astype(jnp.float32) / count.astype(jnp.float32)
  height, width = (
    y.shape[1] - 2 * cotangent.shape[1] + 1,
    y.shape[2] - 2 * cotangent.shape[2] + 1,
  )
  zero = jnp.zeros((), y.dtype)
  corners = []
  for k, (i, j) in enumerate(itertools.product((0, 1), repeat=2)):
    part = jnp.where((places >> k) & 1, share, 0.0).astype(y.dtype)
    # Zeros between elements; TPUs would copy an array with an axis of two.
    edges = (0, 0, 0), (i, height - i, 1), (j, width - j, 1), (0, 0, 0)
    corners.append(lax.pad(part, zero, edges))
  return functools.reduce(jnp.add, corners)


max_pool.defvjp(_forward, _backward)
