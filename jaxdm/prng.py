"""Every random number of the project is derived here, by name and index.

`key_for(root, 'augment', step)` names a stream; nothing threads a mutable key,
so a number never depends on how many were drawn before it.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm import numerics
from jaxdm.errors import check_seed
from jaxdm.typing import Array

_SWAP_ROUNDS = 32


def _fold(name: str | int | Array) -> int | Array:
  """A 32-bit digest of a name; indices, traced ones too, stay as they are."""
  return zlib.crc32(name.encode()) if isinstance(name, str) else name


def key_for(root: Array, *path: str | int | Array) -> Array:
  """Derives the key of a named, indexed stream.

  Args:
    root: a typed JAX key.
    *path: names and indices (which may be traced), outermost first.

  Returns:
    A typed JAX key.
  """
  for part in path:
    root = jax.random.fold_in(root, _fold(part))
  return root


class Stream(NamedTuple):
  """The name of a stream of random numbers, such as ('verify', 3)."""

  family: str
  number: int


# Of the seeds of models, which are whole numbers, each purpose has a range of its own.
SEEDS_A_FAMILY = 10**7
_FAMILIES = ("search", "verify", "base", "curve", "explain", "subset", "bench")
_FIRST_REPEAT = 10  # Of subsets; after the families above.


def model_seeds(family: str, count: int, first: int = 0) -> np.ndarray:
  """Seeds of models for one purpose; no other purpose has the same.

  Args:
    family: 'search', 'verify', 'base', 'curve', 'explain', 'subset' or 'bench'. Those of
      'search' are 0, 1, 2, ..., those of 'verify' 10,000,000 and up.
    count: how many.
    first: number of the first one within its family.

  Returns:
    int64[count].
  """
  return _FAMILIES.index(family) * SEEDS_A_FAMILY + first + np.arange(count)


def subset_seeds(numbers: np.ndarray, repeat: int = 0) -> np.ndarray:
  """Seeds of models on random subsets.

  Args:
    numbers: int[m], of the subsets.
    repeat: 0: the first model on each subset; 1: the second one; and so on.

  Returns:
    int64[m].
  """
  family = _FIRST_REPEAT + repeat if repeat else _FAMILIES.index("subset")
  return family * SEEDS_A_FAMILY + np.asarray(numbers, np.int64)


def stream_of(seed: int) -> Stream:
  """The stream that the seed of a model stands for.

  Raises:
    UserError: if the seed is not in [0, 2**32).
  """
  family, number = divmod(check_seed(seed, "seeds"), SEEDS_A_FAMILY)
  if family < len(_FAMILIES):
    return Stream(_FAMILIES[family], number)
  return Stream("model", int(seed))


def root_key(seed: int) -> Array:
  """The key of a seed: `jax.random.key(seed)` as it is where no JAX option is changed.

  The generator, the seed's offset and the width of integers, which JAX has options for,
  do not change it.

  Raises:
    UserError: if the seed is not in [0, 2**32).
  """
  seed = check_seed(seed)
  data = jnp.asarray([0, seed], jnp.uint32)
  return jax.random.wrap_key_data(data, impl="threefry2x32")


@numerics.pinned()
def keys_for(root_seed: int, streams: Sequence[Stream]) -> Array:
  """The key of each stream, as key[len(streams)]."""
  families = jnp.asarray([_fold(s.family) for s in streams], jnp.uint32)
  indices = jnp.asarray([s.number for s in streams], jnp.uint32)
  return jax.vmap(functools.partial(key_for, root_key(root_seed)))(families, indices)


def generator_for(seed: int, *path: str | int) -> np.random.Generator:
  """The host's counterpart of `key_for`: an independent NumPy generator.

  Philox streams, unlike `Generator`'s distributions, are promised never to
  change between NumPy versions; what must replay for years reads raw bits.
  """
  entropy = [seed, *(int(_fold(part)) for part in path)]
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _mix(bits: Array) -> Array:
  """MurmurHash3's 32-bit finaliser."""
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
  return bits ^ (bits >> 16)


def shuffle(key: Array, epoch: Array, position: Array, count: Array) -> Array:
  """Entry `position` of the `epoch`-th random permutation of range(count).

  A swap-or-not network (Hoang, Morris, Rogaway, CRYPTO 2012): exact for any
  count, which may be traced, and without a sort or any state, so that batches
  may cross an epoch's end and models with other counts share one program.

  Args:
    key: a typed JAX key.
    epoch: int32[b].
    position: int32[b], in [0, count).
    count: int32 scalar >= 1.

  Returns:
    int32[b] in [0, count).
  """
  count = jnp.asarray(count).astype(jnp.uint32)
  salts = jax.random.bits(key, (_SWAP_ROUNDS, 2), jnp.uint32)
  epoch_bits = _mix(epoch.astype(jnp.uint32) + jnp.uint32(0x9E3779B9))

  def swap_or_not(i: Array, place: Array) -> Array:
    pivot = _mix(epoch_bits ^ salts[i, 0]) % count
    partner = jnp.where(pivot >= place, pivot - place, pivot + count - place)
    coin = _mix(jnp.maximum(place, partner) ^ _mix(epoch_bits + salts[i, 1]))
    return jnp.where(coin >> 31, partner, place)

  # A loop and not 32 rounds in a row: XLA may fuse those into one expression that
  # repeats every round's work for each use by the next (seen with JAX 0.12 on CPU).
  start = position.astype(jnp.uint32)
  place = lax.fori_loop(0, _SWAP_ROUNDS, swap_or_not, start, unroll=4)
  return place.astype(jnp.int32)
