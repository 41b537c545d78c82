"""Weights of a Gaussian posterior: under a prior in which the weights vary together.

Bayesian linear regression (Rasmussen and Williams, 'Gaussian Processes for Machine
Learning', section 2.1.1). The margins of m models are y = X w + noise of variance s^2;
X and y are centred, since the intercept has no prior. The weights have the prior
N(0, v C). The posterior mean is the minimum of

  |y - X w|^2 / (2 m) + penalty w' C^-1 w / 2,   penalty = s^2 / (m v).

C is the same for all targets, so that one decomposition serves every target and penalty.
Penalties are given as multiples of the mean eigenvalue of L' (X'X / m) L, where C = L L'.
"""

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.linalg

from jaxdm import matrices, memory, tiling
from jaxdm.errors import UserError

# Penalties, as multiples of the mean eigenvalue: from hardly any to almost the prior.
SMALLEST, LARGEST = 0.03, 1000.0
# Variance that each example has by itself, as a multiple of the mean variance of the
# scores. Between .2 and .5, neither better on both Fashion-MNIST and CIFAR-10.
INDEPENDENT = 0.25
# n x n matrices of float64 that exist at once.
_MATRICES = 6
_TILE_TARGETS = 256
# A share of models that holds an example, this near to 0 or 1, is 0 or 1.
_ROUNDING = 1e-9


def penalties(count: int) -> np.ndarray:
  """Infinite, at which the weights are the prior's, and then descending; float64[l]."""
  if count == 1:
    return np.array([np.inf])
  return np.append(np.inf, np.geomspace(LARGEST, SMALLEST, count - 1))


def check_room(n: int, num_validation: int) -> None:
  """Raises UserError if the host's memory is too small.

  Args:
    n: examples.
    num_validation: models of the largest validation fold.
  """
  needed, free = 8 * (_MATRICES * n + num_validation) * n, memory.available_bytes()
  if needed > free:
    raise UserError(
      "priors",
      f"with a covariance of {n} examples need {needed / 1e9:.0f} GB of the host's "
      f"memory, which has {free / 1e9:.0f} GB left; leave them out",
    )


def covariance(scores_tn: matrices.Matrix) -> np.ndarray:
  """C: examples vary together as their scores do over the targets.

  Args:
    scores_tn: float; read a tile of targets at a time.

  Returns:
    S'S with `INDEPENDENT` times the mean of its diagonal added to the diagonal, scaled to
    a mean variance of 1; float64[n, n], positive definite.

  Raises:
    ValueError: if all scores are 0.
  """
  t, n = scores_tn.shape
  total_nn = np.zeros((n, n))
  for part in tiling.tiles(t, _TILE_TARGETS):
    tile_un = np.asarray(scores_tn[part], np.float64)
    total_nn += tile_un.T @ tile_un
  mean = np.trace(total_nn) / n
  if not mean > 0:
    raise ValueError("covariance_scores must be finite, and not all 0")
  total_nn[np.diag_indices(n)] += INDEPENDENT * mean
  total_nn /= mean * (1 + INDEPENDENT)
  return total_nn


class Posterior:
  """Posterior means of the weights of any targets, from the same models."""

  def __init__(
    self,
    masks_mn: matrices.Matrix,
    rows_m: np.ndarray,
    covariance_nn: np.ndarray,
    weights_m: np.ndarray | None = None,
  ):
    """Computes nothing yet.

    Args:
      masks_mn: bool.
      rows_m: int, the models to fit to.
      covariance_nn: C, positive definite.
      weights_m: float64, what each of these models counts; None: 1.
    """
    self._masks, self._rows, self._covariance = masks_mn, rows_m, covariance_nn
    self._share_m = np.full(len(rows_m), 1 / len(rows_m))
    if weights_m is not None:
      self._share_m = weights_m / weights_m.sum()

  @functools.cached_property
  def _mean_n(self) -> np.ndarray:
    """float64, how often each example is in the training set."""
    parts = matrices.blocks(self._masks, self._rows)
    mean_n = sum(self._share_m[part] @ block for part, block in parts)
    # Exact where an example never varies, so that it says exactly nothing.
    whole_n = np.round(mean_n)
    return np.where(np.abs(mean_n - whole_n) < _ROUNDING, whole_n, mean_n)

  @functools.cached_property
  def _axes(self) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [n], and axes [n, n] with w = axes z for z of unit prior variance."""
    n = len(self._covariance)
    gram_nn = np.zeros((n, n))
    for part, block in matrices.blocks(self._masks, self._rows):
      centred = (block - self._mean_n) * np.sqrt(self._share_m[part])[:, None]
      gram_nn += centred.T @ centred
    root_nn = scipy.linalg.cholesky(self._covariance, lower=True)
    values_n, axes_nn = scipy.linalg.eigh(root_nn.T @ gram_nn @ root_nn)
    return np.maximum(values_n, 0), root_nn @ axes_nn

  def _coordinates(
    self, outcomes_mt: np.ndarray, multiples: Iterable[float]
  ) -> Iterator[np.ndarray]:
    """The means along the axes, float64[n, t], at each penalty."""
    values_n, axes_nn = self._axes
    unit = max(values_n.mean(), np.finfo(float).tiny)
    deviation_mt = self._share_m[:, None] * (outcomes_mt - self._share_m @ outcomes_mt)
    slope_nt = np.zeros((len(values_n), outcomes_mt.shape[1]))
    for part, block in matrices.blocks(self._masks, self._rows):
      slope_nt += (block - self._mean_n).T @ deviation_mt[part]
    along_nt = axes_nn.T @ slope_nt
    for multiple in multiples:
      yield along_nt / (values_n + multiple * unit)[:, None]

  def weights(self, outcomes_mt: np.ndarray, multiple: float) -> np.ndarray:
    """Posterior means, float64[t, n].

    Args:
      outcomes_mt: float64, of the models to fit to.
      multiple: one of `penalties`.
    """
    [weights_nt] = self._coordinates(outcomes_mt, [multiple])
    return (self._axes[1] @ weights_nt).T

  def intercepts(self, outcomes_mt: np.ndarray, weights_tn: np.ndarray) -> np.ndarray:
    """float64[t], with which predictions have the outcomes' mean."""
    return self._share_m @ outcomes_mt - weights_tn @ self._mean_n

  def project(self, rows_m: np.ndarray) -> np.ndarray:
    """Other models' training sets along the axes, for `errors`; float64[c, n]."""
    axes_cn = np.empty((len(rows_m), len(self._covariance)))
    for part, block in matrices.blocks(self._masks, rows_m):
      axes_cn[part] = (block - self._mean_n) @ self._axes[1]
    return axes_cn

  def errors(
    self,
    outcomes_mt: np.ndarray,
    check_cn: np.ndarray,
    check_outcomes_ct: np.ndarray,
    multiples: Iterable[float],
    weights_c: np.ndarray | None = None,
  ) -> np.ndarray:
    """Mean squared errors on other models, float64[l, t].

    Args:
      outcomes_mt: float64, of the models to fit to.
      check_cn: the others, of `project`.
      check_outcomes_ct: float64, theirs.
      multiples: penalties, l of them.
      weights_c: float64, what the others count; None: 1.
    """
    deviation_ct = check_outcomes_ct - self._share_m @ outcomes_mt
    return np.stack(
      [
        np.average((deviation_ct - check_cn @ weights_nt) ** 2, axis=0, weights=weights_c)
        for weights_nt in self._coordinates(outcomes_mt, multiples)
      ]
    )
