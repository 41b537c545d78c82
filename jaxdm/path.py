"""The path of lambdas, and the choice among them on held-out models."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdm import Array, columns, devices, prng, targets
from jaxdm import solver as solver_lib
from jaxdm.errors import UserError
from jaxdm.shares import share_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """How datamodels are fitted.

  Attributes:
    num_lambdas: points of each target's path.
    lambda_min_ratio: the path's end, as a share of the target's lambda_max.
    validation_share: of the models, held out to choose lambda and the prior; the
      final fit uses them too. Unused with folds.
    folds: 1: hold out once. More: cross-validate over so many folds.
    patience: a target's path ends after so many lambdas without a smaller held-out
      error.
    tol: relative duality gap of the final fit.
    path_tol: of the fits along the path, whose only use is the choice.
    max_steps: proximal-gradient steps at most, per lambda.
    seed: of the validation split.
  """

  num_lambdas: int = 20
  lambda_min_ratio: float = 0.02
  validation_share: float = 0.2
  folds: int = 1
  patience: int = 5
  tol: float = 1e-4
  path_tol: float = 1e-3
  max_steps: int = 5_000
  seed: int = 0

  def __post_init__(self) -> None:
    for name in ("num_lambdas", "folds", "patience", "max_steps"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} must be >= 1, got {getattr(self, name)}")
    for name in ("lambda_min_ratio", "validation_share"):
      if not 0 < getattr(self, name) < 1:
        raise UserError(f"{name} must be in (0, 1), got {getattr(self, name)}")
    for name in ("tol", "path_tol"):
      if not getattr(self, name) > 0:
        raise UserError(f"{name} must be positive, got {getattr(self, name)}")


def lambdas(top_t: np.ndarray, config: FitConfig) -> np.ndarray:
  """Geometric from each target's lambda_max down, as float64[l, t]."""
  decay = np.geomspace(1.0, config.lambda_min_ratio, config.num_lambdas)
  return decay[:, None] * top_t


class Fold(NamedTuple):
  """Rows to fit on and rows to check on."""

  fit: np.ndarray
  check: np.ndarray


def folds(m: int, config: FitConfig) -> list[Fold]:
  """The split, or one a fold.

  Raises:
    ValueError: if there are too few models.
  """
  order = prng.generator_for(config.seed, "validation").permutation(m)
  if config.folds == 1:
    parts = [order[: round(share_of(config.validation_share, m))]]
  else:
    parts = np.array_split(order, config.folds)
  if min(len(part) for part in parts) < 2 or m - max(len(part) for part in parts) < 2:
    raise UserError(f"{m} models are too few to hold {len(parts[0])} out for validation")
  return [Fold(np.setdiff1d(order, part), np.sort(part)) for part in parts]


def errors(
  solver: solver_lib.Solver,
  tile: targets.Tile,
  grid_lt: np.ndarray,
  held_out: Callable[[Array], np.ndarray],
  config: FitConfig,
) -> np.ndarray:
  """Held-out squared error of every lambda, as float64[l, t]; infinite past the end.

  A target's path ends once `patience` lambdas in a row have not improved on its best.
  """
  errors_lt = np.full(grid_lt.shape, np.inf)
  best_t, since_t = np.full(tile.size, np.inf), np.zeros(tile.size, int)
  state, asked_t = None, grid_lt[0]
  for lam_t, errors_t in zip(grid_lt, errors_lt, strict=True):
    going = since_t < config.patience
    if not going.any():
      break
    # Where a path has ended the last penalty stays, and takes no steps.
    asked_t = np.where(going, lam_t, asked_t)
    state = solver.solve(
      tile, asked_t, state, tol=config.path_tol, limit=config.max_steps
    )
    found_t = held_out(state.w_tn)
    errors_t[going] = found_t[going]
    better = going & (found_t < best_t)
    best_t = np.where(better, found_t, best_t)
    since_t = np.where(better, 0, since_t + 1)
  return errors_lt


def held_out_errors(
  masks_mn: columns.Matrix,
  rows_m: np.ndarray,
  margins_mt: np.ndarray,
  solver: solver_lib.Solver,
  tile: targets.Tile,
) -> Callable[[Array], np.ndarray]:
  """Mean squared error on some rows of weights for outcomes of variance 1."""
  fill, lanes = len(tile.scale_t) - tile.size, solver.plan.lanes
  margins_mt = np.pad(margins_mt[rows_m].astype(np.float64), [(0, 0), (0, fill)])
  unit_tm = ((margins_mt - tile.mean_t) / tile.scale_t).T.astype(np.float32)
  mean_n = solver.mean_n.astype(np.float32)

  def errors(w_tn: Array) -> np.ndarray:
    total = np.zeros(len(unit_tm))
    for part, block in columns.blocks(masks_mn, rows_m):
      shared = devices.everywhere((block, mean_n), lanes)
      unit = devices.by_row(np.ascontiguousarray(unit_tm[:, part]), lanes)
      found_t = _squared_errors(lanes)(shared, (w_tn, unit))
      total += np.asarray(found_t, np.float64)
    found_t = total / len(rows_m) * tile.scale_t**2
    return np.asarray(found_t)[: tile.size]

  return errors


@functools.cache
def _squared_errors(lanes: int) -> Callable[[Any, Any], Array]:
  """Summed over the rows of a block, as float[t], on every device that is used."""

  def of_lane(shared: Any, rows: Any) -> Array:
    (block, mean_n), (w_tn, unit_tm) = shared, rows
    fit_tm = w_tn @ block.astype(jnp.float32).T - (w_tn @ mean_n)[:, None]
    return jnp.sum((unit_tm - fit_tm) ** 2, axis=1)

  return devices.spread(of_lane, lanes)
