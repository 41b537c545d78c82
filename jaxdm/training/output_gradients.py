"""Gradients of a trained model's outputs, one an example, projected to fewer numbers.

TracIn, TRAK and influence functions are made of these (see `attribution.gradient`).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdm import devices, prng
from jaxdm.training import train
from jaxdm.training.networks import Variables
from jaxdm.training.recipe import Recipe
from jaxdm.typing import Array

# Examples at a time: on CPU those whose gradients stay in the cache; elsewhere as many as
# have this many numbers together.
_CPU_EXAMPLES = 16
_NUMBERS = 2**28


def examples_at_a_time(size: int) -> int:
  """Examples whose gradients are computed side by side.

  Args:
    size: numbers in all gradients of one example, of every model and class.
  """
  if devices.share_memory():
    return _CPU_EXAMPLES
  return min(max(_NUMBERS // size, 1), 1024)


def log_odds(logits_k: Array, label: Array) -> Array:
  """log(p / (1 - p)) of the label's softmax probability p.

  The output that Park et al. attribute ('TRAK', arXiv:2303.14186, section 3.2): the
  gradient of the cross-entropy is that of the log-odds times -(1 - p).
  """
  is_label = jnp.arange(logits_k.shape[-1]) == label
  others = jnp.where(is_label, -jnp.inf, logits_k)
  return logits_k[label] - jax.nn.logsumexp(others)


def random_signs(key: Array, size: int) -> jax.Array:
  """1 or -1 for each entry of a vector that `project` takes, float32[size]."""
  return jax.random.rademacher(prng.key_for(key, "signs"), (size,), float)


def project(vector_p: Array, signs_p: Array, dim: int) -> jax.Array:
  """Sums of the entries times their signs, float32[dim].

  A random map that keeps inner products in expectation and needs no matrix (a count
  sketch: Charikar, Chen and Farach-Colton, 2002). Which entries are added up is not drawn
  at random, because random access to gradients takes longer than to compute them: every
  l-th entry belongs to the same sum. A prime l separates entries whose distance is a
  multiple of a layer's channels, which are alike. Of a vector with at most `dim` entries,
  each is a sum of its own.
  """
  entries = signs_p * jnp.asarray(vector_p)
  sums = dim if entries.size <= dim else _largest_prime(dim)
  sums_l = jnp.pad(entries, (0, -entries.size % sums)).reshape(-1, sums).sum(axis=0)
  return jnp.pad(sums_l, (0, dim - sums))


def _largest_prime(most: int) -> int:
  """The largest prime up to a number; 1 if there is none."""
  numbers = range(most, 1, -1)
  return next((n for n in numbers if all(n % q for q in range(2, math.isqrt(n) + 1))), 1)


def per_example(
  recipe: Recipe,
  variables: Variables,
  values: Array,
  labels_b: Array,
  key: Array,
  *,
  dim: int,
  models: int = 1,
) -> tuple[Array, Array]:
  """Log-odds of examples under one trained model, and their projected gradients.

  Args:
    recipe: by which the model was trained.
    variables: one model's.
    values: uint8[b, h, w, c] or float32[b, d].
    labels_b: int32.
    key: of the projection.
    dim: numbers that a gradient is projected to.
    models: for how many this is computed side by side.

  Returns:
    float32[b] and float32[b, dim].
  """
  params = variables["params"]
  # Made once: within the loop below it would be made again for every block.
  size = ravel_pytree(params)[0].size
  signs_p = random_signs(key, size)
  logits_of = functools.partial(_logits, recipe, variables)

  def output(params: object, image: Array, label: Array) -> Array:
    return log_odds(logits_of(params, image), label)

  def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
    value, gradient = jax.value_and_grad(output)(params, *example)
    return value, project(ravel_pytree(gradient)[0], signs_p, dim)

  examples = jnp.asarray(values), labels_b
  return lax.map(one, examples, batch_size=examples_at_a_time(models * size))


def per_class(
  recipe: Recipe,
  variables: Variables,
  values: Array,
  key: Array,
  *,
  dim: int,
  models: int = 1,
) -> Array:
  """Projected gradients of every logit of every example, float32[b, k, dim].

  The arguments are those of `per_example`, and so is the projection.
  """
  params = variables["params"]
  size = ravel_pytree(params)[0].size
  signs_p = random_signs(key, size)

  def one(image: Array) -> Array:
    logits_of = functools.partial(_logits, recipe, variables, image=image)
    logits_k, pullback = jax.vjp(logits_of, params)
    rows = jax.vmap(pullback)(jnp.eye(len(logits_k)))[0]
    return jax.vmap(lambda row: project(ravel_pytree(row)[0], signs_p, dim))(rows)

  logits_of_one = functools.partial(_logits, recipe, variables, params)
  numbers = models * size * jax.eval_shape(logits_of_one, values[0]).size
  at_a_time = examples_at_a_time(numbers)
  return lax.map(one, jnp.asarray(values), batch_size=at_a_time)


def _logits(
  recipe: Recipe,
  variables: Variables,
  params: object,
  image: Array,
) -> Array:
  """Logits of one image, float32[k], with other parameters."""
  all_variables = variables | {"params": params}
  return train.predict(recipe, all_variables, image[None])[0][0]
