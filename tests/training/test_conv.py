import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.rounding import tolerance

from jaxdm.training import conv

# Every (size, kernel, stride, padding) that ResNet-9 uses, and some it does not; large
# enough for patches of the kernel's size, for bands of rows, and for whole images.
SHAPES = [
  (20, 3, 1, [(1, 1), (1, 1)]),
  pytest.param(20, 5, 2, [(2, 2), (2, 2)], marks=pytest.mark.device),
  (17, 5, 2, [(2, 2), (2, 2)]),
  pytest.param(8, 3, 1, [(1, 1), (1, 1)], marks=pytest.mark.device),
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
@pytest.mark.parametrize("models", [0, 2])  # 0: not mapped over models.
@pytest.mark.parametrize("compute", [conv.im2col, conv.direct])
def test_every_backend_equals_lax(
  size, kernel, stride, padding, dtype, tol, compute, models
) -> None:
  tol = tolerance(tol)
  x_key, k_key = jax.random.split(jax.random.key(0))
  lead = (models,) if models else ()
  x = jax.random.normal(x_key, (*lead, 3, size, size, 4), dtype)
  k = jax.random.normal(k_key, (*lead, kernel, kernel, 4, 6), dtype) / kernel

  def outputs(fn):
    """The convolution and the gradients of a loss of it, in one program."""

    def loss(x, k):
      out = fn(x, k).astype(jnp.float32)
      return jnp.sum(jnp.sin(out)), out

    both = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, out), grads = jax.jit(jax.vmap(both) if models else both)(x, k)
    return [np.asarray(a, np.float32) for a in (out, *grads)]

  ours = outputs(lambda x, k: compute(x, k, (stride, stride), padding))
  theirs = outputs(lambda x, k: reference(x, k, stride, padding))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1.0, np.abs(b).max()))


NHWC = ("NHWC", "HWIO", "NHWC")
VARIABLE = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


def whole_numbers(*shape: int, dtype: str = "float32") -> jnp.ndarray:
  """Numbers whose sums of products are exact, in whatever order they are added."""
  size = int(np.prod(shape))
  return jnp.asarray((np.arange(size) * 7 % 11 - 5).reshape(shape).astype(dtype))


@pytest.mark.parametrize(
  "arguments",
  [
    {},
    {"window_strides": (2, 1), "padding": "SAME_LOWER"},
    {"window_strides": [3, 2], "padding": ((1, 0), (0, 2))},
    {"lhs_dilation": (1, 1), "rhs_dilation": [1, 1], "lhs": (2, 5, 4, 2)},
    {"dimension_numbers": lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NHWC)},
    {"feature_group_count": 1, "batch_group_count": 1, "out_sharding": None},
    {"precision": None, "preferred_element_type": None},
    {"dtype": "int32"},
  ],
)
@pytest.mark.parametrize("backend", ["cpu", "im2col", "lax"])
def test_what_is_accepted_means_what_it_means_to_lax(arguments, backend) -> None:
  given = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
  given |= arguments
  dtype, shape = given.pop("dtype", "float32"), given.pop("lhs", (2, 4, 6, 2))
  x, k = whole_numbers(*shape, dtype=dtype), whole_numbers(3, 2, 2, 5, dtype=dtype)
  ours = conv.convolution(backend)(x, k, **given)
  theirs = lax.conv_general_dilated(x, k, **given)
  assert ours.dtype == theirs.dtype
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
  "arguments,named",
  [
    ({"feature_group_count": 2}, "feature_group_count"),
    ({"batch_group_count": 2}, "batch_group_count"),
    ({"lhs_dilation": (1, 2)}, "lhs_dilation"),
    ({"rhs_dilation": (2, 1)}, "rhs_dilation"),
    ({"precision": "highest"}, "precision"),
    ({"preferred_element_type": jnp.float32}, "preferred_element_type"),
    ({"out_sharding": jax.P()}, "out_sharding"),
    ({"dimension_numbers": None}, "dimension_numbers"),
    ({"dimension_numbers": ("NHWC", "HWIO", "NWHC")}, "dimension_numbers"),
    ({"padding": ((-1, 1), (0, 0))}, "padding must be >= 0"),
    ({"padding": "VALID", "kernel": (5, 1, 2, 2)}, "5 x 1 does not fit"),
    ({"kernel": (3, 3, 3, 2)}, "as many channels"),
    ({"dtype": jnp.bfloat16}, "one dtype"),
  ],
)
@pytest.mark.parametrize("backend", ["cpu", "im2col", "lax"])
def test_any_other_convolution_is_refused(arguments, named, backend) -> None:
  given = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
  given |= arguments
  x = jnp.ones((2, 4, 4, 2), given.pop("dtype", jnp.float32))
  k = jnp.ones(given.pop("kernel", (3, 3, 2, 2)))
  with pytest.raises(ValueError, match=named):
    conv.convolution(backend)(x, k, **given)


def test_no_argument_is_accepted_that_lax_does_not_have() -> None:
  ours, theirs = (
    inspect.signature(fn).parameters
    for fn in (conv.convolution("im2col"), lax.conv_general_dilated)
  )
  assert not {parameter.kind for parameter in ours.values()} & VARIABLE
  for name, parameter in ours.items():
    assert parameter.default == theirs[name].default


def test_unknown_backend_is_named() -> None:
  with pytest.raises(ValueError, match="got 'fft'"):
    conv.convolution("fft")  # type: ignore[arg-type]
