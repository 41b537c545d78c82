"""What is believed of the weights before any model on a subset has been seen.

A prior says where large weights are to be expected (penalty factors v[t, n]: a weight
with a small one is penalised less) and to what the weights are shrunk (an offset[t, n],
such as another method's scores; its scale >= 0 is fitted). The published method has no
prior. A prior with covariance scores replaces the lasso by the mean of a Gaussian
posterior (see `posterior`), in which evidence about one example also changes the weights
of examples with similar scores.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxdm import identity, matrices, tiling
from jaxdm.datamodels import posterior

_LEAST = 0.05
_TILE = 256  # A part of the digest: another size has other digests.


class Prior(NamedTuple):
  """What is believed of the weights before the fit, one candidate among several.

  >>> import jaxdm, numpy as np
  >>> masks = jaxdm.random_subsets(num_models=60, num_train=30, alpha=0.5, seed=0)
  >>> margins = masks[:, :1] + np.random.default_rng(0).normal(size=(60, 1))
  >>> candidates = {"none": jaxdm.Prior(), "first": jaxdm.Prior(offset=np.eye(1, 30))}
  >>> jaxdm.fit_datamodels(masks, margins, candidates=candidates).choice_t
  array([1], dtype=int32)

  Factors and offset are a number, real[n], real[t, n], or a function that makes such an
  array for a slice of targets.

  Attributes:
    factors: v >= 0; None: 1.
    offset: scores to shrink to, in any unit; None: 0.
    covariance_scores: real[s, n], in any unit: the weights of each target vary together
      about the offset as these scores do over their rows. Then there are no factors.
      None: a lasso.
  """

  factors: tiling.Factors = None
  offset: tiling.Factors = None
  covariance_scores: matrices.Matrix | None = None

  def factors_of(self, part: slice, shape: tuple[int, int]) -> np.ndarray | None:
    """Penalty factors of some of (t, n), as real[u, n]; None where all are 1."""
    return tiling.factors_of("factors", self.factors, part, shape)

  def offset_of(self, part: slice, shape: tuple[int, int]) -> np.ndarray:
    """The offset of some of (t, n), as float32[u, n]."""
    return np.asarray(tiling.rows_of("offset", self.offset, part, shape), np.float32)

  def digest(self, shape: tuple[int, int]) -> str:
    """Tells different priors apart, by all that they say of every one of (t, n).

    Functions are called for a tile of targets at a time.
    """
    tiles = list(tiling.tiles(shape[0], _TILE))
    contents: dict[str, Any] = {
      name: [identity.digest(tiling.rows_of(name, part, tile, shape)) for tile in tiles]
      for name, part in (("factors", self.factors), ("offset", self.offset))
    }
    if self.covariance_scores is not None:
      constants = posterior.INDEPENDENT, posterior.SMALLEST, posterior.LARGEST
      contents["covariance"] = identity.digest([self.covariance_scores, constants])
    return identity.digest(contents)


def by_class(
  labels: np.ndarray, target_labels: np.ndarray, *, other: float = 10**0.5
) -> np.ndarray:
  """Factors: 1 within the target's class and `other` outside it, as float32[t, n]."""
  same = np.asarray(target_labels)[:, None] == np.asarray(labels)[None, :]
  return np.where(same, 1.0, other).astype(np.float32)


def by_similarity(cosine_tn: np.ndarray, *, power: float = 0.5) -> np.ndarray:
  """Factors: distance to the target, relative to its median, to a power.

  Args:
    cosine_tn: float in [-1, 1], such as `attribution.similarity`.
    power: how strongly distance counts; 0 gives all ones.

  Returns:
    float32[t, n] > 0.
  """
  distance = 1 - np.asarray(cosine_tn, np.float32)
  median = np.maximum(np.median(distance, axis=1, keepdims=True), 1e-12)
  return np.maximum(distance / median, _LEAST) ** power


def by_size(scores_tn: np.ndarray, *, power: float = 0.5) -> np.ndarray:
  """Factors: small where scores are large (the adaptive lasso of Zou, 2006).

  Args:
    scores_tn: float, such as another method's, or the weights of a first fit.
    power: how strongly size counts; 0 gives all ones.

  Returns:
    float32[t, n] > 0, of median 1 for each target.
  """
  size = np.abs(np.asarray(scores_tn, np.float32))
  mean = np.maximum(size.mean(axis=1, keepdims=True), 1e-12)
  factors = (size / mean + 0.3) ** -power
  return factors / np.median(factors, axis=1, keepdims=True)
