import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdm import conv

# Every (size, kernel, stride, padding) that ResNet-9 uses, and some it does not; large
# enough for patches of the kernel's size, for bands of rows, and for whole images.
SHAPES = [
  (20, 3, 1, [(1, 1), (1, 1)]),
  (20, 5, 2, [(2, 2), (2, 2)]),
  (17, 5, 2, [(2, 2), (2, 2)]),
  (8, 3, 1, [(1, 1), (1, 1)]),
  (8, 5, 2, [(2, 2), (2, 2)]),
  (7, 5, 2, [(2, 2), (2, 2)]),
  (6, 3, 1, "VALID"),
  (5, 3, 2, "SAME"),
  (4, 1, 1, "SAME"),
  (2, 3, 1, [(1, 1), (1, 1)]),
]


def reference(x, k, stride, padding):
  return lax.conv_general_dilated(
    x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize("size,kernel,stride,padding", SHAPES)
@pytest.mark.parametrize(
  "dtype,tol",
  [(jnp.float32, 1e-5), pytest.param(jnp.bfloat16, 4e-2, marks=pytest.mark.slow)],
)
def test_im2col_equals_lax(size, kernel, stride, padding, dtype, tol) -> None:
  x_key, k_key = jax.random.split(jax.random.key(0))
  x = jax.random.normal(x_key, (3, size, size, 4), dtype)
  k = jax.random.normal(k_key, (kernel, kernel, 4, 6), dtype) / kernel

  def outputs(fn):
    """The convolution and the gradients of a loss of it, in one program."""

    def loss(x, k):
      out = fn(x, k).astype(jnp.float32)
      return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, k)
    return [np.asarray(a, np.float32) for a in (out, *grads)]

  ours = outputs(lambda x, k: conv.im2col(x, k, (stride, stride), padding))
  theirs = outputs(lambda x, k: reference(x, k, stride, padding))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1.0, np.abs(b).max()))


def test_a_convolution_that_im2col_cannot_do_is_refused() -> None:
  fn = conv.convolution("im2col")
  x, k = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
  with pytest.raises(ValueError, match="without dilation or groups"):
    fn(
      x,
      k,
      (1, 1),
      "SAME",
      feature_group_count=2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_unknown_backend_is_named() -> None:
  with pytest.raises(ValueError, match="got 'fft'"):
    conv.convolution("fft")  # type: ignore[arg-type]
