import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.rounding import tolerance

from jaxdm.training import conv, cpu_conv

NHWC = ("NHWC", "HWIO", "NHWC")
# (batch, size, kernel, stride, padding, channels in, out), of each form that is chosen.
CASES = {
  "winograd": (3, 8, 3, 1, (1, 1), 32, 36),
  "winograd in blocks": (12, 16, 3, 1, (1, 1), 32, 32),
  "winograd of small images": (6, 4, 3, 1, (1, 1), 64, 72),
  "eight images at a time": (16, 8, 5, 2, (2, 2), 16, 32),
  "plain, kernel gradient in blocks": (12, 16, 3, 1, (1, 1), 32, 16),
  "a prime number of images": (13, 16, 3, 1, (1, 1), 32, 32),
  "strides": (3, 16, 5, 2, (2, 2), 16, 32),
  "strides and odd sizes": (3, 17, 5, 2, (2, 2), 16, 32),
  "strides that leave out an edge": (2, 16, 3, 3, (0, 1), 16, 32),
  "strides that leave out pixels": (2, 14, 2, 3, (0, 0), 16, 32),
  "wide and uneven padding": (2, 8, 3, 1, (3, 4), 16, 32),
  "no padding": (2, 8, 3, 1, (0, 0), 16, 32),
  "few channels": (3, 24, 3, 1, (1, 1), 3, 16),
  "few channels, outputs not in fours": (3, 23, 3, 1, (1, 1), 3, 16),
  "small images": (3, 2, 3, 1, (1, 1), 32, 32),
}


def problem(case, dtype="float32", models=0):
  batch, size, kernel, stride, padding, channels, features = CASES[case]
  lead = (models,) if models else ()
  rng = np.random.default_rng(0)
  x = rng.normal(size=(*lead, batch, size, size, channels)).astype(dtype)
  k = rng.normal(size=(*lead, kernel, kernel, channels, features)).astype(dtype)
  k /= kernel * channels**0.5
  return x, k, ((stride, stride), (padding, padding))


def outputs(compute, x, k, how, models=0):
  """The convolution and the gradients of a loss of it, computed inside a loop."""

  def loss(x, k):
    out = compute(x, k, *how)
    return jnp.sum(jnp.sin(out)), out

  both = jax.value_and_grad(loss, (0, 1), has_aux=True)
  both = jax.vmap(both) if models else both

  def run(x, k):
    (_, out), grads = lax.map(lambda xk: both(*xk), (x[None], k[None]))
    return out[0], grads[0][0], grads[1][0]

  return jax.jit(run)(x, k)


def by_xla(x, k, strides, padding):
  return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=NHWC)


def distance(ours, theirs):
  """Largest difference, as a share of the largest number."""
  return max(
    float(np.abs(a - b).max() / np.abs(b).max())
    for a, b in zip(ours, theirs, strict=True)
  )


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_lax(case) -> None:
  x, k, how = problem(case)
  ours, theirs = (outputs(fn, x, k, how) for fn in (cpu_conv.cpu, by_xla))
  assert distance(ours, theirs) < tolerance(3e-6)


@pytest.mark.parametrize("case", ["winograd in blocks", "strides", "few channels"])
def test_in_float64_they_are_equal_to_its_rounding(case) -> None:
  with jax.enable_x64(True):
    x, k, how = problem(case, "float64")
    ours, theirs = (outputs(fn, x, k, how) for fn in (cpu_conv.cpu, by_xla))
  assert ours[0].dtype == np.float64
  assert distance(ours, theirs) < 1e-14


@pytest.mark.parametrize("case", ["winograd", "strides", "few channels"])
def test_models_side_by_side_are_those_of_lax(case) -> None:
  x, k, how = problem(case, models=2)
  ours, theirs = (outputs(fn, x, k, how, models=2) for fn in (cpu_conv.cpu, by_xla))
  assert distance(ours, theirs) < tolerance(3e-6)
  shared = jax.jit(jax.vmap(lambda k: cpu_conv.cpu(x[0], k, *how)))(k)
  assert distance([shared[0]], [theirs[0][0]]) < tolerance(3e-6)


@pytest.mark.parametrize("case", ["winograd in blocks", "strides"])
def test_the_same_again_gives_the_same_bits(case) -> None:
  x, k, how = problem(case)
  first, second = (outputs(cpu_conv.cpu, x, k, how) for _ in range(2))
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)


def convolutions(jaxpr):
  """The parameters of all convolutions of a jaxpr, those of inner functions too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      yield equation.params
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
    ):
      if hasattr(value, "jaxpr"):
        yield from convolutions(value.jaxpr)


@pytest.mark.parametrize("case", CASES)
def test_xla_gets_only_convolutions_that_it_computes_fast_inside_loops(case) -> None:
  x, k, how = problem(case)
  plain = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NHWC)

  def loss(x, k):
    return jnp.sum(jnp.sin(conv.convolution("cpu")(x, k, *how, dimension_numbers=NHWC)))

  found = list(convolutions(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, k).jaxpr))
  assert bool(found) == (case != "small images")
  for params in found:
    assert params["lhs_dilation"] == (1, 1)
    assert params["dimension_numbers"] == plain
    assert params["feature_group_count"] == params["batch_group_count"] == 1
