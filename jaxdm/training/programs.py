"""What is compiled to train many models, and how it is run where memory is short."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm import devices, numerics
from jaxdm.errors import UserError
from jaxdm.training import output_gradients, train
from jaxdm.training.inputs import Inputs
from jaxdm.training.networks import Variables
from jaxdm.training.recipe import Recipe
from jaxdm.typing import Array

Program = Callable[[Any, Any], Any]  # From shared arguments and those of each model.


class Programs(NamedTuple):
  """The programs of a fleet; each maps one function of `train` over models.

  Attributes:
    begin: shared inputs; keys.
    advance: shared inputs and steps; states, training sets, keys, and whether the model
      is wanted: a row that only fills a call is not trained where a device trains one
      model at a time.
    variables: shared inputs; states and training sets.
    predict: shared inputs to predict; variables.
    logits: the same, without features, which need much memory for many inputs.
    gradients: shared examples and labels; variables, keys, and whether the model is
      wanted: those of others are 0 where a device has one model at a time.
    class_gradients: shared examples; the same.
  """

  begin: Program
  advance: Program
  variables: Program
  predict: Program
  logits: Program
  gradients: Program
  class_gradients: Program


def make_programs(recipe: Recipe, width: int, gradient_dim: int) -> Programs:
  """The programs of a recipe; each is compiled when it is first run.

  Args:
    recipe: how each model is trained.
    width: models of a device side by side.
    gradient_dim: numbers that an example's gradient is projected to.
  """

  def begin_row(inputs: Inputs, key: Array) -> train.State:
    return train.begin(recipe, inputs, key)

  def advance_row(shared: Any, row: Any) -> train.State:
    (inputs, (first, stop)), (state, training_set, key, is_wanted) = shared, row
    if width == 1:  # Side by side, all models take the same steps.
      stop = jnp.where(is_wanted, stop, first)
    return train.advance(recipe, inputs, training_set, key, state, (first, stop))

  def variables_row(inputs: Inputs, row: Any) -> Variables:
    state, training_set = row
    return train.variables_of(state, inputs, training_set)

  def predict_row(values: Array, variables: Variables) -> Any:
    return train.predict(recipe, variables, values)

  def logits_row(values: Array, variables: Variables) -> Array:
    return train.predict(recipe, variables, values)[0]

  def gradients_row(examples: Any, row: Any) -> Any:
    (values, labels), (variables, key) = examples, row
    return output_gradients.per_example(
      recipe, variables, values, labels, key, dim=gradient_dim, models=width
    )

  def class_gradients_row(values: Array, row: Any) -> Array:
    variables, key = row
    return output_gradients.per_class(
      recipe, variables, values, key, dim=gradient_dim, models=width
    )

  return Programs(
    begin=_map_models(begin_row, width),
    advance=_map_models(advance_row, width),
    variables=_map_models(variables_row, width),
    predict=_map_models(predict_row, width),
    logits=_map_models(logits_row, width),
    gradients=_map_wanted(gradients_row, width),
    class_gradients=_map_wanted(class_gradients_row, width),
  )


def _map_models(fn: Any, width: int) -> Program:
  """Maps fn(shared, one model's arguments) over the models of every device."""

  def mapped(shared: Any, rows: Any) -> Any:
    one = functools.partial(fn, shared)
    return lax.map(one, rows, batch_size=width if width > 1 else None)

  return devices.shard_map(mapped)


def _map_wanted(fn: Any, width: int) -> Program:
  """The same for rows of (variables, key), and which of them, the first, are wanted."""

  def mapped(shared: Any, rows: Any) -> Any:
    *args, is_wanted = rows
    one = functools.partial(fn, shared)
    if width > 1:  # Side by side, all models are computed.
      return lax.map(one, tuple(args), batch_size=width)
    return _map_first(one, tuple(args), is_wanted.sum())

  return devices.shard_map(mapped)


def _map_first(fn: Callable[[Any], Any], rows: Any, count: Array) -> Any:
  """`lax.map` over the first rows; what belongs to others is 0."""
  num_rows = len(jax.tree.leaves(rows)[0])

  def row(i: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], rows)

  def add(i: Array, results: Any) -> Any:
    return jax.tree.map(
      lambda all_rows, one: all_rows.at[i].set(one), results, fn(row(i))
    )

  shapes = jax.eval_shape(lambda: fn(row(0)))
  empty = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), shapes)
  return lax.fori_loop(0, count, add, empty)


class Runner:
  """Runs programs; where memory is short, with fewer models of a device side by side.

  Attributes:
    programs: what is run.
    width: models of a device side by side.
    may_narrow: whether fewer models side by side will do.
  """

  def __init__(self, compile_for: Callable[[int], Programs], width: int):
    """Runs nothing yet.

    Args:
      compile_for: from models side by side to programs.
      width: models side by side to begin with.
    """
    self._compile_for, self.width = compile_for, width
    self.programs = compile_for(width)
    self.may_narrow = True
    self._finished: set[Program] = set()

  def load(self, num_models: int, rows: int) -> float:
    """What training so many models takes, as a share of what all rows of a call take."""
    unit = self.unit(rows)
    return -(-num_models // unit) * unit / rows

  def unit(self, rows: int) -> int:
    """Models that take as long as one; more take a multiple of their time."""
    return rows if self.width > 1 else devices.count()

  @numerics.pinned()
  def run(self, program_of: Callable[[Programs], Program], shared: Any, rows: Any) -> Any:
    """Runs a program; where the memory does not suffice, with half as many side by side.

    Args:
      program_of: which of the programs.
      shared: its shared arguments.
      rows: those of each model.

    Raises:
      UserError: if not even one model at a time fits.
      JaxRuntimeError: if the memory does not suffice, unless `may_narrow`.
    """
    while True:
      try:
        program = program_of(self.programs)
        outputs = program(shared, rows)
        if program not in self._finished:  # Later calls need no more than the first.
          jax.block_until_ready(outputs)
          self._finished.add(program)
        return outputs
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or not self.may_narrow:
          raise
        if self.width == 1:
          raise UserError(
            "chunk",
            ", width or batch_size must be smaller: the device's memory does "
            "not hold one model at a time",
          ) from error
        self.width //= 2
        warnings.warn(
          "out of device memory; going on with vmap_width="
          f"{self.width}, which changes results by rounding alone",
          stacklevel=2,
        )
        self.programs, self._finished = self._compile_for(self.width), set()
