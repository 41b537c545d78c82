"""Datamodels: one linear model a target, from training set to margin."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import numerics
from jaxdm import progress as progress_lib
from jaxdm.datamodels import inputs, path
from jaxdm.datamodels.candidates import Candidate, FitData, TileFunction, of_prior
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit_plan import FitPlan, Parts, agree
from jaxdm.datamodels.model import Datamodels
from jaxdm.datamodels.priors import Prior
from jaxdm.lasso import design, matrices, solver_plan, tiling
from jaxdm.lasso.result import Status
from jaxdm.lasso.solver import Solver
from jaxdm.margins import Margins
from jaxdm.storage import cache as cache_lib
from jaxdm.storage import identity


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
    folder: where finished tiles are kept; a fit that was stopped continues there. It
      also holds the plan of the first process that came (form, tile, order), which every
      other process and every later start follows, whatever memory and devices it has.
    share: (i, N): this is process i of N that fit together, each some tiles of targets,
      and meet in the folder. Each returns all datamodels.
    report: called with a line of text on what was chosen.
    progress: told tiles done and in all.

  Returns:
    Datamodels.

  Raises:
    ValueError: on shapes that do not match, masks that are not 0/1, non-finite
      margins, bad weights or priors, too few models to hold any out, a folder of another
      fit, a share that is none or has no folder to meet in, or too little memory.
  """
  inputs.check_meeting(share, folder)
  candidates = inputs.check_candidates(candidates)
  masks_mn, margins_mt, weights_m, lost_t = inputs.check_models(
    masks_mn, margins_mt, sample_weight
  )
  (m, n), t = masks_mn.shape, margins_mt.shape[1]
  names = tuple(candidates)
  splits = path.folds(m, config, weights_m)
  inputs.check_covariances(candidates, n, max(len(fold.check) for fold in splits))

  def planned() -> FitPlan:
    made = solver_plan.choose(
      m, n, t, is_bool=True, form=form, tile=tile, processes=share[1]
    )
    return FitPlan(made, names)

  plan, order = agree(folder, planned, index=share[0], form=form, tile=tile)
  if set(order) == set(names):  # Else `kept` finds that the folder is of another fit.
    candidates = {name: candidates[name] for name in order}
  solver_plan.check_room(plan, m, n)
  report(f"lasso: {plan}, {solver_plan.peak_bytes(plan, m, n) / 1e9:.2f} GB")
  # Digests read everything: not for nothing.
  depends_on = (masks_mn, margins_mt, weights_m, config, candidates, plan)
  kept = cache_lib.Cache(folder, {} if folder is None else _settings(*depends_on))
  parts = list(tiling.tiles(t, plan.tile))
  tasks = [len(candidates) * len(parts)] * len(splits) + [len(parts)]
  shared = Parts(kept, share, tasks, progress)
  solver = Solver(masks_mn, np.arange(m), plan, weights_m)
  data = FitData(masks_mn, margins_mt, weights_m, lost_t, parts, solver)
  made = {name: of_prior(data, prior, config) for name, prior in candidates.items()}

  chosen, lambdas_t = _choose(shared, data, made, splits, config, report)
  whole = _joined(shared, "fit", made[chosen].fit(lambdas_t), parts)
  if candidates[chosen].covariance_scores is None:  # Else these get one by their scores.
    _report_constant(report, solver.constant_columns)
  _report_lost(report, np.flatnonzero(lost_t))
  whole["weights"][lost_t] = 0
  whole["status"][lost_t] = Status.NONFINITE
  for numbers_t in (whole["intercepts"], whole["gap"], lambdas_t):
    numbers_t[lost_t] = np.nan
  return Datamodels(
    weights_tn=whole["weights"].astype(np.float32),
    intercepts_t=whole["intercepts"].astype(np.float32),
    lambdas_t=lambdas_t.astype(np.float32),
    gap_t=whole["gap"].astype(np.float32),
    status_t=whole["status"].astype(np.int8),
    choice_t=np.full(t, names.index(chosen), np.int32),
  )


def _report_constant(report: Callable[[str], Any], columns: np.ndarray) -> None:
  """Reports examples of which lassos say nothing."""
  if len(columns):
    report(
      f"{len(columns)} examples are in all training sets or in none, and "
      f"get no weight of their own: {inputs.some(columns)}"
    )


def _report_lost(report: Callable[[str], Any], targets: np.ndarray) -> None:
  """Reports targets without a datamodel."""
  if len(targets):
    report(
      f"{len(targets)} targets get no datamodel, since at most half of the models have "
      f"margins of them: {inputs.some(targets)}"
    )


def _settings(
  masks_mn: design.Matrix,
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
  shared: Parts,
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
  grids, errors = _judge(shared, data, candidates, splits, config)
  checked = np.concatenate([fold.check for fold in splits])
  counts = matrices.part_of(data.weights_m, checked)
  known = [(part, ~data.lost_t[part]) for part in data.parts]
  null = sum(
    _variance(data.margins_mt[checked, part][:, has], counts).sum() for part, has in known
  )
  left, lambdas = {}, {}
  for name, candidate in candidates.items():
    left[name] = cross_validated(candidate.choose, errors[name])
    best_1t = candidate.choose(errors[name].sum(axis=0))[None]
    [lambdas[name]] = np.take_along_axis(grids[name], best_1t, 0)
    report(f"prior {name}: validation R2 {1 - left[name] / null:.4f}")
  # One choice for all targets: a choice per target costs more in noise than it
  # gains, the held-out rows being few.
  chosen = min(left, key=lambda name: left[name])
  return chosen, lambdas[chosen]


def cross_validated(
  choose: Callable[[np.ndarray], np.ndarray], errors_flt: np.ndarray
) -> float:
  """Squared error with penalties that the models judged have not chosen.

  Each fold is judged with the penalties that the other folds choose; a single fold with
  its own, which favours candidates that have more to choose.

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
    # A path ends where its errors rise; the last one known stands for those beyond.
    ends_1t = np.isfinite(errors_lt).sum(axis=0)[None] - 1
    total += np.take_along_axis(errors_lt, np.minimum(best_1t, ends_1t), 0).sum()
  return float(total)


def _judge(
  shared: Parts,
  data: FitData,
  candidates: Mapping[str, Candidate],
  splits: Sequence[path.Fold],
  config: FitConfig,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """By candidate, penalties float64[lambdas, t], and errors float64[folds, lambdas, t].

  The errors are squared, and add up over the folds to the mean over all models checked.
  """
  shape = config.num_lambdas, len(data.lost_t)
  grids = {name: np.zeros(shape) for name in candidates}
  errors = {name: np.zeros((len(splits), *shape)) for name in candidates}
  checked = sum(fold.check_weight for fold in splits)
  for i, fold in enumerate(splits):
    solver = Solver(data.masks_mn, fold.fit, data.solver.plan, fold.fit_weights)
    judges = {f"path-{i}-{k}": v.judge(fold, solver) for k, v in candidates.items()}
    _make(shared, judges, data.parts)
  for (i, fold), name in itertools.product(enumerate(splits), candidates):
    for part in data.parts:
      found = shared[_key(f"path-{i}-{name}", part)]
      errors[name][i, :, part] = found["errors"] * (fold.check_weight / checked)
      grids[name][:, part] = found["grid"]
  return grids, errors


def _joined(
  shared: Parts, name: str, of_tile: TileFunction, parts: Sequence[slice]
) -> dict[str, np.ndarray]:
  """All tiles of a computation, one after the other."""
  _make(shared, {name: of_tile}, parts)
  tiles = [shared[_key(name, part)] for part in parts]
  return {field: np.concatenate([tile[field] for tile in tiles]) for field in tiles[0]}


def _make(
  shared: Parts, tasks: Mapping[str, TileFunction], parts: Sequence[slice]
) -> None:
  """Computes this process's share of the tiles of some computations."""
  pairs = itertools.product(tasks.items(), parts)
  shared.make(
    {_key(name, part): functools.partial(one, part) for (name, one), part in pairs}
  )


def _key(name: str, part: slice) -> str:
  """Names a tile of a computation."""
  return f"{name}-{part.start}-{part.stop}"


def _variance(values_mt: np.ndarray, weights_m: np.ndarray | None) -> np.ndarray:
  """Of each column, float64[t]."""
  values_mt = values_mt.astype(np.float64)
  values_mt -= np.average(values_mt, axis=0, weights=weights_m)
  return np.average(values_mt**2, axis=0, weights=weights_m)
