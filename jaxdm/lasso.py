"""Fits T weighted lassos that share one design, with a certificate for each.

Objective per target, as in scikit-learn's `Lasso(alpha=lam)` when v = 1:

  ||y_t - X w_t - b_t||^2 / (2 m)  +  lam_t * sum_n v[t, n] |w[t, n]|

Every step for all targets is one matrix product.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxdm import columns, design, numerics
from jaxdm.fit import LassoFit
from jaxdm.solver import Solver

Factors = np.ndarray | Callable[[slice], np.ndarray] | None


def tiles(num_targets: int, size: int) -> Iterator[slice]:
  """Slices of at most `size` targets."""
  for start in range(0, num_targets, size):
    yield slice(start, min(start + size, num_targets))


def factors_of(penalty_factors: Factors, part: slice) -> np.ndarray | None:
  """The penalty factors of a tile; None where all are 1."""
  if penalty_factors is None:
    return None
  if callable(penalty_factors):
    return np.asarray(penalty_factors(part))
  return np.asarray(penalty_factors)[part]


def check_factors(factors_tn: np.ndarray | None, shape: tuple[int, int]) -> None:
  """Raises ValueError unless the factors are >= 0, finite and of that shape."""
  if factors_tn is None:
    return
  if factors_tn.shape != shape:
    raise ValueError(
      f"penalty_factors must have shape [t, n] = {shape}, got {factors_tn.shape}"
    )
  if not ((factors_tn >= 0) & np.isfinite(factors_tn)).all():
    raise ValueError("penalty_factors must be >= 0 and finite")


@numerics.pinned()
def fit_lasso(
  masks: columns.Matrix,
  outcomes: np.ndarray,
  lam: float | np.ndarray,
  *,
  penalty_factors: Factors = None,
  tol: float = 1e-4,
  max_steps: int = 20_000,
  form: design.Form | None = None,
  tile: int | None = None,
  report: Callable[[str], Any] = lambda line: None,
) -> LassoFit:
  """Fits one lasso per outcome, all on the same design.

  Args:
    masks: the design, bool or real[m, n], such as training masks. A memory map and
      `training_sets.PackedMasks` are read a block of rows at a time.
    outcomes: real[m, t], such as margins in logits.
    lam: penalty >= 0, a scalar or float[t], in units of outcomes.
    penalty_factors: v >= 0 as float[t, n], or a function that makes the rows of a slice
      of targets. 0 leaves a weight unpenalised; meant for a few columns a target. None
      means 1.
    tol: duality gap to reach, relative to the objective at w = 0. Below 2e-6 the fit
      ends in float64, and so do the weights.
    max_steps: proximal-gradient steps a target, at most.
    form: of the design: 'gram', 'rows' or 'bits'; None: by shape and free memory.
    tile: targets at a time; None: by free memory.
    report: called with a line that says what was chosen.

  Returns:
    LassoFit.

  Raises:
    ValueError: on shapes that do not match, a design that is not finite, bad penalties.
  """
  masks = columns.as_matrix("masks", masks)
  outcomes = np.asarray(columns.as_matrix("outcomes", outcomes)[:], np.float64)
  (m, n), (rows, t) = masks.shape, outcomes.shape
  if m != rows:
    raise ValueError(f"masks have {m} rows but outcomes have {rows}")
  if min(m, n, t) < 1:
    raise ValueError(f"masks and outcomes must not be empty, got {(m, n)}, {(m, t)}")
  lam_t = np.broadcast_to(np.asarray(lam, np.float64), (t,))
  if not ((lam_t >= 0) & np.isfinite(lam_t)).all():
    raise ValueError(f"lam must be >= 0 and finite, got {lam}")
  if not tol > 0:
    raise ValueError(f"tol must be positive, got {tol}")
  plan = design.plan(m, n, t, is_bool=masks.dtype == bool, form=form, tile=tile)
  report(f"lasso: {plan}")
  solver = Solver(masks, np.arange(m), plan)
  fits = []
  for part in tiles(t, plan.tile):
    factors_tn = factors_of(penalty_factors, part)
    check_factors(factors_tn, (part.stop - part.start, n))
    ready = solver.tile(outcomes[:, part], factors_tn)
    fits.append(solver.finish(ready, lam_t[part], tol=tol, limit=max_steps))
  return joined(fits)


def joined(fits: Sequence[LassoFit]) -> LassoFit:
  """Fits of successive targets as one."""
  fields = zip(*(fit[:5] for fit in fits), strict=True)
  parts = [np.concatenate(field) for field in fields]
  return LassoFit._make([*parts, fits[0].constant_columns])
