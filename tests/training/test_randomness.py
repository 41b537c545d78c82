"""What training draws at random, read off the batches that it is given.

`train.step` is replaced by one that records its arguments, so that nothing but the order
of examples, their augmentation, their labels and the rates is computed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdm import training_sets
from jaxdm.training import recipe as recipe_lib
from jaxdm.training import train
from jaxdm.training.config import TrainConfig
from jaxdm.training.inputs import Inputs

COUNT, BATCH, EPOCHS, SIDE = 24, 10, 30, 6  # Batches cross the ends of epochs.
STEPS = EPOCHS * COUNT // BATCH
EXAMPLES = 32  # Eight of them are in no training set.


class Batches(NamedTuple):
  """What each model was trained on, step by step.

  Attributes:
    pixels: float[m, s, b, h, w], as they were before they were normalised.
    labels: int[m, s, b].
    rates: float[m, s].
  """

  pixels: np.ndarray
  labels: np.ndarray
  rates: np.ndarray


def record(recipe, state, images, labels_b, rate, key) -> train.State:
  """In place of `train.step`: a state that holds every batch so far."""
  step, batches = state.params
  new = (images[..., 0], labels_b, rate)
  batches = jax.tree.map(lambda all_s, one: all_s.at[step].set(one), batches, new)
  return state._replace(params=(step + 1, batches))


@pytest.fixture(scope="module")
def batches_of() -> Iterator[Callable[..., Batches]]:
  """(images, models, steps, options of the recipe) to what models are trained on."""
  included = np.arange(EXAMPLES) % 4 != 1
  labels = np.arange(EXAMPLES) // 3  # Not what their pixels say.

  def batches(
    images: np.ndarray, models: int, *, steps: int = STEPS, **given: object
  ) -> Batches:
    options = {"flip": False, "translate_pixels": 0, "cutout_pixels": 0} | given
    config = TrainConfig(
      width=1, epochs=EPOCHS, batch_size=BATCH, peak_at=0.25, **options
    )
    recipe = recipe_lib.make(config, num_classes=2, input_shape=images.shape[1:])
    sets = training_sets.from_masks(included[None], labels)
    row = jax.tree.map(lambda part: jnp.asarray(part[0]), sets)
    empty = (
      jnp.zeros((steps, BATCH, SIDE, SIDE)),
      jnp.zeros((steps, BATCH), jnp.int32),
      jnp.zeros(steps),
    )
    state = train.State((jnp.int32(0), empty), (), ())

    @jax.jit
    def run(data: Inputs, key: jax.Array) -> train.State:
      limits = jnp.int32(0), jnp.int32(steps)
      return train.advance(recipe, data, row, key, state, limits)

    keys = jax.vmap(jax.random.key)(jnp.arange(models))
    _, found = jax.vmap(run, (None, 0))(Inputs.of(images), keys).params
    normalised, labels_msb, rates_ms = map(np.asarray, found)
    own = images[included].astype(float)
    return Batches(normalised * own.std() + own.mean(), labels_msb, rates_ms)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "step", record)
    yield batches


@pytest.fixture(scope="module")
def orders(batches_of) -> np.ndarray:
  """Examples in the order of training, int[model, epoch, place], of three models."""
  images = np.broadcast_to(
    7 * np.arange(EXAMPLES, dtype=np.uint8)[:, None, None, None],
    (EXAMPLES, SIDE, SIDE, 1),
  )
  batches = batches_of(images, 3)
  examples = batches.pixels[..., 0, 0] / 7
  np.testing.assert_allclose(examples, examples.round(), atol=1e-3)
  np.testing.assert_array_equal(batches.labels, examples.round().astype(int) // 3)
  return examples.round().astype(int).reshape(3, EPOCHS, COUNT)


def test_every_epoch_holds_each_example_of_the_models_set_once(orders) -> None:
  own = np.flatnonzero(np.arange(EXAMPLES) % 4 != 1)
  for order in orders.reshape(-1, COUNT):
    np.testing.assert_array_equal(np.sort(order), own)


def coincidences(a: np.ndarray, b: np.ndarray) -> int:
  """Places at which two lists of orders hold the same example."""
  assert a.shape == b.shape
  return int((a == b).sum())


def test_orders_differ_by_model_and_by_epoch(orders) -> None:
  """Two independent permutations agree in a Poisson(1) number of places."""
  for i in range(3):
    pairs = {
      "another model": (orders[i], orders[(i + 1) % 3]),
      "the next epoch": (orders[i, 1:], orders[i, :-1]),
      "another model's next epoch": (orders[i, 1:], orders[(i + 1) % 3, :-1]),
    }
    for name, (a, b) in pairs.items():
      assert abs(coincidences(a, b) - len(a)) < 5 * np.sqrt(len(a)), name


class Draws(NamedTuple):
  """What was done to each image, int[model, step, slot], and in how many ways it can be.

  Attributes:
    found: a number for each way.
    ways: all equally likely.
  """

  found: np.ndarray
  ways: int


@pytest.fixture(scope="module")
def draws(batches_of) -> dict[str, Draws]:
  """The augmentation of two models.

  Every image is the same, and no two of its pixels are.
  """
  image = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(1, SIDE, SIDE, 1)
  images = np.repeat(image, EXAMPLES, axis=0)

  def seen(**recipe: object) -> np.ndarray:
    return batches_of(images, 2, steps=40, **recipe).pixels

  mean = image.mean()
  erased = np.abs(seen(cutout_pixels=4) - mean) < 0.25
  return {
    "mirrored": Draws(seen(flip=True)[..., 0, 0].round().astype(int), 2),
    "shift": Draws(seen(translate_pixels=1)[..., 3, 3].round().astype(int), 9),
    "erased": Draws(erased.reshape(*erased.shape[:3], -1).argmax(axis=-1), 9),
  }


@pytest.mark.parametrize("kind", ["mirrored", "shift", "erased"])
def test_augmentation_differs_by_step_and_by_model(draws, kind) -> None:
  """Two independent draws agree as often as two of so many equally likely ways do."""
  found, ways = draws[kind]
  assert len(np.unique(found)) == ways
  pairs = {
    "the next step": (found[:, 1:], found[:, :-1]),
    "another model": (found[0], found[1]),
    "another model's next step": (found[0, 1:], found[1, :-1]),
    "the next slot": (found[..., 1:], found[..., :-1]),
  }
  for name, (a, b) in pairs.items():
    expected, variance = a.size / ways, a.size / ways * (1 - 1 / ways)
    assert abs((a == b).sum() - expected) < 5 * np.sqrt(variance), name


def test_one_kind_of_augmentation_does_not_tell_another(draws) -> None:
  for one, other in (("mirrored", "shift"), ("mirrored", "erased"), ("shift", "erased")):
    table = np.zeros((SIDE * SIDE, SIDE * SIDE), int)
    np.add.at(table, (draws[one].found.ravel(), draws[other].found.ravel()), 1)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-6, (one, other)


def test_the_rate_of_each_step_is_the_schedules_at_its_middle(batches_of) -> None:
  rates = batches_of(np.zeros((EXAMPLES, SIDE, SIDE, 1), np.uint8), 1).rates[0]
  middles = (np.arange(STEPS) + 0.5) / STEPS
  peak = TrainConfig().peak_learning_rate
  expected = np.interp(middles, [0, 0.25, 1], [0, peak, 0])
  np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_every_step_of_every_model_has_a_key_of_its_own(monkeypatch) -> None:
  """The one that dropout gets."""

  def record_key(recipe, state, images, labels_b, rate, key) -> train.State:
    step, keys = state.params
    keys = keys.at[step].set(jax.random.key_data(key))
    return state._replace(params=(step + 1, keys))

  monkeypatch.setattr(train, "step", record_key)
  x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
  config = TrainConfig(epochs=5, batch_size=4)
  recipe = recipe_lib.make(config, num_classes=2, input_shape=(2,), network="linear")
  sets = training_sets.from_masks(np.ones((1, 8), bool), np.arange(8) % 2)
  row = jax.tree.map(lambda part: jnp.asarray(part[0]), sets)
  data = jax.tree.map(jnp.asarray, Inputs.of(x))
  found = []
  for seed in range(2):
    empty = jnp.int32(0), jnp.zeros((10, 2), jnp.uint32)
    limits, state = (jnp.int32(0), jnp.int32(10)), train.State(empty, (), ())
    made = train.advance(recipe, data, row, jax.random.key(seed), state, limits)
    found += np.asarray(made.params[1]).tolist()
  assert len(set(map(tuple, found))) == 20
