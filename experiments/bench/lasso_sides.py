"""The solvers that the lasso's benchmark compares: each solves all paths of a case."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments.bench.planted_lassos import CHECKED_TARGETS, Case

FORM = flags.DEFINE_enum("form", None, ["gram", "rows", "bits"], "Of the design; ours.")


def _plan(case: Case) -> Any:
  """Ours."""
  from jaxdm.lasso import solver_plan

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  form: Any = FORM.value
  return solver_plan.choose(m, n, t, is_bool=True, form=form)


def expected_bytes(case: Case) -> int:
  """The peak memory that our plan expects."""
  from jaxdm.lasso import solver_plan

  return solver_plan.peak_bytes(_plan(case), *case.masks.shape)


def _jaxdm(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """All targets in tiles; the tolerance is the gap itself."""
  from jaxdm import tiling
  from jaxdm.lasso import solver

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  plan = _plan(case)
  lassos = solver.Solver(case.masks, np.arange(m), plan)
  checked = min(t, CHECKED_TARGETS)
  weights, steps = np.zeros((len(case.lam_lt), checked, n), np.float32), 0
  for part in tiling.tiles(t, plan.tile):
    tile, state = lassos.tile(case.outcomes[:, part]), None
    for row, lam_t in zip(weights, case.lam_lt[:, part], strict=True):
      state = lassos.solve(tile, lam_t, state, tol=tol, limit=20_000)
      some_tn = np.asarray(state.w_tn)[: tile.size] * tile.scale_t[: tile.size, None]
      row[part] = some_tn[: max(checked - part.start, 0)]
      steps += int(np.asarray(state.steps_t)[: tile.size].sum())
  return weights, steps


def _centre(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """The design, column by column in memory, and the outcomes, as peers want them."""
  x = np.asfortranarray(case.masks - case.masks.mean(axis=0))
  return x, case.outcomes - case.outcomes.mean(axis=0)


def _each_target(case: Case, solve: Callable[[int], Any]) -> tuple[np.ndarray, int]:
  """A peer's solver on every target, over all cores."""
  import joblib

  weights = joblib.Parallel(n_jobs=-1)(
    joblib.delayed(solve)(t) for t in range(case.outcomes.shape[1])
  )
  return np.stack([w for w, _ in weights], axis=1), sum(steps for _, steps in weights)


def _sklearn(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Coordinate descent on the Gram."""
  x, y = _centre(case)
  gram, products = x.T @ x, x.T @ y

  def solve(t: int) -> tuple[np.ndarray, int]:
    from sklearn import linear_model

    warnings.simplefilter("ignore")
    _, w, _, steps = linear_model.lasso_path(
      x,
      y[:, t],
      alphas=case.lam_lt[:, t],
      precompute=gram,
      Xy=products[:, t],
      tol=tol,
      max_iter=100_000,
      return_n_iter=True,
    )
    return w.T, int(np.sum(steps))

  return _each_target(case, solve)


def _celer(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Working sets with dual extrapolation."""
  x, y = _centre(case)

  def solve(t: int) -> tuple[np.ndarray, int]:
    import celer

    warnings.simplefilter("ignore")
    _, w, _, steps = celer.celer_path(
      np.array(x, order="F"),  # joblib's maps are read-only, which celer refuses.
      y[:, t].copy(),
      "lasso",
      alphas=case.lam_lt[:, t],
      tol=tol,
      max_iter=1000,
      max_epochs=100_000,
      return_n_iter=True,
    )
    return w.T.astype(np.float32), int(np.sum(steps))

  return _each_target(case, solve)


def _skglm(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Coordinate descent on working sets with Anderson acceleration."""
  x, y = _centre(case)

  def solve(t: int) -> tuple[np.ndarray, int]:
    import skglm

    warnings.simplefilter("ignore")
    model = skglm.Lasso(1.0, tol=tol, fit_intercept=False, warm_start=True, max_iter=1000)
    rows, steps = [], 0
    for lam in case.lam_lt[:, t]:
      model.alpha = lam
      rows.append(model.fit(x, y[:, t]).coef_.astype(np.float32))
      steps += int(model.n_iter_)
    return np.stack(rows), steps

  return _each_target(case, solve)


def _saga(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Proximal SAGA, all targets at once; the tolerance is the gap itself."""
  from experiments.bench.peers import saga

  x = case.masks.astype(np.float32)
  x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
  y = (case.outcomes - case.outcomes.mean(axis=0)).astype(np.float32)
  weights, epochs = saga.path(x, y, case.lam_lt, tol, keep=CHECKED_TARGETS)
  return weights, epochs * case.outcomes.shape[1]


SIDES: dict[str, Callable[[Case, float], tuple[np.ndarray, int]]] = {
  "jaxdm": _jaxdm,
  "sklearn": _sklearn,
  "celer": _celer,
  "skglm": _skglm,
  "saga": _saga,
}


# Those that take all targets at once.
TOGETHER = ("jaxdm", "saga")
