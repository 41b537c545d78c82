"""Convolution whose kernel may differ per model: one meaning, several backends.

Under `jax.vmap` over models, `lax.conv_general_dilated` becomes a grouped
convolution, which XLA's CPU backend runs some twenty times slower than the same
arithmetic as one matrix product over unfolded patches (`im2col`). The gradient with
respect to the kernel becomes a grouped convolution with windows as large as an image,
which GPUs have no fast code for; `direct` computes it otherwise. `cpu_conv` is for one
model at a time on CPU.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm.training import cpu_conv
from jaxdm.training.im2col import Padding, check_padding, im2col, kernel_products
from jaxdm.typing import Array

Backend = Literal["cpu", "im2col", "lax"]
Sizes = tuple[int, ...]  # Of height and width.
_NHWC = ("NHWC", "HWIO", "NHWC")


def _by_xla(images: Array, kernel: Array, strides: Sizes, padding: Padding) -> Array:
  """The convolution as XLA knows it."""
  images, kernel = jnp.asarray(images), jnp.asarray(kernel)
  return lax.conv_general_dilated(
    images, kernel, strides, padding, dimension_numbers=_NHWC
  )


_direct = jax.custom_vjp(_by_xla, nondiff_argnums=(2, 3))


def _direct_forward(
  images: Array, kernel: Array, strides: Sizes, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
  """The convolution, and what its gradients need."""
  out = _direct(images, kernel, strides, padding)
  return out, (images, kernel)


def _direct_backward(
  strides: Sizes,
  padding: Padding,
  residuals: tuple[Array, Array],
  cotangent: Array,
) -> tuple[Array, Array]:
  """Gradients with respect to images and kernel."""
  images, kernel = residuals
  how = strides, padding
  (image_grad,) = jax.linear_transpose(lambda x: _by_xla(x, kernel, *how), images)(
    cotangent
  )

  @jax.custom_batching.custom_vmap
  def kernel_gradient(images: Array, cotangent: Array) -> Array:
    (gradient,) = jax.linear_transpose(lambda k: _by_xla(images, k, *how), kernel)(
      cotangent
    )
    return jnp.asarray(gradient)

  @kernel_gradient.def_vmap
  def many(_: int, batched: Sequence[bool], images: Array, cotangent: Array) -> Any:
    axes = tuple(0 if is_batched else None for is_batched in batched)
    one = functools.partial(kernel_products, kernel.shape[:2], *how)
    return jax.vmap(one, axes)(images, cotangent), True

  return image_grad, kernel_gradient(images, cotangent)


_direct.defvjp(_direct_forward, _direct_backward)


def direct(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
) -> Array:
  """XLA's convolution, with kernel gradients of many models as matrix products.

  Of one model they are what XLA makes of them; under `jax.vmap` they are one product for
  each entry of the kernel's window, batched over models. The arguments, the result and
  the errors are those of `im2col`.
  """
  pads = check_padding(images, kernel, strides, padding)
  return _direct(images, kernel, tuple(strides), pads)


_BACKENDS: dict[str, Any] = {"cpu": cpu_conv.cpu, "im2col": im2col, "lax": direct}


def convolution(backend: Backend = "lax") -> Any:
  """A drop-in for `lax.conv_general_dilated`, as Flax's `nn.Conv` takes one.

  Args:
    backend: 'cpu' (see `cpu_conv`), 'im2col' or 'lax' (see `direct`).

  Returns:
    A function with the signature Flax calls. It accepts what ResNet-9 needs,
    NHWC without dilation or groups, and refuses anything else.
  """
  if backend not in _BACKENDS:
    raise ValueError(f"conv backend must be cpu, im2col or lax, got {backend!r}")
  compute = _BACKENDS[backend]

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
    spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    one = {None, (1, 1)}
    is_unsupported = {
      "dimension_numbers": spec != plain,
      "lhs_dilation": lhs_dilation is not None and tuple(lhs_dilation) not in one,
      "rhs_dilation": rhs_dilation is not None and tuple(rhs_dilation) not in one,
      "feature_group_count": feature_group_count != 1,
      "batch_group_count": batch_group_count != 1,
      "precision": precision is not None,
      "preferred_element_type": preferred_element_type is not None,
      "out_sharding": out_sharding is not None,
    }
    wrong = [name for name, is_wrong in is_unsupported.items() if is_wrong]
    if wrong:
      raise ValueError(
        "only NHWC convolutions without dilation or groups, in the type and precision of "
        f"their inputs, are computed here, and not this {wrong[0]}"
      )
    return compute(lhs, rhs, window_strides, padding)

  return conv
