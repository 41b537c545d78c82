"""Targets of many lassos, made ready for the solver: of mean 0 and variance 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm import matrices
from jaxdm.lasso import fista
from jaxdm.lasso.result import Status


class Tile(NamedTuple):
  """Some targets made ready: outcomes of mean 0 and variance 1, padded by constants.

  Attributes:
    size: targets before the padding.
    outcomes_mt: float64, times the roots of the rows' weights.
    scale_t: float64, standard deviations before.
    mean_t: float64, means before.
    status_t: CONVERGED, CONSTANT or NONFINITE.
    problem: float64, on the host; penalties are still 0.
    rough: the same in float32, on the devices.
    column_scale: penalties for outcomes of variance 1 and columns with units of their
      own are those that were given, over this and over `scale_t`.
  """

  size: int
  outcomes_mt: np.ndarray
  scale_t: np.ndarray
  mean_t: np.ndarray
  status_t: np.ndarray
  problem: fista.Problem
  rough: fista.Problem
  column_scale: float

  def lambda_max(self) -> np.ndarray:
    """Smallest penalties at which all penalised weights are 0, padding included."""
    with jax.enable_x64(True):
      slope_tn = fista.without_free(self.problem, jnp.asarray(self.problem.corr_tn))
      steepest_t = np.asarray(fista.steepest(self.problem, slope_tn))
    return self.scale_t * self.column_scale * steepest_t

  def unit_penalties(self, lam_t: np.ndarray) -> np.ndarray:
    """Penalties for outcomes and columns of unit scale; padding gets 1."""
    lam_t = self.pad(lam_t)
    with np.errstate(over="ignore", under="ignore"):
      unit_t = lam_t / self.scale_t / self.column_scale
    unit_t = np.minimum(unit_t, np.finfo(np.float64).max)
    return np.where(self.status_t == Status.CONVERGED, unit_t, 1.0)

  def pad(self, values_t: np.ndarray) -> np.ndarray:
    """A number for each target, and 1 for padding."""
    fill = len(self.scale_t) - len(values_t)
    return np.pad(values_t, (0, fill), constant_values=1)


def standardise(
  outcomes_mt: np.ndarray, varies_t: np.ndarray, root_m: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Outcomes of mean 0 and variance 1, and their means and standard deviations before.

  Scaled by powers of two first, so that no sum or square overflows or vanishes.

  Args:
    outcomes_mt: float64, finite.
    varies_t: bool; where False, outcomes become 0.
    root_m: float64, roots of the rows' weights, with which means are taken and by which
      the outcomes returned are multiplied; None: 1.
  """
  weights_m = None if root_m is None else root_m**2
  _, exponent_t = np.frexp(np.abs(outcomes_mt).max(axis=0))
  unit_mt = np.ldexp(outcomes_mt, -exponent_t)
  mean_t = np.average(unit_mt, axis=0, weights=weights_m)
  unit_mt = unit_mt - mean_t
  rest_t = np.average(unit_mt, axis=0, weights=weights_m)
  unit_mt = matrices.scale_rows(np.where(varies_t, unit_mt - rest_t, 0.0), root_m)
  scale_t = np.sqrt(np.mean(unit_mt**2, axis=0))
  # It vanishes where only rows of next to no weight differ.
  scale_t = np.where(varies_t & (scale_t > 0), scale_t, 1.0)
  means_t = np.where(varies_t, np.ldexp(mean_t + rest_t, exponent_t), outcomes_mt[0])
  return unit_mt / scale_t, means_t, np.where(varies_t, np.ldexp(scale_t, exponent_t), 1)
