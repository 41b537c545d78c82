"""Datamodels: one linear model a target, from training set to margin."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import identity, matrices, numerics, tiling
from jaxdm import progress as progress_lib
from jaxdm.datamodels import inputs, path
from jaxdm.datamodels.candidates import Candidate, FitData, TileFunction, of_prior
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit_plan import FitPlan, Parts, agree
from jaxdm.datamodels.model import Datamodels
from jaxdm.datamodels.priors import Prior
from jaxdm.errors import check_kind, first_few
from jaxdm.lasso import design, solver_plan
from jaxdm.lasso.result import Status
from jaxdm.lasso.solver import Solver
from jaxdm.margins import Margins
from jaxdm.storage import cache as cache_lib


@numerics.pinned()
def fit_datamodels(
  masks_mn: Any,
  margins_mt: Any,
  *,
  sample_weight: Any = None,
  config: FitConfig = FitConfig(),
  candidates: Mapping[str, Prior] | None = None,
  form: design.Form | None = None,
  tile: int | None = None,
  folder: str | epath.PathLike | None = None,
  share: tuple[int, int] = (0, 1),
  report: Callable[[str], Any] = lambda line: None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> Datamodels:
  """Fits one linear datamodel per target, sparse unless its prior has a covariance.

  For each candidate prior a path of lambdas is fitted to part of the models; each
  target keeps the lambda, and all targets together the candidate, with the smallest
  squared error on the rest; the fit is then repeated on all. Under a prior with
  covariance scores, all targets share one lambda, and the weights are not sparse.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> masks = jaxdm.random_subsets(num_models=300, num_train=20, alpha=0.5, seed=0)
  >>> weights = np.zeros((2, 20))
  >>> weights[0, 3], weights[1, 7] = 1.0, -2.0
  >>> margins = masks @ weights.T + 0.1 * rng.normal(size=(300, 2))
  >>> models = jaxdm.fit_datamodels(masks, margins)
  >>> np.abs(models.weights_tn).argmax(axis=1)
  array([3, 7])

  Arrays are NumPy arrays of any real dtype, or what NumPy makes such an array of: lists,
  DataFrames and Series.

  Args:
    masks_mn: bool[m, n], or numbers 0 and 1, which examples each model was trained on. A
      memory map of bool and `training_sets.PackedMasks` are read a block of rows at a
      time; a SciPy sparse array and what is not bool is packed first.
    margins_mt: real[m, t], correct-class margins in logits; finite, but for targets that
      at most half of the models have a margin of, which get no datamodel. A vector [m] is
      one target, t = 1: what is returned always has an axis of targets.
    sample_weight: real[m] >= 0, what each model's squared error counts, relative to the
      others: in the fits (see `fit_lasso`), in the choice of lambda and prior, and
      in the scales of a prior's offset. A model of weight 0 is left out, whatever its
      margins. A number is the same for all models, and so is None.
    config: of the path and the choice.
    candidates: priors by name. None: no prior, the published method.
    form: of the design, to force one (see `solver_plan.choose`).
    tile: targets at a time, to force a number.
    folder: for finished tiles; an interrupted fit continues from them. The folder also
      holds the plan of the first process (form, tile, order), which all other processes
      and all later starts follow, whatever memory and devices they have.
    share: (i, N): this is process i of N that fit together. Each fits some tiles of
      targets, reads the others from the folder, and returns all datamodels.
    report: called with a line of text on what was chosen.
    progress: called with (tiles done, tiles in all).

  Returns:
    Datamodels.

  Raises:
    ValueError: on shapes that do not match, masks that are not 0/1, non-finite
      margins, bad weights or priors, too few models to hold any out, a folder of another
      fit, a share that is not (i, N) or has no folder, or too little memory.
  """
  check_kind("config", config, FitConfig)
  inputs.check_share(share, folder)
  candidates = inputs.check_candidates(candidates)
  masks_mn, margins_mt, weights_m, lacks_margins_t = inputs.check_models(
    masks_mn, margins_mt, sample_weight
  )
  (m, n), t = masks_mn.shape, margins_mt.shape[1]
  names = tuple(candidates)
  splits = path.folds(m, config, weights_m)
  largest_fold = max(len(fold.check) for fold in splits)
  candidates = inputs.check_covariances(candidates, n, largest_fold)

  def make_plan() -> FitPlan:
    plan = solver_plan.choose(
      m, n, t, is_bool=True, form=form, tile=tile, processes=share[1]
    )
    return FitPlan(plan, names)

  plan, order = agree(folder, make_plan, index=share[0], form=form, tile=tile)
  if set(order) == set(names):  # Else the cache finds that the folder is of another fit.
    candidates = {name: candidates[name] for name in order}
  solver_plan.check_room(plan, m, n)
  report(f"lasso: {plan}, {solver_plan.peak_bytes(plan, m, n) / 1e9:.2f} GB")
  # Without a folder the digests, which read all data, are not needed.
  depends_on = (masks_mn, margins_mt, weights_m, config, candidates, plan)
  cache = cache_lib.Cache(folder, {} if folder is None else _settings(*depends_on))
  tiles = list(tiling.tiles(t, plan.tile))
  counts = [len(candidates) * len(tiles)] * len(splits) + [len(tiles)]
  parts = Parts(cache, share, counts, progress)
  solver = Solver(masks_mn, np.arange(m), plan, weights_m)
  data = FitData(masks_mn, margins_mt, weights_m, lacks_margins_t, tiles, solver)
  fits = {name: of_prior(data, prior, config) for name, prior in candidates.items()}

  best, lambdas_t = _choose(parts, data, fits, splits, config, report)
  arrays = _compute(parts, "fit", fits[best].fit(lambdas_t), tiles)
  if candidates[best].covariance_scores is None:  # Else these get one by their scores.
    _report_constant(report, solver.constant_columns)
  _report_lacking(report, np.flatnonzero(lacks_margins_t))
  return _datamodels(arrays, lambdas_t, lacks_margins_t, names.index(best))


def _datamodels(
  arrays: Mapping[str, np.ndarray],
  lambdas_t: np.ndarray,
  lacks_margins_t: np.ndarray,
  choice: int,
) -> Datamodels:
  """Fits of all targets as datamodels; those without margins say nothing."""
  arrays["weights"][lacks_margins_t] = 0
  arrays["status"][lacks_margins_t] = Status.NONFINITE
  for numbers_t in (arrays["intercepts"], arrays["gap"], lambdas_t):
    numbers_t[lacks_margins_t] = np.nan
  return Datamodels(
    weights_tn=arrays["weights"].astype(np.float32),
    intercepts_t=arrays["intercepts"].astype(np.float32),
    lambdas_t=lambdas_t.astype(np.float32),
    gap_t=arrays["gap"].astype(np.float32),
    status_t=arrays["status"].astype(np.int8),
    choice_t=np.full(len(lambdas_t), choice, np.int32),
  )


def _report_constant(report: Callable[[str], Any], columns: np.ndarray) -> None:
  """Reports examples of which lassos say nothing."""
  if len(columns):
    report(
      f"{len(columns)} examples are in all training sets or in none, and "
      f"get no weight of their own: {first_few(columns)}"
    )


def _report_lacking(report: Callable[[str], Any], targets: np.ndarray) -> None:
  """Reports targets without a datamodel."""
  if len(targets):
    report(
      f"{len(targets)} targets get no datamodel, since at most half of the models have "
      f"margins of them: {first_few(targets)}"
    )


def _settings(
  masks_mn: matrices.Matrix,
  margins_mt: Margins,
  weights_m: np.ndarray | None,
  config: FitConfig,
  candidates: Mapping[str, Prior],
  plan: solver_plan.Plan,
) -> dict[str, Any]:
  """What a fit's parts depend on, as JSON values."""
  shape = margins_mt.shape[1], masks_mn.shape[1]
  return {
    **dataclasses.asdict(config),
    "masks": identity.digest(masks_mn),
    "margins": identity.digest(margins_mt),
    "sample_weight": identity.digest(weights_m),
    "candidates": {name: prior.digest(shape) for name, prior in candidates.items()},
    "computation": identity.computation(),
    "plan": list(plan),
  }


def _choose(
  parts: Parts,
  data: FitData,
  candidates: Mapping[str, Candidate],
  splits: Sequence[path.Fold],
  config: FitConfig,
  report: Callable[[str], Any],
) -> tuple[str, np.ndarray]:
  """Judges every candidate on the models that each fold leaves out.

  Returns:
    The name of the best, and its penalties, float64[t].
  """
  grids, errors = _judge(parts, data, candidates, splits, config)
  rows = np.concatenate([fold.check for fold in splits])
  weights = matrices.part_of(data.weights_m, rows)
  has_margins = [(tile, ~data.lacks_margins_t[tile]) for tile in data.tiles]
  null_error = sum(
    _variance(data.margins_mt[rows, tile][:, has], weights).sum()
    for tile, has in has_margins
  )
  error_of, lambdas = {}, {}
  for name, candidate in candidates.items():
    error_of[name] = cross_validation_error(candidate.choose, errors[name])
    best_1t = candidate.choose(errors[name].sum(axis=0))[None]
    [lambdas[name]] = np.take_along_axis(grids[name], best_1t, 0)
    r2 = 1 - error_of[name] / null_error if null_error > 0 else np.nan
    report(f"prior {name}: validation R2 {r2:.4f}")
  # One choice for all targets: a choice for each target would add more noise than it
  # gains, since few models validate.
  best = min(error_of, key=lambda name: error_of[name])
  return best, lambdas[best]


def cross_validation_error(
  choose: Callable[[np.ndarray], np.ndarray], errors_flt: np.ndarray
) -> float:
  """Squared error on each fold with the penalties that the other folds choose.

  A single fold is judged with its own penalties, which favours candidates that have more
  to choose.

  Args:
    choose: from errors float64[lambdas, t] to the index of each target's penalty.
    errors_flt: float64[folds, lambdas, t]; infinite from where a path has ended.

  Returns:
    The sum over folds and targets.
  """
  if len(errors_flt) == 1:
    [errors_lt] = errors_flt
    return float(np.take_along_axis(errors_lt, choose(errors_lt)[None], 0).sum())
  total = 0.0
  for i, errors_lt in enumerate(errors_flt):
    best_1t = choose(np.delete(errors_flt, i, axis=0).sum(axis=0))[None]
    # A path ends where its errors rise; its last error stands for those beyond.
    ends_1t = np.isfinite(errors_lt).sum(axis=0)[None] - 1
    total += np.take_along_axis(errors_lt, np.minimum(best_1t, ends_1t), 0).sum()
  return float(total)


def _judge(
  parts: Parts,
  data: FitData,
  candidates: Mapping[str, Candidate],
  splits: Sequence[path.Fold],
  config: FitConfig,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """By candidate, penalties float64[lambdas, t], and errors float64[folds, lambdas, t].

  The errors are squared, and add up over the folds to the mean over all models checked.
  """
  shape = config.num_lambdas, len(data.lacks_margins_t)
  grids = {name: np.zeros(shape) for name in candidates}
  errors = {name: np.zeros((len(splits), *shape)) for name in candidates}
  total_weight = sum(fold.check_weight for fold in splits)
  for i, fold in enumerate(splits):
    solver = Solver(data.masks_mn, fold.fit, data.solver.plan, fold.fit_weights)
    judges = {f"path-{i}-{k}": v.judge(fold, solver) for k, v in candidates.items()}
    _make(parts, judges, data.tiles)
  for (i, fold), name in itertools.product(enumerate(splits), candidates):
    for tile in data.tiles:
      arrays = parts[_key(f"path-{i}-{name}", tile)]
      errors[name][i, :, tile] = arrays["errors"] * (fold.check_weight / total_weight)
      grids[name][:, tile] = arrays["grid"]
  return grids, errors


def _compute(
  parts: Parts, name: str, of_tile: TileFunction, tiles: Sequence[slice]
) -> dict[str, np.ndarray]:
  """The arrays of a computation, of all tiles one after the other."""
  _make(parts, {name: of_tile}, tiles)
  arrays = [parts[_key(name, tile)] for tile in tiles]
  return {field: np.concatenate([one[field] for one in arrays]) for field in arrays[0]}


def _make(
  parts: Parts, tasks: Mapping[str, TileFunction], tiles: Sequence[slice]
) -> None:
  """Computes this process's share of the tiles of some computations."""
  pairs = itertools.product(tasks.items(), tiles)
  parts.make(
    {_key(name, tile): functools.partial(one, tile) for (name, one), tile in pairs}
  )


def _key(name: str, tile: slice) -> str:
  """Names a tile of a computation."""
  return f"{name}-{tile.start}-{tile.stop}"


def _variance(values_mt: np.ndarray, weights_m: np.ndarray | None) -> np.ndarray:
  """Of each column, float64[t]."""
  values_mt = values_mt.astype(np.float64)
  values_mt -= np.average(values_mt, axis=0, weights=weights_m)
  return np.average(values_mt**2, axis=0, weights=weights_m)
