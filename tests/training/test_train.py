"""What a model may depend on, and what it may not."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxdm import prng, training_sets
from jaxdm.training import fleet, inputs, resnet9, train
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.config import TrainConfig
from jaxdm.training.schedule import learning_rate


def one_model(config, images, labels, mask, *, seed=0, set_labels=None) -> dict:
  models = fleet.Fleet(config, images, 2, fleet.Speed(chunk=1))
  sets = training_sets.from_masks(
    mask[None], labels if set_labels is None else set_labels
  )
  variables = models.train(sets, prng.keys_for(seed, [prng.Stream("model", 0)]))
  return jax.tree.map(lambda a: np.asarray(a[0]), variables)


def same(a: dict, b: dict) -> bool:
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
  mask = np.ones(24, bool)
  mask[[2, 5, 11, 20]] = False
  return mask


def test_an_excluded_example_is_never_read(tiny_config, tiny_images, mask) -> None:
  images, labels = tiny_images
  before = one_model(tiny_config, images, labels, mask)
  corrupt, wrong = images.copy(), labels.copy()
  corrupt[[2, 5, 11, 20]] = 255 - images[[5, 2, 20, 11]]
  wrong[[2, 5, 11, 20]] ^= 1
  assert same(before, one_model(tiny_config, corrupt, wrong, mask))


def test_an_included_example_and_its_label_matter(tiny_config, tiny_images, mask) -> None:
  images, labels = tiny_images
  before = one_model(tiny_config, images, labels, mask)
  flipped = labels.copy()
  flipped[0] ^= 1
  assert not same(
    before, one_model(tiny_config, images, labels, mask, set_labels=flipped)
  )
  swapped = images.copy()
  swapped[[0, 1]] = images[[1, 0]]
  assert not same(before, one_model(tiny_config, swapped, labels, mask))


def test_seeds_differ_and_repeat(tiny_config, tiny_images, mask) -> None:
  images, labels = tiny_images
  first = one_model(tiny_config, images, labels, mask, seed=1)
  assert same(first, one_model(tiny_config, images, labels, mask, seed=1))
  assert not same(first, one_model(tiny_config, images, labels, mask, seed=2))


def test_steps_beyond_the_last_change_nothing(
  tiny_config, tiny_images, train_alone
) -> None:
  sets = training_sets.from_masks(np.ones((1, 24), bool), tiny_images[1])
  row = jax.tree.map(lambda a: a[0], sets)
  last = int(tiny_config.num_steps(24))
  assert last == 45
  variables = {
    steps: train_alone(row, jax.random.key(0), steps)[0]
    for steps in (last - 1, last, last + 20)
  }
  assert same(variables[last], variables[last + 20])
  assert not same(variables[last], variables[last - 1])


def test_training_learns(tiny_config, tiny_images) -> None:
  images, labels = tiny_images
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=1))
  sets = training_sets.from_masks(np.ones((1, 24), bool), labels)
  variables = models.train(sets, prng.keys_for(0, [prng.Stream("model", 0)]))
  logits, features = models.predict(variables, images)
  assert (np.asarray(logits[0]).argmax(axis=1) == labels).mean() > 0.9
  assert features.shape[1:] == (24, 2 * tiny_config.width)


def test_prediction_averages_with_the_image_mirrored_along_its_width(tiny_config) -> None:
  recipe = recipe_lib.make(tiny_config, num_classes=3, input_shape=(8, 6, 2))
  net = recipe.network.module
  pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 2)).astype(np.uint8)
  stats = {"mean": np.array([100.0, 120.0]), "std": np.array([50.0, 70.0])}
  images = (pixels - stats["mean"]) / stats["std"]
  variables = jax.jit(
    lambda: resnet9.initial_variables(net, jax.random.key(0), (8, 6, 2))
  )()
  both, _ = jax.jit(
    lambda: train.predict(recipe, variables | {"statistics": stats}, pixels)
  )()
  views = np.concatenate([images, images[:, :, ::-1], images[:, ::-1]])
  plain, mirrored, upside_down = jax.jit(
    lambda: net.apply(variables, views, False)[0]
  )().reshape(3, 5, 3)
  np.testing.assert_allclose(both, (plain + mirrored) / 2, atol=1e-6)
  assert np.abs(both - (plain + upside_down) / 2).max() > 1e-3


def test_prediction_in_blocks_is_prediction_at_once(tiny_config, monkeypatch) -> None:
  recipe = recipe_lib.make(tiny_config, num_classes=3, input_shape=(8, 8, 1))
  net = recipe.network.module
  pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1)).astype(np.uint8)
  stats = {"mean": np.array([100.0]), "std": np.array([50.0])}

  def predicted(images_a_block: int) -> np.ndarray:
    monkeypatch.setattr(train, "_PREDICT_INPUTS", images_a_block)
    variables = resnet9.initial_variables(net, jax.random.key(0), (8, 8, 1))
    return train.predict(recipe, variables | {"statistics": stats}, pixels)[0]

  whole = jax.jit(lambda: predicted(7))()
  assert whole.shape == (7, 3)
  np.testing.assert_allclose(jax.jit(lambda: predicted(3))(), whole, atol=1e-5)


def test_muon_moves_kernels_along_the_gradients_polar_factor(tiny_config) -> None:
  config = dataclasses.replace(
    tiny_config, muon_rate=0.1, peak_learning_rate=0.5, weight_decay=0.0
  )
  recipe = recipe_lib.make(config, num_classes=2, input_shape=(8, 8, 1))
  variables = recipe.network.initialise(jax.random.key(0), (8, 8, 1))
  state = train.initial_state(recipe, variables)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
  labels = rng.integers(0, 2, 16)
  of = jax.jit(jax.grad(train.loss, has_aux=True), static_argnums=2)
  key = jax.random.key(0)
  grads, _ = of(state.params, state.batch_stats, recipe, images, labels, key)
  step = jax.jit(train.step, static_argnums=0)
  new = step(recipe, state, images, labels, 0.5, key)
  moved = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, new.params)
  kernel = moved["ConvBlock_2"]["Conv_0"]["kernel"]
  kernel = kernel.reshape(-1, kernel.shape[-1])
  gradient = np.asarray(grads["ConvBlock_2"]["Conv_0"]["kernel"])
  u, _, vt = np.linalg.svd(gradient.reshape(kernel.shape), full_matrices=False)
  cosine = np.sum(kernel * (u @ vt)) / np.linalg.norm(kernel) / len(vt) ** 0.5
  assert cosine > 0.95
  for plain in (("ConvBlock_0", "Conv_0", "kernel"), ("Dense_0", "kernel")):
    a, b = moved, grads
    for name in plain:
      a, b = a[name], b[name]
    np.testing.assert_allclose(a, 0.5 * b, rtol=1e-4, atol=1e-7)


def by_singular_values(matrix: np.ndarray) -> np.ndarray:
  """What five steps of Newton and Schulz, as Muon takes them, do to singular values."""
  u, s, vt = np.linalg.svd(matrix, full_matrices=False)
  s = s / np.linalg.norm(s)
  for _ in range(5):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
  return (u * s) @ vt


@pytest.mark.parametrize("muon_rate", [0.0, 0.05])
def test_weight_decay_is_what_it_is_said_to_be(
  tiny_config, monkeypatch, muon_rate
) -> None:
  """Against the formulas in NumPy, where gradients are given and decay is large."""
  config = dataclasses.replace(
    tiny_config, muon_rate=muon_rate, peak_learning_rate=0.4, weight_decay=0.3
  )
  # So that the gradient is what is passed as images.
  monkeypatch.setattr(
    train,
    "loss",
    lambda params, stats, net, images, *rest: (
      sum(jax.tree.leaves(jax.tree.map(lambda p, g: (p * g).sum(), params, images))),
      stats,
    ),
  )
  rng = np.random.default_rng(0)
  shapes = {
    ("ConvBlock_0", "kernel"): (3, 3, 1, 4),
    ("ConvBlock_1", "kernel"): (3, 3, 2, 5),
    ("ConvBlock_1", "scale"): (5,),
    ("Dense_0", "kernel"): (5, 3),
  }

  def tree(values: dict) -> dict:
    found: dict[str, dict] = {}
    for (layer, name), value in values.items():
      found.setdefault(layer, {})[name] = np.asarray(value, np.float32)
    return found

  weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  memory = {name: np.zeros(shape) for name, shape in shapes.items()}
  recipe = recipe_lib.make(config, num_classes=3, input_shape=(8, 8, 1))
  state = train.initial_state(recipe, {"params": tree(weights), "batch_stats": {}})
  b = config.momentum
  for k, rate in enumerate((0.1, 0.4, 0.25), start=1):
    grads = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    state = train.step(recipe, state, tree(grads), None, rate, None)
    for name, w in weights.items():
      if muon_rate and name == ("ConvBlock_1", "kernel"):
        memory[name] = b * memory[name] + (1 - b) * grads[name]
        ahead = b * memory[name] / (1 - b ** (k + 1))
        ahead = ahead + (1 - b) * grads[name] / (1 - b**k)
        move = by_singular_values(ahead.reshape(-1, 5)).reshape(w.shape)
        own_rate = muon_rate * rate / 0.4
        weights[name] = w - own_rate * (move + 0.3 * w)
      else:
        memory[name] = b * memory[name] + grads[name] + 0.3 * w
        weights[name] = w - rate * memory[name]
  for (layer, name), w in weights.items():
    np.testing.assert_allclose(state.params[layer][name], w, atol=2e-5)


def test_pixels_are_normalised_by_the_models_own_set(
  tiny_config, tiny_images, mask
) -> None:
  images, labels = tiny_images
  variables = one_model(tiny_config, images, labels, mask)
  own = images[mask].astype(float)
  np.testing.assert_allclose(
    variables["statistics"]["mean"], own.mean((0, 1, 2)), rtol=1e-5
  )
  np.testing.assert_allclose(
    variables["statistics"]["std"], own.std((0, 1, 2)), rtol=1e-4
  )


def test_the_schedule_is_a_triangle() -> None:
  config = TrainConfig(peak_learning_rate=0.5, peak_at=0.25)
  theirs = optax.join_schedules(
    [optax.linear_schedule(0, 0.5, 25), optax.linear_schedule(0.5, 0, 75)], [25]
  )
  ours = [float(learning_rate(config, np.float32(i / 100))) for i in range(100)]
  np.testing.assert_allclose(ours, [theirs(i) for i in range(100)], atol=1e-6)


def test_steps_follow_the_set_or_a_fixed_number() -> None:
  own = TrainConfig(epochs=3, batch_size=32)
  np.testing.assert_array_equal(
    own.num_steps(np.array([32, 33, 320, 50_000])), [3, 4, 30, 4688]
  )
  fixed = dataclasses.replace(own, epoch_examples=100)
  np.testing.assert_array_equal(fixed.num_steps(np.array([32, 320])), [10, 10])


@pytest.mark.parametrize(
  "field,value",
  [("width", 0), ("epochs", -1.0), ("batch_size", 0), ("momentum", 1.0), ("peak_at", 1.0),
   ("label_smoothing", 1.0), ("epoch_examples", -1), ("muon_rate", -1.0),
   ("compute_dtype", "float16")],
)  # fmt: skip
def test_bad_recipes_are_named(field, value) -> None:
  with pytest.raises(ValueError, match=field):
    TrainConfig(**{field: value})


def test_constant_images_are_normalised_to_zeros() -> None:
  images = np.full((3, 4, 4, 1), 7, np.uint8)
  stats = inputs.statistics(inputs.Inputs.of(images), np.arange(3), np.int32(3))
  np.testing.assert_array_equal(inputs.normalise(images, stats), np.zeros(images.shape))
