"""Datamodels: lambda path, selection on held-out models, and how good they are."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdm import Array, design, lasso, prng, quality
from jaxdm import kept as kept_lib
from jaxdm import progress as progress_lib
from jaxdm import solver as solver_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """How datamodels are fitted.

  Attributes:
    num_lambdas: points of each target's path.
    lambda_min_ratio: the path's end, as a share of the target's lambda_max.
    validation_share: of the models, held out to choose lambda (and the penalty
      factors); the final fit uses them too. Unused with folds.
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
        raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
    for name in ("lambda_min_ratio", "validation_share"):
      if not 0 < getattr(self, name) < 1:
        raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")
    for name in ("tol", "path_tol"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Datamodels:
  """T fitted datamodels, in the 0/1 basis: margin = weights . mask + intercept.

  Attributes:
    weights_tn: float32, what each training example's presence adds, in logits.
    intercepts_t: float32, in logits.
    lambdas_t: float32, the penalty chosen for each target.
    gap_t: float32, relative duality gap reached.
    status_t: int8 of `solver.Status`.
    choice_t: int32, which candidate of penalty factors was chosen.
  """

  weights_tn: np.ndarray
  intercepts_t: np.ndarray
  lambdas_t: np.ndarray
  gap_t: np.ndarray
  status_t: np.ndarray
  choice_t: np.ndarray

  def predict(self, masks_mn: design.Matrix) -> np.ndarray:
    """Expected margins, as float32[m, t], of models trained on these subsets."""
    rows = np.arange(masks_mn.shape[0])
    parts = [
      block.astype(np.float32) @ self.weights_tn.T + self.intercepts_t
      for _, block in design.blocks(masks_mn, rows)
    ]
    return np.concatenate(parts)

  def evaluate(
    self, masks_mn: design.Matrix, margins_mt: np.ndarray, *, seed: int = 0
  ) -> quality.Quality:
    """Scores the predictions on held-out models.

    Args:
      masks_mn: bool, subsets of models that the fit has not seen.
      margins_mt: float, their margins.
      seed: of the bootstrap.

    Returns:
      Quality.
    """
    rows = np.arange(masks_mn.shape[0])
    masks = masks_mn[rows]
    return quality.evaluate(self.predict(masks_mn), margins_mt, masks, seed=seed)

  def top(self, target: int, k: int) -> np.ndarray:
    """The k training examples that support a target most, strongest first."""
    return np.argsort(-self.weights_tn[target], kind="stable")[:k]

  def save(self, path: str | epath.PathLike, *, overwrite: bool = False) -> None:
    """Writes an Orbax checkpoint, whole or not at all.

    Raises:
      ValueError: if there is one already and `overwrite` is not set.
    """
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(
        epath.Path(path).absolute(), dataclasses.asdict(self), force=overwrite
      )

  @classmethod
  def load(cls, path: str | epath.PathLike) -> "Datamodels":
    """Reads what `save` wrote, on any number of devices."""
    path = epath.Path(path).absolute()
    if not path.exists():
      raise FileNotFoundError(f"no fitted datamodels at {path}")
    with ocp.StandardCheckpointer() as checkpointer:
      # Restored as host arrays, so the devices of the writer do not matter.
      meta = checkpointer.metadata(path).item_metadata
      template = {
        name: np.empty(leaf.shape, leaf.dtype) for name, leaf in dict(meta).items()
      }
      tree = checkpointer.restore(path, template)
    return cls(**{name: np.asarray(value) for name, value in tree.items()})


def lambda_path(top_t: np.ndarray, config: FitConfig) -> np.ndarray:
  """Geometric from each target's lambda_max down, as float64[l, t]."""
  decay = np.geomspace(1.0, config.lambda_min_ratio, config.num_lambdas)
  return decay[:, None] * top_t


def _folds(m: int, config: FitConfig) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rows to fit on and rows to check on, once or fold by fold."""
  order = prng.generator_for(config.seed, "validation").permutation(m)
  if config.folds == 1:
    parts = [order[: round(config.validation_share * m)]]
  else:
    parts = np.array_split(order, config.folds)
  if min(len(part) for part in parts) < 2 or m - max(len(part) for part in parts) < 2:
    raise ValueError(f"{m} models are too few to hold {len(parts[0])} out for validation")
  return [(np.setdiff1d(order, part), np.sort(part)) for part in parts]


def _path_errors(
  solver: solver_lib.Solver,
  tile: solver_lib.Tile,
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


def fit_datamodels(
  masks_mn: design.Matrix,
  margins_mt: np.ndarray,
  *,
  config: FitConfig = FitConfig(),
  penalty_factors: Mapping[str, lasso.Factors] | None = None,
  form: design.Form | None = None,
  tile: int | None = None,
  folder: str | epath.PathLike | None = None,
  report: Callable[[str], Any] = lambda line: None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> Datamodels:
  """Fits one sparse linear datamodel per target.

  For each candidate of penalty factors a path of lambdas is fitted to part of the
  models; each target keeps the lambda, and all targets together the candidate,
  with the smallest squared error on the rest; the fit is then repeated on all.

  Args:
    masks_mn: bool, which examples each model was trained on. A memory map and
      `training_sets.PackedMasks` are read a block of rows at a time.
    margins_mt: float, correct-class margins in logits; finite.
    config: of the path and the choice.
    penalty_factors: candidates by name, each float[t, n] >= 0 or a function of a slice
      of targets. None: all ones, the published method.
    form: of the design, to force one (see `design.plan`).
    tile: targets at a time, to force a number.
    folder: where finished tiles are kept; a fit that was stopped continues there.
    report: called with a line of text on what was chosen.
    progress: told tiles done and in all.

  Returns:
    Datamodels.

  Raises:
    ValueError: on shapes that do not match, masks that are not 0/1, non-finite
      margins, too few models to hold any out, or a folder of another fit.
  """
  masks_mn = _checked(masks_mn, margins_mt)
  (m, n), t = masks_mn.shape, margins_mt.shape[1]
  candidates = dict(penalty_factors or {"ones": None})
  folds = _folds(m, config)
  plan = design.plan(m, n, t, is_bool=True, form=form, tile=tile)
  report(f"lasso: {plan}")
  kept = kept_lib.Kept(
    folder,
    {
      **dataclasses.asdict(config),
      "data": digest(masks_mn, margins_mt),
      "penalty_factors": {
        name: _digest_of_factors(factors) for name, factors in candidates.items()
      },
    },
  )
  parts = list(lasso.tiles(t, plan.tile))
  total = len(parts) * (len(folds) * len(candidates) + 1)
  count = iter(range(1, total + 1))
  full = solver_lib.Solver(masks_mn, np.arange(m), plan)

  def ready(
    solver: solver_lib.Solver, rows: Any, name: str, part: slice
  ) -> solver_lib.Tile:
    factors_tn = lasso.factors_of(candidates[name], part)
    lasso.check_factors(factors_tn, (part.stop - part.start, n))
    return solver.tile(margins_mt[rows, part], factors_tn)

  def validated(
    solver: solver_lib.Solver,
    fit_rows: np.ndarray,
    rows: np.ndarray,
    name: str,
    part: slice,
  ) -> dict[str, np.ndarray]:
    top_t = ready(full, slice(None), name, part).lambda_max()[: part.stop - part.start]
    grid_lt = lambda_path(top_t, config)
    targets = ready(solver, fit_rows, name, part)
    held_out = _held_out(masks_mn, rows, margins_mt[:, part], solver, targets)
    errors_lt = _path_errors(solver, targets, grid_lt, held_out, config)
    return {"grid": grid_lt, "errors": errors_lt}

  errors = {name: np.zeros((config.num_lambdas, t)) for name in candidates}
  grids = {name: np.zeros((config.num_lambdas, t)) for name in candidates}
  for i, (fit_rows, check_rows) in enumerate(folds):
    solver = solver_lib.Solver(masks_mn, fit_rows, plan)
    for name in candidates:
      for part in parts:
        make = functools.partial(validated, solver, fit_rows, check_rows, name, part)
        found = kept(f"path-{i}-{name}-{part.start}-{part.stop}", make)
        errors[name][:, part] += found["errors"] * (len(check_rows) / m)
        grids[name][:, part] = found["grid"]
        progress(next(count), total)

  held_out_rows = np.concatenate([check for _, check in folds])
  null = margins_mt[held_out_rows].astype(np.float64).var(axis=0).sum()
  null *= len(held_out_rows) / m
  for name in candidates:
    explained = 1 - errors[name].min(axis=0).sum() / null
    report(f"penalty factors {name}: validation R2 {explained:.4f}")
  # One choice for all targets: a choice per target costs more in noise than it
  # gains, the held-out rows being few.
  means = [errors[name].min(axis=0).mean() for name in candidates]
  choice = int(np.argmin(means))
  name = list(candidates)[choice]
  lambdas_t = np.take_along_axis(grids[name], errors[name].argmin(axis=0)[None], 0)[0]

  def fit(part: slice) -> dict[str, np.ndarray]:
    targets = ready(full, slice(None), name, part)
    made = full.finish(targets, lambdas_t[part], tol=config.tol, limit=config.max_steps)
    return {k: v for k, v in made._asdict().items() if k != "constant_columns"}

  fits = []
  for part in parts:
    fits.append(kept(f"fit-{part.start}-{part.stop}", functools.partial(fit, part)))
    progress(next(count), total)
  whole = {field: np.concatenate([made[field] for made in fits]) for field in fits[0]}
  if len(full.constant_columns):
    report(
      f"{len(full.constant_columns)} examples are in all training sets or in none, and "
      f"get no weight: {_some(full.constant_columns)}"
    )
  return Datamodels(
    weights_tn=whole["weights"].astype(np.float32),
    intercepts_t=whole["intercepts"].astype(np.float32),
    lambdas_t=lambdas_t.astype(np.float32),
    gap_t=whole["gap"].astype(np.float32),
    status_t=whole["status"].astype(np.int8),
    choice_t=np.full(t, choice, np.int32),
  )


def _held_out(
  masks_mn: design.Matrix,
  rows_m: np.ndarray,
  margins_mt: np.ndarray,
  solver: solver_lib.Solver,
  tile: solver_lib.Tile,
) -> Callable[[Array], np.ndarray]:
  """Mean squared error on some rows of weights for outcomes of variance 1."""
  fill = len(tile.scale_t) - tile.size
  margins_mt = np.pad(margins_mt[rows_m].astype(np.float64), [(0, 0), (0, fill)])
  unit_mt = ((margins_mt - tile.mean_t) / tile.scale_t).astype(np.float32)

  def errors(w_tn: Array) -> np.ndarray:
    offset_t = w_tn @ solver.mean_n.astype(np.float32)
    total = np.zeros(len(unit_mt[0]))
    for part, block in design.blocks(masks_mn, rows_m):
      total += np.asarray(
        _squared_errors(block, w_tn, offset_t, unit_mt[part]), np.float64
      )
    found_t = total / len(rows_m) * tile.scale_t**2
    return np.asarray(found_t)[: tile.size]

  return errors


@jax.jit
def _squared_errors(block: Array, w_tn: Array, offset_t: Array, unit_mt: Array) -> Array:
  """Summed over the rows of a block, as float[t]."""
  fit_mt = block.astype(jnp.float32) @ w_tn.T - offset_t
  return jnp.sum((unit_mt - fit_mt) ** 2, axis=0)


def digest(masks_mn: design.Matrix, margins_mt: np.ndarray) -> str:
  """Tells different data apart, from at most a thousand of its rows."""
  rows = np.unique(np.linspace(0, len(margins_mt) - 1, 1000).astype(int))
  found = hashlib.sha256(repr((masks_mn.shape, margins_mt.shape)).encode())
  found.update(np.packbits(masks_mn[rows], axis=1).tobytes())
  found.update(np.ascontiguousarray(margins_mt[rows]).tobytes())
  return found.hexdigest()


def _digest_of_factors(factors: lasso.Factors) -> str:
  """Tells different penalty factors apart, by those of the first target."""
  first = lasso.factors_of(factors, slice(0, 1))
  return hashlib.sha256(b"" if first is None else first.tobytes()).hexdigest()


def _some(numbers: np.ndarray) -> str:
  """The first few of a list."""
  dots = ", ..." if len(numbers) > 10 else ""
  return ", ".join(str(number) for number in numbers[:10]) + dots


def _checked(masks_mn: design.Matrix, margins_mt: np.ndarray) -> design.Matrix:
  """The masks as bool; raises ValueError on what cannot be fitted."""
  if len(masks_mn.shape) != 2 or margins_mt.ndim != 2:
    raise ValueError(
      "masks must be [m, n] and margins [m, t], "
      f"got shapes {masks_mn.shape} and {margins_mt.shape}"
    )
  m = masks_mn.shape[0]
  if not min(*masks_mn.shape, margins_mt.shape[1]):
    raise ValueError(
      f"masks and margins must not be empty, got {masks_mn.shape}, {margins_mt.shape}"
    )
  if m != len(margins_mt):
    raise ValueError(f"masks have {m} rows, margins {len(margins_mt)}")
  if masks_mn.dtype != bool:
    masks_mn = np.asarray(masks_mn[np.arange(m)])
    wrong = np.flatnonzero(~np.isin(masks_mn, (0, 1)).all(axis=1))
    if wrong.size:
      raise ValueError(f"masks must be 0 or 1, and are not in rows {_some(wrong)}")
    masks_mn = masks_mn.astype(bool)
  bad = nonfinite_rows(margins_mt)
  if bad.size:
    raise ValueError(f"margins of {bad.size} models are not finite: rows {_some(bad)}")
  return masks_mn


def nonfinite_rows(margins_mt: np.ndarray) -> np.ndarray:
  """Models with a margin that is not finite, as int[...]."""
  found = []
  for start in range(0, len(margins_mt), 4096):
    block = margins_mt[start : start + 4096]
    found.append(start + np.flatnonzero(~np.isfinite(block).all(axis=1)))
  return np.concatenate(found)
