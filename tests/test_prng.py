import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdm import prng


def shuffled_epochs(seed: int, epochs: list[int], count: int) -> np.ndarray:
  """One order an epoch."""
  places = jnp.tile(jnp.arange(count, dtype=jnp.int32), len(epochs))
  epoch_of = jnp.repeat(jnp.array(epochs, jnp.int32), count)
  orders = prng.shuffle(jax.random.key(seed), epoch_of, places, count)
  return np.asarray(orders).reshape(len(epochs), count)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 25_000])
def test_every_epoch_is_a_permutation(count: int) -> None:
  for order in shuffled_epochs(0, [0, 1, 17], count):
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_epochs_and_keys_give_other_orders() -> None:
  orders = [*shuffled_epochs(0, [0, 1], 100), *shuffled_epochs(1, [0], 100)]
  for a, b in itertools.combinations(orders, 2):
    assert np.mean(a == b) < 0.1


def test_all_permutations_of_four_are_equally_likely() -> None:
  # 24 cells, 2,400 draws: the chi-square statistic has mean 23 and sd 6.8.
  orders = np.concatenate([shuffled_epochs(s, list(range(800)), 4) for s in range(3)])
  draws = [tuple(order) for order in orders.tolist()]
  counts = np.array([draws.count(p) for p in itertools.permutations(range(4))])
  assert np.sum((counts - 100) ** 2 / 100) < 23 + 5 * 6.8


def test_positions_are_uniform_in_a_long_shuffle() -> None:
  orders = shuffled_epochs(3, list(range(400)), 50)
  first = np.bincount(orders[:, 0], minlength=50)
  assert np.sum((first - 8) ** 2 / 8) < 49 + 5 * np.sqrt(2 * 49)


def test_streams_are_named_and_independent_of_each_other() -> None:
  root = jax.random.key(0)
  a = prng.key_for(root, "augment", 3)
  assert jnp.array_equal(
    jax.random.key_data(a), jax.random.key_data(prng.key_for(root, "augment", 3))
  )
  others = [prng.key_for(root, "augment", 4), prng.key_for(root, "init", 3), root]
  for other in others:
    assert not jnp.array_equal(jax.random.key_data(a), jax.random.key_data(other))


def test_keys_for_equals_key_for() -> None:
  seeds = [prng.Stream("verify", 3), prng.Stream("search", 3), prng.Stream("verify", 0)]
  keys = prng.keys_for(5, seeds)
  for key, seed in zip(keys, seeds, strict=True):
    alone = prng.key_for(jax.random.key(5), seed.family, seed.number)
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(alone))


def test_streams_follow_from_checksums_of_names() -> None:
  """What is drawn is part of a result: another version must draw the same."""
  # The check value of CRC-32, and another one.
  for name, checksum in (("123456789", 0xCBF43926), ("init", 0xC674E474)):
    sequence = np.random.SeedSequence([9, checksum, 4])
    expected = np.random.Philox(sequence).random_raw(3)
    found = prng.generator_for(9, name, 4).bit_generator.random_raw(3)
    np.testing.assert_array_equal(found, expected)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(9), checksum), 4)
    assert prng.key_for(jax.random.key(9), name, 4) == key


def test_every_purpose_has_ten_million_seeds_of_its_own() -> None:
  families = ["search", "verify", "base", "curve", "explain", "subset", "bench"]
  for place, family in enumerate(families):
    for first in (0, 5, 10**7 - 3):
      seeds = prng.model_seeds(family, 3, first)
      assert seeds.tolist() == [place * 10**7 + first + i for i in range(3)]
      streams = [prng.stream_of(seed) for seed in seeds]
      assert streams == [(family, first + i) for i in range(3)]
  for seed in (7 * 10**7, 2**32 - 1):
    assert prng.stream_of(seed) == ("model", seed)
  for seed in (-1, 2**32):
    with pytest.raises(ValueError, match=r"must be .*in \[0, 2\*\*32\), got"):
      prng.stream_of(seed)
