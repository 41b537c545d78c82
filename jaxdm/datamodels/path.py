"""The path of penalties of a lasso, and its errors on validation models."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdm import devices, matrices, prng
from jaxdm.datamodels.config import FitConfig
from jaxdm.errors import UserError
from jaxdm.lasso import design, outcomes
from jaxdm.lasso import solver as solver_lib
from jaxdm.rounding import share_of
from jaxdm.typing import Array


def lambdas(top_t: np.ndarray, config: FitConfig) -> np.ndarray:
  """Geometric from each target's lambda_max down, as float64[l, t]."""
  decay = np.geomspace(1.0, config.lambda_min_ratio, config.num_lambdas)
  return decay[:, None] * top_t


class Fold(NamedTuple):
  """Rows to fit on and rows to check on, and their weights; None: all are 1."""

  fit: np.ndarray
  check: np.ndarray
  fit_weights: np.ndarray | None = None
  check_weights: np.ndarray | None = None

  @property
  def check_weight(self) -> float:
    """What the rows to check on count together."""
    return len(self.check) if self.check_weights is None else self.check_weights.sum()


def folds(m: int, config: FitConfig, weights_m: np.ndarray | None = None) -> list[Fold]:
  """The split, or one a fold.

  Raises:
    UserError: if there are too few models.
  """
  order = prng.generator_for(config.seed, "validation").permutation(m)
  if config.folds == 1:
    parts = [order[: round(share_of(config.validation_share, m))]]
  else:
    parts = np.array_split(order, config.folds)
  if min(len(part) for part in parts) < 2 or m - max(len(part) for part in parts) < 2:
    how = f"folds={config.folds}"
    if config.folds == 1:
      how = f"validation_share={config.validation_share}"
    raise UserError(
      None,
      f"{m} models are too few: {how} holds {len(parts[0])} of them out for validation, "
      "and there must be at least 2 of these, and 2 others",
    )
  pairs = [(np.setdiff1d(order, part), np.sort(part)) for part in parts]
  return [
    Fold(*pair, *(matrices.part_of(weights_m, rows) for rows in pair)) for pair in pairs
  ]


def errors(
  solver: solver_lib.Solver,
  tile: outcomes.Tile,
  grid_lt: np.ndarray,
  validate: Callable[[Array], np.ndarray],
  config: FitConfig,
) -> np.ndarray:
  """Held-out squared error of every lambda, as float64[l, t]; infinite past the end.

  A target's path ends once `patience` lambdas in a row have not improved on its best.
  """
  errors_lt = np.full(grid_lt.shape, np.inf)
  best_t, since_t = np.full(tile.size, np.inf), np.zeros(tile.size, int)
  state, penalty_t = None, grid_lt[0]
  for lam_t, errors_t in zip(grid_lt, errors_lt, strict=True):
    active_t = since_t < config.patience
    if not active_t.any():
      break
    # Where a path has ended the last penalty stays, and takes no steps.
    penalty_t = np.where(active_t, lam_t, penalty_t)
    state = solver.solve(
      tile, penalty_t, state, tol=config.path_tol, limit=config.max_steps
    )
    error_t = validate(state.w_tn)
    errors_t[active_t] = error_t[active_t]
    better = active_t & (error_t < best_t)
    best_t = np.where(better, error_t, best_t)
    since_t = np.where(better, 0, since_t + 1)
  return errors_lt


def validation_errors(
  masks_mn: matrices.Matrix,
  fold: Fold,
  outcomes_mt: np.ndarray,
  solver: solver_lib.Solver,
  tile: outcomes.Tile,
) -> Callable[[Array], np.ndarray]:
  """Mean squared error on the rows to check, for outcomes of variance 1."""
  fill, lanes = len(tile.scale_t) - tile.size, solver.plan.lanes
  check_mt = np.pad(outcomes_mt[fold.check].astype(np.float64), [(0, 0), (0, fill)])
  unit_tm = ((check_mt - tile.mean_t) / tile.scale_t).T.astype(np.float32)
  mean_n = solver.mean_n.astype(np.float32)

  def errors(w_tn: Array) -> np.ndarray:
    total = np.zeros(len(unit_tm))
    for part, block in matrices.blocks(masks_mn, fold.check):
      weights_m = matrices.part_of(fold.check_weights, part)
      shared = devices.replicate((block, mean_n, weights_m), lanes)
      unit = devices.shard_rows(np.ascontiguousarray(unit_tm[:, part]), lanes)
      error_t = _squared_errors(lanes)(shared, (w_tn, unit))
      total += np.asarray(error_t, np.float64)
    error_t = total / fold.check_weight * tile.scale_t**2
    return np.asarray(error_t)[: tile.size]

  return errors


@functools.cache
def _squared_errors(lanes: int) -> Callable[[Any, Any], Array]:
  """Summed over the rows of a block, as float[t], on every device that is used."""

  def of_lane(shared: Any, rows: Any) -> Array:
    (block, mean_n, weights_m), (w_tn, unit_tm) = shared, rows
    offset_t = jnp.dot(w_tn, mean_n, precision=design.EXACT)
    x = block.astype(jnp.float32)
    fit_tm = jnp.dot(w_tn, x.T, precision=design.EXACT) - offset_t[:, None]
    squares_tm = (unit_tm - fit_tm) ** 2
    return jnp.sum(squares_tm if weights_m is None else squares_tm * weights_m, axis=1)

  return devices.shard_map(of_lane, lanes)
