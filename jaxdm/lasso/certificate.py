"""How far solutions are from their optimum, at most: from residuals in float64."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm import matrices
from jaxdm.lasso import design, fista
from jaxdm.matrices import part_of
from jaxdm.typing import Array

# Of sums of products whose terms are near 1.
_ROUNDING = 32 * np.finfo(np.float64).eps


class Certificate(NamedTuple):
  """What residuals say of solutions for outcomes of variance 1.

  Attributes:
    gap_t: float64, an upper bound of the distance to the optimum over the objective at
      w = 0, an allowance for rounding included; infinite where none could be computed.
    mean_t: float64, mean residual; the intercept that is best for these weights is as
      much larger.
  """

  gap_t: np.ndarray
  mean_t: np.ndarray


def certify(
  design_mn: matrices.Matrix,
  rows_m: np.ndarray,
  columns: design.ColumnScales,
  problem: fista.Problem,
  outcomes_mt: np.ndarray,
  w_tn: np.ndarray,
  direct: np.ndarray,
  basis_mr: np.ndarray | None,
) -> Certificate:
  """Bounds how far solutions are from their optimum.

  Args:
    design_mn: X.
    rows_m: which of its rows.
    columns: of those rows.
    problem: float64, with penalties.
    outcomes_mt: float64, of mean 0 and variance 1, times the roots of the rows' weights.
    w_tn: float64, weights of columns in units of their own.
    direct: int, the targets without a penalty; their bound is the part of the residual
      that lies among the columns.
    basis_mr: `orthonormal` of all columns, if there are any of those.

  Returns:
    Certificate.
  """
  m = len(rows_m)
  with jax.enable_x64(True):
    sums = jnp.zeros(w_tn.shape), *(jnp.zeros(len(w_tn)) for _ in range(3))
    for part, block in design.unit_blocks(design_mn, rows_m, columns):
      mean_n, root_m = columns.mean_n, part_of(columns.root_m, part)
      sums = _add_residuals(sums, block, mean_n, root_m, outcomes_mt[part], w_tn)
    slope_tn, mean_t, aligned_t, square_t = (np.array(x) / m for x in sums)
    slope_tn[:, columns.constant_n] = 0
    square_t -= mean_t**2
    gap_t = np.array(fista.gap(problem, w_tn, slope_tn, aligned_t, square_t))
  size_t = 1 + np.abs(w_tn).sum(axis=1)
  rounding_t = _ROUNDING * size_t**2
  if direct.size and basis_mr is not None:
    centred_mn = design.centre(design_mn, rows_m, columns)
    residual_md = outcomes_mt[:, direct] - centred_mn @ w_tn[direct].T
    inside_d = np.linalg.norm(basis_mr.T @ residual_md / m, axis=0)
    gap_t[direct] = (inside_d + _ROUNDING * size_t[direct]) ** 2
    rounding_t[direct] = 0
  valid_t = np.isfinite(gap_t) & (gap_t >= -rounding_t)
  return Certificate(np.where(valid_t, gap_t + rounding_t, np.inf), mean_t)


@functools.partial(jax.jit, donate_argnums=0)
def _add_residuals(
  sums: Any,
  block: Array,
  mean_n: Array,
  root_m: Array | None,
  outcomes_mt: Array,
  w_tn: Array,
) -> Any:
  """Adds one block's part of residual times X, residual, its product with y, square."""
  slope_tn, total_t, aligned_t, square_t = sums
  x = block.astype(jnp.float64) - mean_n
  x = x if root_m is None else x * root_m[:, None]
  r = outcomes_mt - jnp.einsum("mn,tn->mt", x, w_tn, precision=design.EXACT)
  return (
    slope_tn + jnp.einsum("mt,mn->tn", r, x, precision=design.EXACT),
    total_t + (r if root_m is None else r * root_m[:, None]).sum(axis=0),
    aligned_t + jnp.sum(r * outcomes_mt, axis=0),
    square_t + jnp.sum(r**2, axis=0),
  )


def orthonormal(centred_mz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """A basis of mean square 1 of what some columns span, and what makes it of them.

  Directions whose singular value is below eps max(m, z) times the largest are rounding,
  as for `numpy.linalg.matrix_rank`.

  Args:
    centred_mz: float64.

  Returns:
    float64[m, r], and float64[z, r] by which `centred_mz` is multiplied to have it.
  """
  m = len(centred_mz)
  left_mr, singular_r, right_rz = np.linalg.svd(centred_mz, full_matrices=False)
  least = np.finfo(np.float64).eps * max(centred_mz.shape) * singular_r.max(initial=0)
  is_used = singular_r > least
  left_mr, right_rz = left_mr[:, is_used], right_rz[is_used]
  return left_mr * m**0.5, right_rz.T / singular_r[is_used] * m**0.5
