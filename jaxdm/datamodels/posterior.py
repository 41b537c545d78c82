"""Weights of a Gaussian posterior: under a prior whose weights vary together.

Bayesian linear regression (Rasmussen and Williams, 'Gaussian Processes for Machine
Learning', section 2.1.1): with margins y = X w + noise of variance s^2, and weights whose
prior is N(0, v C), the posterior mean is the minimum of

  |y - X w|^2 / (2 m) + lam w' C^-1 w / 2,   lam = s^2 / (m v).

C is the same for all targets, so that one decomposition serves every target and lam.
"""

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.linalg

from jaxdm import memory
from jaxdm.errors import UserError
from jaxdm.lasso import matrices

# Penalties, as multiples of the mean eigenvalue: from hardly any to almost the prior.
_SMALLEST, _LARGEST = 0.03, 1000.0
# n x n matrices of float64 that exist at once.
_MATRICES = 6


def penalties(count: int) -> np.ndarray:
  """Infinite, at which the weights are the prior's, and then descending; float64[l]."""
  if count == 1:
    return np.array([np.inf])
  return np.append(np.inf, np.geomspace(_LARGEST, _SMALLEST, count - 1))


def check_room(n: int) -> None:
  """Raises UserError if the host cannot hold what n examples need."""
  needed, free = _MATRICES * 8 * n * n, memory.available_bytes()
  if needed > free:
    raise UserError(
      "priors",
      f"with a covariance of {n} examples need {needed / 1e9:.0f} GB of the host's "
      f"memory, which has {free / 1e9:.0f} GB left; leave them out",
    )


class Posterior:
  """Posterior means of weights, of any targets of the same models."""

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
    return sum(self._share_m[part] @ block for part, block in parts)

  @functools.cached_property
  def _axes(self) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [n], and axes [n, n] with w = axes z for z of unit prior variance."""
    n = len(self._covariance)
    gram_nn = np.zeros((n, n))
    for part, block in matrices.blocks(self._masks, self._rows):
      centred = (block - self._mean_n) * np.sqrt(self._share_m[part])[:, None]
      gram_nn += centred.T @ centred
    root_nn = scipy.linalg.cholesky(self._covariance.astype(np.float64), lower=True)
    values_n, axes_nn = scipy.linalg.eigh(root_nn.T @ gram_nn @ root_nn)
    return np.maximum(values_n, 0), root_nn @ axes_nn

  def weights(
    self, outcomes_mt: np.ndarray, lams: Iterable[float]
  ) -> Iterator[np.ndarray]:
    """Posterior means at each penalty, float64[t, n]."""
    values_n, axes_nn = self._axes
    unit = max(values_n.mean(), np.finfo(float).tiny)
    deviation_mt = self._share_m[:, None] * (outcomes_mt - self._share_m @ outcomes_mt)
    slope_nt = np.zeros((len(values_n), outcomes_mt.shape[1]))
    for part, block in matrices.blocks(self._masks, self._rows):
      slope_nt += (block - self._mean_n).T @ deviation_mt[part]
    along_nt = axes_nn.T @ slope_nt
    for lam in lams:
      yield (axes_nn @ (along_nt / (values_n + lam * unit)[:, None])).T

  def intercepts(self, outcomes_mt: np.ndarray, weights_tn: np.ndarray) -> np.ndarray:
    """float64[t], with which predictions have the outcomes' mean."""
    return self._share_m @ outcomes_mt - weights_tn @ self._mean_n

  def errors(
    self,
    outcomes_mt: np.ndarray,
    check_rows: np.ndarray,
    check_weights: np.ndarray | None,
    check_outcomes: np.ndarray,
    lams: np.ndarray,
  ) -> np.ndarray:
    """Mean squared errors on other models, float64[l, t].

    Args:
      outcomes_mt: of the models to fit to.
      check_rows: int, the others.
      check_weights: float64, what they count; None: 1.
      check_outcomes: float64[c, t], of the others.
      lams: penalties.
    """
    masks = np.asarray(self._masks[check_rows], np.float64)
    found = []
    for weights_tn in self.weights(outcomes_mt, lams):
      guess = masks @ weights_tn.T + self.intercepts(outcomes_mt, weights_tn)
      squares = (check_outcomes - guess) ** 2
      found.append(np.average(squares, axis=0, weights=check_weights))
    return np.stack(found)
