"""Trains ONE model on ONE training set; `fleet` makes many of it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdm import prng, training_sets
from jaxdm.training import inputs as inputs_lib
from jaxdm.training.inputs import Inputs
from jaxdm.training.networks import Variables
from jaxdm.training.recipe import Recipe
from jaxdm.typing import Array

_PREDICT_INPUTS = 512


class State(NamedTuple):
  """A model in training.

  Attributes:
    params: float32 pytree.
    batch_stats: float32 pytree, batch norm's running statistics.
    momentum: the optimiser's state.
  """

  params: Any
  batch_stats: Any
  momentum: Any


def initial_state(recipe: Recipe, variables: Variables) -> State:
  """A model before its first step, from its 'params' and 'batch_stats'."""
  params = variables["params"]
  return State(params, variables["batch_stats"], recipe.optimiser.init(params))


def loss(
  params: Any,
  batch_stats: Any,
  recipe: Recipe,
  inputs_b: Array,
  labels_b: Array,
  key: Array,
) -> tuple[Array, Any]:
  """Mean cross-entropy of a batch, and the batch statistics it leaves.

  Args:
    params: float32 pytree.
    batch_stats: float32 pytree.
    recipe: whose network and label smoothing count.
    inputs_b: float32[b, h, w, c] or [b, d], normalised.
    labels_b: int32.
    key: of the network's dropout, if it has any.

  Returns:
    float32 scalar, and the updated `batch_stats`.
  """
  logits, batch_stats = recipe.network.train_outputs(params, batch_stats, inputs_b, key)
  smooth_bk = optax.smooth_labels(
    jax.nn.one_hot(labels_b, logits.shape[-1]), recipe.label_smoothing
  )
  return optax.softmax_cross_entropy(logits, smooth_bk).mean(), batch_stats


def step(
  recipe: Recipe,
  state: State,
  inputs_b: Array,
  labels_b: Array,
  rate: Array,
  key: Array,
) -> State:
  """One step on one batch.

  Args:
    recipe: how.
    state: the model.
    inputs_b: float32[b, h, w, c] or [b, d], normalised and augmented.
    labels_b: int32.
    rate: float32 scalar, the learning rate.
    key: of the network's dropout, if it has any.

  Returns:
    The model after the step.
  """
  grads, batch_stats = jax.grad(loss, has_aux=True)(
    state.params, state.batch_stats, recipe, inputs_b, labels_b, key
  )
  updates, momentum = recipe.optimiser.update(grads, state.momentum, state.params)
  params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
  return State(params, batch_stats, momentum)


def begin(recipe: Recipe, inputs: Inputs, key: Array) -> State:
  """One model before its first step; the arguments are those of `advance`."""
  shape = inputs.values_n.shape[1:]
  key = prng.key_for(key, "init")
  return initial_state(recipe, recipe.network.initialise(key, shape))


def advance(
  recipe: Recipe,
  inputs: Inputs,
  training_set: training_sets.TrainingSets,
  key: Array,
  state: State,
  steps: tuple[Array, Array],
) -> State:
  """Trains one model for some steps; where it is interrupted changes nothing.

  Args:
    recipe: how.
    inputs: of the dataset.
    training_set: one row of `TrainingSets`: int32[s], int32[s], int32[].
    key: the model's typed JAX key; the result depends on it and the set alone.
    state: the model at the first of the steps.
    steps: int32 scalars, the first step and the one to stop at. Those from
      `recipe.num_steps(count)` on change nothing. Models trained side by side must
      take the same ones.

  Returns:
    The model. One that diverged holds values that are not finite, and so do its logits.
  """
  indices_s, _, count = training_set
  stats = inputs_lib.statistics(inputs, indices_s, count)
  one = functools.partial(one_step, recipe, inputs, training_set, stats, key)
  return lax.fori_loop(*steps, one, state)


def one_step(
  recipe: Recipe,
  inputs: Inputs,
  training_set: training_sets.TrainingSets,
  stats: dict[str, Array],
  key: Array,
  i: Array,
  state: State,
) -> State:
  """Step i of `advance`, whose arguments these are; `stats` are the set's statistics."""
  indices_s, labels_s, count = training_set
  num_steps = jnp.asarray(recipe.num_steps(count), jnp.int32)
  place = i * recipe.batch_size + jnp.arange(recipe.batch_size, dtype=jnp.int32)
  slots_b = prng.shuffle(
    prng.key_for(key, "shuffle"), place // count, place % count, count
  )
  inputs_b = recipe.augment(
    prng.key_for(key, "augment", i),
    inputs_lib.normalise(inputs.values_n[indices_s[slots_b]], stats),
  )
  active = i < num_steps
  rate = jnp.where(active, recipe.learning_rate((i + 0.5) / num_steps), 0.0)
  dropout = prng.key_for(key, "dropout", i)
  new = step(recipe, state, inputs_b, labels_s[slots_b], rate, dropout)
  batch_stats = jax.tree.map(
    lambda now, before: jnp.where(active, now, before),
    new.batch_stats,
    state.batch_stats,
  )
  return new._replace(batch_stats=batch_stats)


def variables_of(
  state: State, inputs: Inputs, training_set: training_sets.TrainingSets
) -> Variables:
  """A trained model's variables: 'params', 'batch_stats' and the 'statistics' of its set.

  All are float32.
  """
  indices_s, _, count = training_set
  return {
    "params": state.params,
    "batch_stats": state.batch_stats,
    "statistics": inputs_lib.statistics(inputs, indices_s, count),
  }


def train_one(
  recipe: Recipe,
  inputs: Inputs,
  training_set: training_sets.TrainingSets,
  key: Array,
  loop_steps: Array,
) -> Variables:
  """Trains one model from its first step to its last; see `advance`."""
  state = begin(recipe, inputs, key)
  steps = jnp.zeros_like(loop_steps), loop_steps
  state = advance(recipe, inputs, training_set, key, state, steps)
  return variables_of(state, inputs, training_set)


def predict(recipe: Recipe, variables: Variables, values: Array) -> tuple[Array, Array]:
  """Logits and features of inputs under one trained model.

  Args:
    recipe: by which it was trained.
    variables: the model's.
    values: uint8[t, h, w, c] or float32[t, d].

  Returns:
    float32[t, k] and float32[t, f], averaged over an image and its mirror image where
    the recipe says so.
  """

  def block(values: Array) -> tuple[Array, Array]:
    inputs = inputs_lib.normalise(values, variables["statistics"])
    views = [inputs, inputs[:, :, ::-1, :]] if recipe.mirror else [inputs]
    outputs = recipe.network.outputs(variables, jnp.concatenate(views))
    logits, features = (
      out.reshape(len(views), len(inputs), -1).mean(axis=0) for out in outputs
    )
    return logits, features

  # All at once, the activations of a whole test set would not fit on a device.
  count = len(values)
  num_blocks = -(-count // _PREDICT_INPUTS)
  size = -(-count // num_blocks)
  around = [(0, num_blocks * size - count), *[(0, 0)] * (values.ndim - 1)]
  blocks = jnp.pad(values, around).reshape(num_blocks, size, *values.shape[1:])
  outputs = lax.map(block, blocks)
  logits, features = (out.reshape(-1, out.shape[-1])[:count] for out in outputs)
  return logits, features
