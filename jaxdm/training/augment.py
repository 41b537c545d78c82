"""Random image augmentation on device: (key, images) -> images."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm import prng
from jaxdm.typing import Array


def flip(key: Array, images: Array) -> Array:
  """Mirrors each image left to right with probability 1/2."""
  heads = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(heads, images[:, :, ::-1, :], images)


def translate(key: Array, images: Array, pixels: int) -> Array:
  """Shifts each image by up to `pixels` along both axes, repeating its border."""
  batch = images.shape[0]
  shifts = jax.random.randint(key, (2, batch, 1), -pixels, pixels + 1)
  for axis, shift in zip((1, 2), shifts, strict=True):
    images = _shift(images, shift.reshape(batch, 1, 1, 1), axis, pixels)
  return images


def _shift(images: Array, shift: Array, axis: int, pixels: int) -> Array:
  """Images shifted along an axis, each by a number of its own in [-pixels, pixels].

  By a choice among all shifts: indexing pixels would be slow on accelerators, on TPUs by
  far the slowest part of a step.
  """
  size, around = images.shape[axis], [(0, 0)] * images.ndim
  around[axis] = (pixels, pixels)
  padded, shifted = jnp.pad(images, around, mode="edge"), images
  for k in range(-pixels, pixels + 1):
    part = lax.slice_in_dim(padded, pixels + k, pixels + k + size, axis=axis)
    shifted = jnp.where(shift == k, part, shifted)
  return shifted


def cutout(key: Array, images: Array, pixels: int) -> Array:
  """Sets one `pixels`-sided square of each (normalised) image to 0, the mean."""
  batch, height, width, _ = images.shape
  limits = jnp.array([height - pixels + 1, width - pixels + 1])[:, None, None]
  corners = jax.random.randint(key, (2, batch, 1), 0, limits)
  row, col = jnp.arange(height) - corners[0], jnp.arange(width) - corners[1]
  inside_row, inside_col = (row >= 0) & (row < pixels), (col >= 0) & (col < pixels)
  hole = inside_row[:, :, None, None] & inside_col[:, None, :, None]
  return jnp.where(hole, 0.0, images)


def augment(
  key: Array,
  images: Array,
  *,
  use_flip: bool,
  translate_pixels: int,
  cutout_pixels: int,
) -> Array:
  """Flip, translate and cutout, each independently per image; 0 leaves one out.

  Args:
    key: a typed JAX key.
    images: float[b, h, w, c], normalised so that 0 is the mean colour.
    use_flip: whether to mirror with probability 1/2.
    translate_pixels: largest shift; uncovered pixels repeat the border.
    cutout_pixels: side of the erased square.

  Returns:
    float[b, h, w, c].
  """
  if use_flip:
    images = flip(prng.key_for(key, "flip"), images)
  if translate_pixels:
    images = translate(prng.key_for(key, "translate"), images, translate_pixels)
  if cutout_pixels:
    images = cutout(prng.key_for(key, "cutout"), images, cutout_pixels)
  return images
