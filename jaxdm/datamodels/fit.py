"""Datamodels: one sparse linear model a target, from training set to margin."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import numerics
from jaxdm import progress as progress_lib
from jaxdm.datamodels import inputs, path, posterior
from jaxdm.datamodels.model import Datamodels
from jaxdm.datamodels.outcomes import Outcomes
from jaxdm.datamodels.path import FitConfig
from jaxdm.datamodels.plan import FitPlan, Parts, agree
from jaxdm.datamodels.priors import Prior
from jaxdm.lasso import design, matrices, tiling
from jaxdm.lasso import plan as plan_lib
from jaxdm.lasso import solver as solver_lib
from jaxdm.lasso.result import Status
from jaxdm.margins import Margins
from jaxdm.storage import cache as cache_lib
from jaxdm.storage import identity, polling


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
  """Fits one sparse linear datamodel per target.

  For each candidate prior a path of lambdas is fitted to part of the models; each
  target keeps the lambda, and all targets together the candidate, with the smallest
  squared error on the rest; the fit is then repeated on all. Under a prior with a
  covariance, all targets share one lambda, and no weight is 0.

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
    form: of the design, to force one (see `plan.choose`).
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
  polling.check_share(share)
  if share[1] > 1 and folder is None:
    raise ValueError(
      f"share={share} needs a folder: the {share[1]} processes exchange tiles there"
    )
  candidates = inputs.check_candidates(candidates)
  masks_mn, margins_mt, weights_m, lost_t = inputs.check_models(
    masks_mn, margins_mt, sample_weight
  )
  (m, n), t = masks_mn.shape, margins_mt.shape[1]
  inputs.check_covariances(candidates, n)
  if any(prior.covariance is not None for prior in candidates.values()):
    posterior.check_room(n)
  names = tuple(candidates)
  splits = path.folds(m, config, weights_m)

  def planned() -> FitPlan:
    made = plan_lib.choose(
      m, n, t, is_bool=True, form=form, tile=tile, processes=share[1]
    )
    return FitPlan(made, names)

  plan, order = agree(folder, planned, index=share[0], form=form, tile=tile)
  if set(order) == set(names):  # Else `kept` finds that the folder is of another fit.
    candidates = {name: candidates[name] for name in order}
  plan_lib.check_room(plan, m, n)
  report(f"lasso: {plan}, {plan_lib.peak_bytes(plan, m, n) / 1e9:.2f} GB")
  # Digests read everything: not for nothing.
  data_of_fit = masks_mn, margins_mt, weights_m
  depends_on = () if folder is None else (*data_of_fit, config, candidates, plan)
  kept = cache_lib.Cache(folder, _settings(*depends_on) if depends_on else {})
  parts = list(tiling.tiles(t, plan.tile))
  tasks = [len(candidates) * len(parts)] * len(splits) + [len(parts)]
  shared = Parts(kept, share, tasks, progress)
  data = {
    name: Outcomes(*data_of_fit, lost_t, prior, parts)
    for name, prior in candidates.items()
  }
  full = solver_lib.Solver(masks_mn, np.arange(m), plan, weights_m)

  grids, errors = _paths(shared, masks_mn, data, parts, full, splits, config)
  checked = np.concatenate([fold.check for fold in splits])
  counts = matrices.part_of(weights_m, checked)
  null = sum(
    _variance(margins_mt[checked, part][:, ~lost_t[part]], counts).sum() for part in parts
  )
  left = {name: found.min(axis=0).sum() for name, found in errors.items()}
  for name, sum_of_squares in left.items():
    report(f"prior {name}: validation R2 {1 - sum_of_squares / null:.4f}")
  # One choice for all targets: a choice per target costs more in noise than it
  # gains, the held-out rows being few.
  name = min(left, key=lambda name: left[name])
  lambdas_t = np.take_along_axis(grids[name], errors[name].argmin(axis=0)[None], 0)[0]
  covariance = candidates[name].covariance
  if covariance is None:
    whole = _fitted(shared, data[name], parts, full, lambdas_t, config)
  else:
    whole = _posterior_means(
      data[name],
      parts,
      posterior.Posterior(masks_mn, np.arange(m), covariance, weights_m),
      lambdas_t,
    )
  if len(full.constant_columns):
    report(
      f"{len(full.constant_columns)} examples are in all training sets or in none, and "
      f"get no weight of their own: {inputs.some(full.constant_columns)}"
    )
  if lost_t.any():
    lost = np.flatnonzero(lost_t)
    report(
      f"{len(lost)} targets get no datamodel, since at most half of the models have "
      f"margins of them: {inputs.some(lost)}"
    )
    whole["weights"][lost] = 0
    whole["status"][lost] = Status.NONFINITE
    for numbers_t in (whole["intercepts"], whole["gap"], lambdas_t):
      numbers_t[lost] = np.nan
  return Datamodels(
    weights_tn=whole["weights"].astype(np.float32),
    intercepts_t=whole["intercepts"].astype(np.float32),
    lambdas_t=lambdas_t.astype(np.float32),
    gap_t=whole["gap"].astype(np.float32),
    status_t=whole["status"].astype(np.int8),
    choice_t=np.full(t, names.index(name), np.int32),
  )


def _settings(
  masks_mn: design.Matrix,
  margins_mt: Margins,
  weights_m: np.ndarray | None,
  config: FitConfig,
  candidates: Mapping[str, Prior],
  plan: plan_lib.Plan,
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


def _paths(
  shared: Parts,
  masks_mn: design.Matrix,
  data: Mapping[str, Outcomes],
  parts: Sequence[slice],
  full: solver_lib.Solver,
  splits: Sequence[path.Fold],
  config: FitConfig,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Fits every candidate's path to part of the models, and judges it on the rest.

  Args:
    shared: makes them, a tile at a time.
    masks_mn: bool.
    data: by candidate.
    parts: the tiles of targets.
    full: the solver of all rows, which tells where paths begin.
    splits: of the rows.
    config: of the path.

  Returns:
    By candidate, penalties and mean squared errors, each float64[lambdas, t].
  """

  def judged(
    solver: solver_lib.Solver,
    posteriors: Mapping[str, posterior.Posterior],
    fold: path.Fold,
    name: str,
    part: slice,
  ) -> dict[str, np.ndarray]:
    one = data[name]
    if name in posteriors:
      grid_l = posterior.penalties(config.num_lambdas)
      outcomes_mt = one.outcomes(part)
      errors = posteriors[name].errors(
        outcomes_mt[fold.fit],
        fold.check,
        fold.check_weights,
        outcomes_mt[fold.check],
        grid_l,
      )
      return {"grid": np.tile(grid_l[:, None], errors.shape[1]), "errors": errors}
    outcomes_mt, factors_tn = one.outcomes(part), one.factors(part)
    top_t = full.tile(outcomes_mt, factors_tn).lambda_max()[: part.stop - part.start]
    grid_lt = path.lambdas(top_t, config)
    targets = solver.tile(outcomes_mt[fold.fit], factors_tn)
    held_out = path.held_out_errors(masks_mn, fold, outcomes_mt, solver, targets)
    errors = path.errors(solver, targets, grid_lt, held_out, config)
    return {"grid": grid_lt, "errors": errors}

  def key(i: int, name: str, part: slice) -> str:
    return f"path-{i}-{name}-{part.start}-{part.stop}"

  pairs = list(itertools.product(data, parts))
  for i, fold in enumerate(splits):
    solver = solver_lib.Solver(masks_mn, fold.fit, full.plan, fold.fit_weights)
    posteriors = {
      name: posterior.Posterior(masks_mn, fold.fit, one.covariance, fold.fit_weights)
      for name, one in data.items()
      if one.covariance is not None
    }
    shared.make(
      {
        key(i, name, part): functools.partial(
          judged, solver, posteriors, fold, name, part
        )
        for name, part in pairs
      }
    )
  shape = config.num_lambdas, parts[-1].stop
  grids, errors = ({name: np.zeros(shape) for name in data} for _ in range(2))
  checked = sum(fold.check_weight for fold in splits)
  for (i, fold), (name, part) in itertools.product(enumerate(splits), pairs):
    found = shared[key(i, name, part)]
    errors[name][:, part] += found["errors"] * (fold.check_weight / checked)
    grids[name][:, part] = found["grid"]
  for name, one in data.items():
    if one.covariance is not None:  # One penalty for all targets, as the prior is one.
      best = errors[name].sum(axis=1).argmin()
      grids[name], errors[name] = grids[name][[best]], errors[name][[best]]
  return grids, errors


def _fitted(
  shared: Parts,
  data: Outcomes,
  parts: Sequence[slice],
  full: solver_lib.Solver,
  lambdas_t: np.ndarray,
  config: FitConfig,
) -> dict[str, np.ndarray]:
  """Fits all targets to all models, and joins the tiles."""

  def fit(part: slice) -> dict[str, np.ndarray]:
    targets = full.tile(data.outcomes(part), data.factors(part))
    made = full.finish(
      targets,
      lambdas_t[part],
      tol=config.tol,
      limit=config.max_steps,
      offset_tn=data.offset(part),
    )
    return {k: v for k, v in made._asdict().items() if k != "constant_columns"}

  keys = {f"fit-{part.start}-{part.stop}": part for part in parts}
  shared.make({key: functools.partial(fit, part) for key, part in keys.items()})
  fits = [shared[key] for key in keys]
  return {field: np.concatenate([made[field] for made in fits]) for field in fits[0]}


def _posterior_means(
  data: Outcomes,
  parts: Sequence[slice],
  model: posterior.Posterior,
  lambdas_t: np.ndarray,
) -> dict[str, np.ndarray]:
  """Fits all targets to all models under a prior with a covariance."""
  found = []
  for part in parts:
    outcomes_mt = data.outcomes(part)
    [deviation_un] = model.weights(outcomes_mt, lambdas_t[:1])
    found.append(
      {
        "weights": deviation_un + data.offset(part),
        "intercepts": model.intercepts(outcomes_mt, deviation_un),
      }
    )
  made = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
  t = len(lambdas_t)
  return made | {"gap": np.zeros(t), "status": np.full(t, Status.CONVERGED)}


def _variance(values_mt: np.ndarray, weights_m: np.ndarray | None) -> np.ndarray:
  """Of each column, float64[t]."""
  values_mt = values_mt.astype(np.float64)
  values_mt -= np.average(values_mt, axis=0, weights=weights_m)
  return np.average(values_mt**2, axis=0, weights=weights_m)
