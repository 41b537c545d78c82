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

from jaxdm.typing import Array

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


def _spread(
  kernel: Array, axis: int, size: int, stride: int, low: int, out: int
) -> Array:
  """Replaces an axis of taps by all `size` inputs, and adds axis 3: `out` outputs.

  Entry (i, v) is the tap through which output v sees input i, or 0 where it does not.
  """
  taps = kernel.shape[axis]
  around = [(0, 0)] * kernel.ndim
  around[axis] = (max(0, stride * (out - 1) - low), max(0, low + size - taps))
  padded = jnp.pad(kernel, around)
  starts = [around[axis][0] + low - stride * v for v in range(out)]
  windows = [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in starts]
  return jnp.stack(windows, axis=3)


def im2col(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  precision: Any = None,
) -> Array:
  """Convolution as one matrix product over unfolded patches.

  Where images are small a patch is a band of whole rows, or the whole image, and the
  matrix holds the kernel once for each place: fewer and longer copies, and a product
  wide enough to run at full speed. Padding then costs nothing. On 2 cores of an AMD EPYC
  (JAX 0.10.2, 2026-11-23) this trains a ResNet-9 of width 8 on 8x8 images 1.35 times as
  fast as patches of the kernel's size do; from 32x32 on it would be slower.

  Args:
    images: [b, h, w, c].
    kernel: [kh, kw, c, o], of the same dtype.
    strides: of height and width.
    padding: 'SAME', 'VALID' or explicit (low, high) pairs.
    precision: as for `lax.dot_general`.

  Returns:
    [b, h', w', o], equal to `lax.conv_general_dilated` to rounding.

  Raises:
    ValueError: on other types or channels, negative padding, or a kernel that is larger
      than the padded images.
  """
  kh, kw, channels, features = kernel.shape
  batch, height, width, _ = images.shape
  if (images.dtype, images.shape[3]) != (kernel.dtype, channels):
    raise ValueError(
      "images and kernel must have one dtype and as many channels, got "
      f"{images.dtype}{images.shape} and {kernel.dtype}{kernel.shape}"
    )
  pad_h, pad_w = _explicit_padding(padding, (height, width), (kh, kw), strides)
  if min(*pad_h, *pad_w) < 0:
    raise ValueError(f"padding must be >= 0, got {(pad_h, pad_w)}")
  out_h = (height + sum(pad_h) - kh) // strides[0] + 1
  out_w = (width + sum(pad_w) - kw) // strides[1] + 1
  if min(out_h, out_w) < 1:
    raise ValueError(
      f"a kernel of {kh} x {kw} does not fit into images of {height} x {width} that are "
      f"padded by {(pad_h, pad_w)}"
    )
  # Whole rows, if that lengthens the product little or leaves it short anyway; whole
  # images, if that makes it no longer.
  rows = width <= 2 * kw or width * channels <= 64
  whole = rows and height <= kh
  if rows:
    kernel = _spread(kernel, 1, width, strides[1], pad_w[0], out_w)
    images = images.reshape(batch, height, width * channels)
  if whole:
    kernel = _spread(kernel, 0, height, strides[0], pad_h[0], out_h)
    patches = images.reshape(batch, -1)
  else:
    axes = [(1, kh, strides[0], out_h, pad_h), (2, kw, strides[1], out_w, pad_w)]
    patches = _unfolded(images, axes[:1] if rows else axes)
  columns = out_w * features if rows else features
  columns = out_h * columns if whole else columns
  flat = jnp.dot(patches, kernel.reshape(-1, columns), precision=precision)
  return flat.reshape(batch, out_h, out_w, features)


def _unfolded(
  images: Array, axes: Sequence[tuple[int, int, int, int, tuple[int, int]]]
) -> Array:
  """Patches as rows: shifted copies along each (axis, taps, stride, out, padding)."""
  around = [(0, 0)] * images.ndim
  for axis, _, _, _, pads in axes:
    around[axis] = pads
  copies = [jnp.pad(images, around)]
  for axis, taps, stride, out, _ in axes:
    copies = [
      lax.slice_in_dim(copy, i, i + stride * (out - 1) + 1, stride, axis)
      for copy in copies
      for i in range(taps)
    ]
  joined = jnp.concatenate(copies, axis=-1)
  return joined.reshape(-1, joined.shape[-1])


def backend_for(platform: str) -> Backend:
  """A platform's default: measured on 'cpu'; elsewhere XLA's own, not measured yet."""
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

  def conv(  # The parameters are those of lax.conv_general_dilated.
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
  ) -> Array:
    plain = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    one = {None, (1, 1)}
    refused = {
      "dimension_numbers": given != plain,
      "lhs_dilation": lhs_dilation is not None and tuple(lhs_dilation) not in one,
      "rhs_dilation": rhs_dilation is not None and tuple(rhs_dilation) not in one,
      "feature_group_count": feature_group_count != 1,
      "batch_group_count": batch_group_count != 1,
      "preferred_element_type": preferred_element_type is not None,
      "out_sharding": out_sharding is not None,
    }
    wrong = [name for name, is_refused in refused.items() if is_refused]
    if wrong:
      raise ValueError(
        "im2col handles NHWC convolutions without dilation or groups, in the type of "
        f"its inputs, and not this {wrong[0]}; use the backend lax"
      )
    return im2col(lhs, rhs, window_strides, padding, precision)

  return conv
