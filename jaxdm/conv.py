"""Convolution whose kernel may differ per model: one meaning, several backends.

Under `jax.vmap` over models, `lax.conv_general_dilated` becomes a grouped
convolution, which XLA's CPU backend runs some twenty times slower than the same
arithmetic as one matrix product over unfolded patches.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm import Array

Backend = Literal["auto", "im2col", "lax"]
_NHWC = ("NHWC", "HWIO", "NHWC")


def _explicit_padding(
  padding: str | Sequence[tuple[int, int]],
  shape: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
) -> list[tuple[int, int]]:
  """Padding as (low, high) pairs of the two spatial axes."""
  if isinstance(padding, str):
    return list(lax.padtype_to_pads(shape, window, strides, padding))
  return [(low, high) for low, high in padding]


def im2col(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  precision: Any = None,
) -> Array:
  """Convolution as one matrix product over unfolded patches.

  Args:
    images: [b, h, w, c].
    kernel: [kh, kw, c, o], of the same dtype.
    strides: of height and width.
    padding: 'SAME', 'VALID' or explicit (low, high) pairs.
    precision: as for `lax.dot_general`.

  Returns:
    [b, h', w', o], equal to `lax.conv_general_dilated` to rounding.
  """
  kh, kw, channels, features = kernel.shape
  sh, sw = strides
  pads = _explicit_padding(padding, images.shape[1:3], (kh, kw), strides)
  padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
  batch, height, width, _ = padded.shape
  out_h, out_w = (height - kh) // sh + 1, (width - kw) // sw + 1
  shifts = [
    lax.slice(
      padded,
      (0, i, j, 0),
      (batch, i + sh * (out_h - 1) + 1, j + sw * (out_w - 1) + 1, channels),
      (1, sh, sw, 1),
    )
    for i in range(kh)
    for j in range(kw)
  ]
  patches = jnp.concatenate(shifts, axis=-1).reshape(-1, kh * kw * channels)
  flat = jnp.dot(patches, kernel.reshape(-1, features), precision=precision)
  return flat.reshape(batch, out_h, out_w, features)


def backend_for(platform: str) -> Backend:
  """The backend that measures best on a platform ('cpu', 'gpu', 'tpu')."""
  return "im2col" if platform == "cpu" else "lax"


def convolution(backend: Backend = "auto") -> Any:
  """A drop-in for `lax.conv_general_dilated`, as Flax's `nn.Conv` takes one.

  Args:
    backend: 'im2col', 'lax', or 'auto' for the default device's best.

  Returns:
    A function with the signature Flax calls. It accepts what ResNet-9 needs,
    NHWC without dilation or groups, and refuses anything else.
  """
  if backend == "auto":
    backend = backend_for(jax.default_backend())
  if backend == "lax":
    return lax.conv_general_dilated
  if backend != "im2col":
    raise ValueError(f"conv backend must be auto, im2col or lax, got {backend!r}")

  def conv(  # The parameter names are Flax's.
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **unused: Any,
  ) -> Array:
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if spec != plain or dilated or feature_group_count != 1:
      raise ValueError("im2col handles NHWC convolutions without dilation or groups")
    return im2col(lhs, rhs, window_strides, padding, precision)

  return conv
