"""How random the orders of `prng.shuffle` are, and that they stay what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdm import prng

SEED, ROUNDS = 0, 32
# Orders to draw for a training set's size: from a class to a whole data set.
NUM_ORDERS = {100: 1000, 1_000: 100, 50_000: 100}


@pytest.fixture(scope="module", params=NUM_ORDERS)
def orders(request: pytest.FixtureRequest) -> np.ndarray:
  """int[e, n]: one order an epoch, of one key."""
  count = request.param
  places = jnp.arange(count, dtype=jnp.int32)
  draw = jax.jit(lambda epochs: prng.shuffle(key, epochs, places, jnp.int32(count)))
  key = jax.random.key(SEED)
  epochs = range(NUM_ORDERS[count])
  return np.array([draw(jnp.full(count, e, jnp.int32)) for e in epochs])


def is_poisson_sum(total: int, mean: float) -> bool:
  """Whether a sum of Poisson numbers with this mean is within 5 standard deviations."""
  return abs(total - mean) < 5 * np.sqrt(mean)


def test_no_more_examples_stay_in_place_than_chance_leaves(orders) -> None:
  """The fixed points of a random permutation are Poisson(1) in number.

  A network of r rounds leaves each example where it is with probability 2^-r in addition:
  r = 32 adds none, r = 8 adds 0.4 of 100 examples and 195 of 50,000, r = 16 adds 0.8 of
  50,000.
  """
  fixed = (orders == np.arange(orders.shape[1])).sum()
  assert is_poisson_sum(int(fixed), len(orders))


def test_orders_of_two_epochs_meet_as_often_as_by_chance(orders) -> None:
  """Two independent permutations agree in a Poisson(1) number of places."""
  for apart in (1, 2, 8):
    same = (orders[apart:] == orders[:-apart]).sum()
    assert is_poisson_sum(int(same), len(orders) - apart), apart


def test_neighbours_stay_together_no_more_often_than_by_chance(orders) -> None:
  """Neighbours of a random permutation that were neighbours are Poisson(2) in number.

  A round turns a whole range about its middle, so that two neighbours stay neighbours
  whenever both of their coins fall alike.
  """
  together = np.abs(np.diff(orders, axis=1)) == 1
  assert is_poisson_sum(int(together.sum()), 2 * len(orders))


def test_no_place_prefers_examples_of_a_part(orders) -> None:
  """Halves, thirds and residues of the places and of the examples are independent."""
  count = orders.shape[1]
  places = np.broadcast_to(np.arange(count), orders.shape)
  for name, part in (
    ("halves", lambda x: x >= count // 2),
    ("first tenth", lambda x: x < count // 10),
    ("residues", lambda x: x % 2 == 1),
  ):
    inside = part(places) & part(orders)
    size = part(np.arange(count)).sum()
    # Hypergeometric, for each order.
    mean = size * size / count
    variance = mean * (count - size) ** 2 / count / (count - 1)
    found = inside.sum() - len(orders) * mean
    assert abs(found) < 5 * np.sqrt(len(orders) * variance), name


def mixed(bits: int) -> int:
  """MurmurHash3's 32-bit finaliser, on Python's numbers."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    bits = ((bits ^ bits >> shift) * factor) % 2**32
  return bits


def swap_or_not(salts: list[list[int]], epoch: int, place: int, count: int) -> int:
  """One number through the network of Hoang, Morris and Rogaway (2012), figure 1.

  Each round swaps a number X with K - X modulo N if the coin of the larger one says so.
  Here K and the coins are hashes of the round's two salts and the epoch.
  """
  tweak = mixed((epoch + 0x9E3779B9) % 2**32)
  for first, second in salts:
    partner = (mixed(tweak ^ first) % count - place) % count
    coin = mixed(max(place, partner) ^ mixed((tweak + second) % 2**32))
    place = partner if coin >= 2**31 else place
  return place


def test_orders_are_those_of_a_network_of_32_rounds() -> None:
  """Orders are part of what a model is: another version must train the same models."""
  key = jax.random.key(SEED)
  salts = np.asarray(jax.random.bits(key, (ROUNDS, 2), jnp.uint32)).tolist()
  rng = np.random.default_rng(0)
  for count in (5, 48, 50_000):
    epochs, places = rng.integers(0, 300, 40), rng.integers(0, count, 40)
    found = prng.shuffle(key, jnp.asarray(epochs), jnp.asarray(places), count)
    pairs = zip(epochs.tolist(), places.tolist(), strict=True)
    expected = [swap_or_not(salts, epoch, place, count) for epoch, place in pairs]
    np.testing.assert_array_equal(found, expected)
