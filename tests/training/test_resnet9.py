import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdm.training import pooling, resnet9


def test_the_published_network_has_its_known_number_of_parameters() -> None:
  net = resnet9.ResNet9(10)
  shapes = jax.eval_shape(
    lambda: resnet9.initial_variables(net, jax.random.key(0), (32, 32, 3))
  )
  # (in, out, kernel side) of the convolutions, then batch norms, then the head.
  convs = [(3, 64, 3), (64, 128, 5), (128, 128, 3), (128, 128, 3), (128, 256, 3)]
  convs += [(256, 256, 3), (256, 256, 3), (256, 128, 3)]
  expected = sum(i * o * k * k + 2 * o for i, o, k in convs) + 128 * 10
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize("size,channels", [(32, 3), (28, 1), (14, 1), (7, 1), (4, 2)])
def test_any_image_size_gives_logits_and_features(size, channels) -> None:
  net = resnet9.ResNet9(5, 4)
  shape = (size, size, channels)

  def outputs():
    variables = resnet9.initial_variables(net, jax.random.key(0), shape)
    return net.apply(variables, jnp.ones((3, *shape)), False)

  logits, features = jax.eval_shape(outputs)
  assert logits.shape == (3, 5) and features.shape == (3, 8)


def test_initial_variables_are_pytorchs_defaults_in_flaxs_places() -> None:
  net = resnet9.ResNet9(5, 16)
  key, image = jax.random.key(0), jnp.ones((1, 8, 8, 3))
  ours = jax.jit(lambda: resnet9.initial_variables(net, key, (8, 8, 3)))()
  flax = jax.jit(lambda: net.init(key, image, False))()
  assert jax.tree.structure(ours) == jax.tree.structure(flax)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(flax), strict=True
  ):
    assert a.shape == b.shape and a.dtype == b.dtype
    if path[-1].key == "kernel":
      bound = (a.size / a.shape[-1]) ** -0.5
      assert 0.95 * bound < np.abs(a).max() <= bound
      np.testing.assert_allclose(np.std(a), bound / 3**0.5, rtol=0.15)
    else:
      np.testing.assert_array_equal(a, b)


@pytest.fixture(params=["this platform", "a GPU", "a TPU"])
def platform(request, monkeypatch) -> None:
  """The code for this platform, or for others."""
  names = {"a GPU": "cuda", "a TPU": "tpu"}
  if request.param in names:

    def chosen(*args, default, **per_platform):
      return per_platform.get(names[request.param], default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)


@pytest.mark.device
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width", [3, 50])  # Rows of the image's width, and of a pixel.
def test_batch_norm_and_relu_equal_flaxs(training, width, platform) -> None:
  rng = np.random.default_rng(0)
  x, goal = rng.normal(2.0, 3.0, (2, 5, 4, width, 6)).astype(np.float32)
  ours, theirs = resnet9.BatchNormRelu(jnp.float32), nn.BatchNorm(momentum=0.9)
  variables = {
    "params": {"scale": rng.normal(size=6), "bias": rng.normal(size=6)},
    "batch_stats": {"mean": rng.normal(size=6), "var": rng.uniform(1, 2, 6)},
  }

  def outputs(apply):
    def loss(params, x):
      given = variables | {"params": params}
      out, state = apply(given, x)
      return (out * goal).sum(), (out, state)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)

  def flax(given, x):
    out, state = theirs.apply(
      given, x, use_running_average=not training, mutable=["batch_stats"]
    )
    return nn.relu(out), state

  a = outputs(lambda given, x: ours.apply(given, x, training, mutable=["batch_stats"]))
  for ours_leaf, flax_leaf in zip(
    jax.tree.leaves(a), jax.tree.leaves(outputs(flax)), strict=True
  ):
    error = np.abs(ours_leaf - flax_leaf).max()
    assert error < 5e-6 * np.abs(flax_leaf).max()


@pytest.mark.device
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])  # Odd edges are left out.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pooling_equals_flaxs(size, dtype, platform) -> None:
  rng = np.random.default_rng(0)
  y = jnp.asarray(rng.permutation(2 * size[0] * size[1] * 3), dtype)
  y = y.reshape(2, *size, 3)
  shape = 2, size[0] // 2, size[1] // 2, 3
  goal = jnp.asarray(rng.integers(-8, 9, shape), dtype)

  def outputs(pool):
    top, pullback = jax.vjp(pool, y)
    return top, pullback(goal)[0]

  theirs = jax.jit(lambda: outputs(lambda y: nn.max_pool(y, (2, 2), (2, 2))))()
  for a, b in zip(jax.jit(lambda: outputs(pooling.max_pool))(), theirs, strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a, float), np.asarray(b, float))


def test_equal_maxima_share_the_gradient(platform) -> None:
  rows = [[2.0, 2.0, 1.0, 5.0, 3.0, 3.0], [2.0, 2.0, 5.0, 1.0, 3.0, 0.0]]
  y = jnp.asarray(rows).reshape(1, 2, 6, 1)
  pullback = jax.jit(jax.vjp(pooling.max_pool, y)[1])
  [found] = pullback(jnp.asarray([8.0, 4.0, 9.0]).reshape(1, 1, 3, 1))
  expected = [[2.0, 2.0, 0.0, 2.0, 3.0, 3.0], [2.0, 2.0, 2.0, 0.0, 3.0, 0.0]]
  np.testing.assert_array_equal(found[0, :, :, 0], expected)
