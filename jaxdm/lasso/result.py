"""What a fit of many lassos returns."""

import enum
from typing import NamedTuple

import numpy as np


class Status(enum.IntEnum):
  """How a target's fit ended.

  CONVERGED: the gap is finite and at most the tolerance. LIMIT: the steps ran out first.
  CONSTANT: the outcomes do not vary. NONFINITE: an outcome is not finite. UNCERTIFIED:
  the gap came out as no number, or negative by more than rounding explains, so that
  nothing is claimed of the weights.
  """

  CONVERGED = 0
  LIMIT = 1
  CONSTANT = 2
  NONFINITE = 3
  UNCERTIFIED = 4


class LassoFit(NamedTuple):
  """Solutions of T lassos, in the basis of the design as it was given.

  >>> import jaxdm, numpy as np
  >>> x = np.random.default_rng(0).normal(size=(50, 5))
  >>> fit = jaxdm.fit_lasso(x, x @ [1.0, 0, 0, 0, -2.0], lam=0.1, tol=1e-6)
  >>> bool(fit.gap[0] <= 1e-6), jaxdm.LassoFit._fields[:2]
  (True, ('weights', 'intercepts'))

  Attributes:
    weights: float[t, n]; what one more in column n adds to a prediction. float32, or
      float64 where float32 cannot hold weights of the tolerance asked for.
    intercepts: float64[t].
    gap: float64[t], duality gap of these weights over the objective at w = 0, which is
      var(y) / 2, a weighted variance where rows have weights: an upper bound on how far
      they are from the optimum. It comes from residuals in float64. What rounding may
      hide is added: 7e-15 (1 + a)^2, with a the sum of the weights' sizes for outcomes of
      variance 1 and columns scaled to a variance of about 1 (bool columns as they are);
      without a penalty, 7e-15 (1 + a) to the square root. Combinations of unpenalised
      columns whose singular value is below eps max(m, n) times the largest count as
      rounding. Infinite if UNCERTIFIED.
    steps: int[t], proximal-gradient steps taken.
    status: int[t] of `Status`. CONSTANT outcomes get zero weights; NONFINITE ones too,
      and an intercept and a gap that are not numbers.
    constant_columns: int[c], columns that cannot be told from the intercept; their
      weights are 0.
  """

  weights: np.ndarray
  intercepts: np.ndarray
  gap: np.ndarray
  steps: np.ndarray
  status: np.ndarray
  constant_columns: np.ndarray
