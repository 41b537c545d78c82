"""Removals chosen one example at a time, each given that those before it are gone.

When an example is gone its likes are fitted less well and pull harder, so that what they
do for a target grows. Scores taken once know nothing of that. Here models are linearised:
their log-odds are linear in the parameters and each example's loss is a parabola, the
Gauss-Newton problem that influence functions solve. In it an example can be removed
exactly, and influence functions be taken again of what is left, without training.

Choosing greedily by influence functions that are taken again is due to Hu, Hu, Zhao and
Ma, 'Most Influential Subset Selection' (arXiv:2409.18153), there for linear models.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdm import Array
from jaxdm.baselines import gradient

_LEAST = 1e-4


class Linearised(NamedTuple):
  """What a model on all data says of a target and c examples, near its optimum.

  phi are gradients of log-odds and H is the damped Gauss-Newton matrix of all training
  examples (`gradient.influence`). Axes of models or targets may stand in front.

  Attributes:
    cross: float32[c, c], phi_i' H^-1 phi_j.
    target: float32[c], phi_j' H^-1 phi of the target.
    odds: float32[c], the examples' log-odds.
  """

  cross: Array
  target: Array
  odds: Array


@jax.jit
def linearise(
  model: gradient.Gradients, examples_uc: Array, damping: Array | float
) -> Linearised:
  """One model, for u targets and c examples of each.

  Args:
    model: with the gradients of u targets.
    examples_uc: int.
    damping: as for `gradient.influence`.

  Returns:
    Fields with an axis of u targets in front.
  """
  train_nd, target_ud = gradient.whitened(model, damping)

  def one(pair: tuple[Array, Array]) -> Linearised:
    examples_c, target_d = pair
    rows_cd = jnp.asarray(train_nd)[examples_c]
    cross, target = (
      jnp.dot(rows_cd, right, precision="highest") for right in (rows_cd.T, target_d)
    )
    return Linearised(cross, target, jnp.asarray(model.odds_n)[examples_c])

  return lax.map(one, (examples_uc, target_ud))


class _State(NamedTuple):
  """After some removals: the products, by how much log-odds have moved, the choice."""

  cross_mcc: jax.Array
  target_mc: jax.Array
  moved_mc: jax.Array
  gone_c: jax.Array
  order_s: jax.Array


@functools.partial(jax.jit, static_argnames="most")
def order(models: Linearised, weights_c: Array, *, most: int) -> Array:
  """Which examples to remove for a target, the first one in front.

  Every choice is the example with the largest weight, plus what influence functions have
  come to say of it beyond what they said at first: with `baselines.gradient.influence`
  as the weights, by influence functions alone.

  Args:
    models: with an axis of m models in front.
    weights_c: float, what each example adds to the target's margin while all are there,
      in logits; such as a datamodel's weights.
    most: how many to choose, at most c.

  Returns:
    int32[most], positions among the c examples.
  """
  wrong_mc = jax.nn.sigmoid(-models.odds)
  curvature_mc = wrong_mc * (1 - wrong_mc)
  first_c = (models.target * wrong_mc).mean(axis=0)

  def choose(step: Array, state: _State) -> _State:
    pull_mc = wrong_mc - curvature_mc * state.moved_mc
    grown_c = (state.target_mc * pull_mc).mean(axis=0) - first_c
    j = jnp.argmax(jnp.where(state.gone_c, -jnp.inf, weights_c + grown_c))
    # H loses curvature_j phi_j phi_j' (Sherman and Morrison).
    column_mc, curvature_m = state.cross_mcc[:, :, j], curvature_mc[:, j]
    left_m = jnp.maximum(1 - curvature_m * column_mc[:, j], _LEAST)
    column_mc /= left_m[:, None]
    per_curvature_mc = curvature_m[:, None] * state.cross_mcc[:, j]
    return _State(
      state.cross_mcc + column_mc[:, :, None] * per_curvature_mc[:, None, :],
      state.target_mc + column_mc * (curvature_m * state.target_mc[:, j])[:, None],
      state.moved_mc - column_mc * pull_mc[:, j, None],
      state.gone_c.at[j].set(True),
      state.order_s.at[step].set(j),
    )

  start = _State(
    jnp.asarray(models.cross),
    jnp.asarray(models.target),
    jnp.zeros_like(wrong_mc),
    jnp.zeros(wrong_mc.shape[1], bool),
    jnp.zeros(most, jnp.int32),
  )
  return lax.fori_loop(0, most, choose, start).order_s
