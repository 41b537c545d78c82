"""Fits T weighted lassos that share one design, with a certificate for each.

Objective per target, as in scikit-learn's `Lasso(alpha=lam)` when v = 1:

  ||y_t - X w_t - b_t||^2 / (2 m)  +  lam_t * sum_n v[t, n] |w[t, n]|

or, where rows have weights s, as in its `fit(X, y, sample_weight=s)`:

  sum_m s[m] (y[m, t] - X[m] w_t - b_t)^2 / (2 sum_m s[m])  +  the same

Every step for all targets is one matrix product.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdm import matrices, numerics
from jaxdm.errors import check_count, check_number
from jaxdm.lasso import design, solver_plan
from jaxdm.lasso.result import LassoFit
from jaxdm.lasso.solver import Solver
from jaxdm.tiling import Factors, factors_of, tiles


def penalties(lam: Any, t: int) -> np.ndarray:
  """One penalty a target, as float64[t]; ValueError unless they are >= 0 and finite."""
  values = matrices.as_real("lam", lam)
  if values.shape not in ((), (1,), (t,)):
    raise ValueError(
      f"lam must be a number or have shape [t] = ({t},), got {values.shape}"
    )
  lam_t = np.broadcast_to(np.asarray(values, np.float64), (t,))
  wrong_t = ~((lam_t >= 0) & np.isfinite(lam_t))
  if wrong_t.any():
    raise ValueError(f"lam must be >= 0 and finite, got {lam_t[wrong_t][0]}")
  return lam_t


@numerics.pinned()
def fit_lasso(
  masks: matrices.Matrix,
  outcomes: Any,
  lam: Any,
  *,
  sample_weight: Any = None,
  penalty_factors: Factors = None,
  tol: float = 1e-4,
  max_steps: int = 20_000,
  form: design.Form | None = None,
  tile: int | None = None,
  report: Callable[[str], Any] = lambda line: None,
) -> LassoFit:
  """Fits one lasso per outcome, all on the same design.

  >>> import jaxdm, numpy as np
  >>> x = np.random.default_rng(0).normal(size=(50, 5))
  >>> fit = jaxdm.fit_lasso(x, x @ [1.0, 0, 0, 0, -2.0], lam=0.1, tol=1e-6)
  >>> np.flatnonzero(fit.weights[0])
  array([0, 4])

  Arrays are NumPy arrays of any real dtype, or what NumPy makes such an array of: lists,
  DataFrames and Series.

  Args:
    masks: the design, bool or real[m, n], such as training masks. A memory map,
      `training_sets.PackedMasks` and a SciPy sparse array are read a block of rows at a
      time.
    outcomes: real[m, t], such as margins in logits. A vector [m] is one target, t = 1:
      what is returned always has an axis of targets.
    lam: penalty >= 0, a number or real[t], in units of outcomes.
    sample_weight: real[m] >= 0, what each row's squared error counts, relative to the
      others: 0 leaves a row out, unread, and 2 counts it twice. A number is the same for
      all rows, and so is None. The means and variances of the fit are weighted, too.
    penalty_factors: v >= 0, a number, real[n], real[t, n], or a function that makes such
      an array for a slice of targets. 0 leaves a weight unpenalised; meant for a few
      columns a target. None means 1.
    tol: duality gap to reach, relative to the objective at w = 0. Below 2e-6 the fit
      ends in float64, and so do the weights.
    max_steps: proximal-gradient steps a target, at most.
    form: of the design: 'gram', 'rows' or 'bits'; None: by shape and free memory.
    tile: targets at a time, >= 1; None: by free memory.
    report: called with a line that says what was chosen.

  Returns:
    LassoFit.

  Raises:
    ValueError: on shapes that do not match, a design that is not finite, bad penalties or
      weights; the message begins with the argument's name.
  """
  masks = matrices.as_matrix("masks", masks)
  outcomes = np.asarray(matrices.as_columns("outcomes", outcomes)[:], np.float64)
  (m, n), t = masks.shape, outcomes.shape[1]
  if m != len(outcomes):
    raise ValueError(f"masks have {m} rows but outcomes have {len(outcomes)}")
  if min(m, n, t) < 1:
    raise ValueError(f"masks and outcomes must not be empty, got {(m, n)}, {(m, t)}")
  lam_t = penalties(lam, t)
  tol = check_number("tol", tol, above=0)
  limit = check_count("max_steps", max_steps, 0)
  rows, weights_m = matrices.as_weights(sample_weight, m)
  outcomes = matrices.take_rows(outcomes, rows)
  plan = solver_plan.choose(
    len(rows), n, t, is_bool=masks.dtype == bool, form=form, tile=tile
  )
  report(f"lasso: {plan}")
  solver = Solver(masks, rows, plan, weights_m)
  fits = []
  for part in tiles(t, plan.tile):
    factors_tn = factors_of("penalty_factors", penalty_factors, part, (t, n))
    ready = solver.tile(outcomes[:, part], factors_tn)
    fits.append(solver.finish(ready, lam_t[part], tol=tol, limit=limit))
  return join(fits)


def join(fits: Sequence[LassoFit]) -> LassoFit:
  """Fits of successive targets as one."""
  by_target = [name for name in LassoFit._fields if name != "constant_columns"]
  joined = {n: np.concatenate([getattr(fit, n) for fit in fits]) for n in by_target}
  return LassoFit(**joined, constant_columns=fits[0].constant_columns)
