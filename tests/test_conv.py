import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdm import conv

# Every (size, kernel, stride, padding) that ResNet-9 uses, and some it does not.
SHAPES = [
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

  def losses(fn):
    return jax.value_and_grad(
      lambda x, k: jnp.sum(jnp.sin(fn(x, k).astype(jnp.float32))), (0, 1)
    )

  ours = lambda x, k: conv.im2col(x, k, (stride, stride), padding)  # noqa: E731
  theirs = lambda x, k: reference(x, k, stride, padding)  # noqa: E731
  np.testing.assert_allclose(
    ours(x, k).astype(np.float32), theirs(x, k).astype(np.float32), atol=tol, rtol=tol
  )
  for a, b in zip(losses(ours)(x, k)[1], losses(theirs)(x, k)[1], strict=True):
    scale = float(jnp.abs(b).max())
    np.testing.assert_allclose(
      np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tol * scale
    )


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
