"""How well predicted margins match those of models that were not fitted to."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxdm import prng

_BOOTSTRAPS = 1000
_BOOTSTRAP_TARGETS = 500


class Interval(NamedTuple):
  """An estimate and its 95 % bootstrap interval."""

  estimate: float
  low: float
  high: float


class Quality(NamedTuple):
  """How well datamodels predict models that they have not seen.

  Attributes:
    lds: linear datamodeling score: Spearman correlation over held-out models of
      predicted and true margin, per target, then averaged over targets.
    pooled_correlation: Pearson correlation over all (model, target) pairs at once.
      Much of it is targets having different mean margins; never compare it to lds.
    r2: share of each target's variance over models that is predicted, averaged over
      targets.
    ceiling: the lds that the expected margin itself would have, or None. It needs
      subsets that were trained on more than once.
    lds_t: float[t], each target's own score.
    num_models: held-out models.
  """

  lds: Interval
  pooled_correlation: Interval
  r2: Interval
  ceiling: Interval | None
  lds_t: np.ndarray
  num_models: int


def evaluate(
  predicted_mt: np.ndarray, margins_mt: np.ndarray, masks_mn: np.ndarray, *, seed: int = 0
) -> Quality:
  """Compares predictions with margins.

  Args:
    predicted_mt: float.
    margins_mt: float, of models that the predictions do not stem from.
    masks_mn: bool, their training sets; models on the same one are kept together when
      subsets are resampled.
    seed: of the bootstrap.

  Returns:
    Quality; its intervals are over subsets and leave the targets as they are. With more
    than 500 targets they are taken from 500 of them.
  """
  packed = np.packbits(masks_mn, axis=1)
  _, subset_m = np.unique(packed, axis=0, return_inverse=True)
  num_subsets = int(subset_m.max()) + 1
  t = margins_mt.shape[1]
  some = np.unique(np.linspace(0, t - 1, _BOOTSTRAP_TARGETS).astype(int))
  rng = prng.generator_for(seed, "bootstrap")
  even = np.full(num_subsets, 1 / num_subsets)
  drawn = rng.multinomial(num_subsets, even, _BOOTSTRAPS)
  once = np.ones((1, num_subsets), int)
  guess, truth = (np.asarray(x, np.float64) for x in (predicted_mt, margins_mt))
  estimates = _statistics(guess, truth, subset_m, once)
  draws = _statistics(guess[:, some], truth[:, some], subset_m, drawn)
  low, high = np.quantile(draws, [0.025, 0.975], axis=1)
  lds, pooled, r2, ceiling = (
    Interval(float(estimate), float(a), float(b))
    for estimate, a, b in zip(estimates[:, 0], low, high, strict=True)
  )
  return Quality(
    lds,
    pooled,
    r2,
    ceiling if num_subsets < len(subset_m) else None,
    columnwise_spearman(guess, truth),
    len(truth),
  )


def columnwise_spearman(a_mt: np.ndarray, b_mt: np.ndarray) -> np.ndarray:
  """Spearman correlation of each column pair, as float[t]; 0 where one is constant."""
  ranks = [scipy.stats.rankdata(x, axis=0) for x in (a_mt, b_mt)]
  a, b = (r - r.mean(axis=0) for r in ranks)
  norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
  return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)


def _statistics(
  guess_mt: np.ndarray, truth_mt: np.ndarray, subset_m: np.ndarray, drawn_bs: np.ndarray
) -> np.ndarray:
  """LDS, pooled correlation, R2 and ceiling of each resample, as float[4, b].

  Args:
    guess_mt: predictions.
    truth_mt: margins.
    subset_m: which subset each model was trained on.
    drawn_bs: how often each resample holds each subset.
  """
  counts_bm = drawn_bs[:, subset_m]
  lds = _mean_spearman(guess_mt, truth_mt, counts_bm)
  order = np.argsort(subset_m, kind="stable")
  place = np.searchsorted(subset_m[order], np.arange(drawn_bs.shape[1] + 1))
  twice = np.flatnonzero(np.diff(place) > 1)
  first, second = order[place[twice]], order[place[twice] + 1]
  again = _mean_spearman(
    truth_mt[first], truth_mt[second], drawn_bs[:, twice], transform=_ceiling
  )
  return np.stack(
    [
      lds,
      _pooled_correlation(guess_mt, truth_mt, counts_bm),
      _mean_r2(guess_mt, truth_mt, counts_bm),
      again,
    ]
  )


def _ceiling(again_b: np.ndarray) -> np.ndarray:
  """Correlation of one model's margin with the expected one.

  Two models on one subset correlate by r, so each with their expectation by sqrt(r)
  (Spearman, 'The proof and measurement of association', 1904).
  """
  return np.sqrt(np.maximum(again_b, 0))


def _mean_spearman(
  a_mt: np.ndarray,
  b_mt: np.ndarray,
  counts_bm: np.ndarray,
  transform: Callable[[np.ndarray], np.ndarray] = lambda score_b: score_b,
) -> np.ndarray:
  """`columnwise_spearman` of resampled rows, transformed and averaged over columns."""
  total = np.zeros(len(counts_bm))
  for a_m, b_m in zip(a_mt.T, b_mt.T, strict=True):
    ranks = _ranks(a_m, counts_bm), _ranks(b_m, counts_bm)
    total += transform(_correlation(*ranks, counts_bm))
  return total / a_mt.shape[1]


def _ranks(values_m: np.ndarray, counts_bm: np.ndarray) -> np.ndarray:
  """Mean ranks of values that occur so often, as float[b, m]."""
  distinct, place_m = np.unique(values_m, return_inverse=True)
  order = np.argsort(place_m, kind="stable")
  starts = np.searchsorted(place_m[order], np.arange(len(distinct)))
  ties = np.add.reduceat(counts_bm[:, order], starts, axis=1)
  return (np.cumsum(ties, axis=1) - (ties - 1) / 2)[:, place_m]


def _correlation(a_bm: np.ndarray, b_bm: np.ndarray, counts_bm: np.ndarray) -> np.ndarray:
  """Pearson's, of values that occur so often; 0 where one side is constant."""
  total = np.maximum(counts_bm.sum(axis=1, keepdims=True), 1)
  a, b = (x - (x * counts_bm).sum(axis=1, keepdims=True) / total for x in (a_bm, b_bm))
  products = [
    np.einsum("bm,bm,bm->b", x, y, counts_bm) for x, y in ((a, b), (a, a), (b, b))
  ]
  norm = np.sqrt(products[1] * products[2])
  return np.divide(products[0], norm, out=np.zeros_like(norm), where=norm > 0)


def _pooled_correlation(
  guess_mt: np.ndarray, truth_mt: np.ndarray, counts_bm: np.ndarray
) -> np.ndarray:
  """Pearson's over all (model, target) pairs of each resample."""
  a, b = guess_mt - guess_mt.mean(), truth_mt - truth_mt.mean()
  sums_m = [x.sum(axis=1) for x in (a, b, a * b, a * a, b * b)]
  total = counts_bm.sum(axis=1) * a.shape[1]
  a, b, ab, aa, bb = (counts_bm @ x / total for x in sums_m)
  norm = np.sqrt(np.maximum((aa - a * a) * (bb - b * b), 0))
  return np.divide(ab - a * b, norm, out=np.zeros_like(norm), where=norm > 0)


def _mean_r2(
  guess_mt: np.ndarray, truth_mt: np.ndarray, counts_bm: np.ndarray
) -> np.ndarray:
  """1 - squared error / variance, averaged over the targets that vary."""
  centred = truth_mt - truth_mt.mean(axis=0)
  share_bm = counts_bm / counts_bm.sum(axis=1, keepdims=True)
  variance_bt = share_bm @ centred**2 - (share_bm @ centred) ** 2
  error_bt = share_bm @ (truth_mt - guess_mt) ** 2
  varies = variance_bt > 1e-12 * np.maximum(centred.var(axis=0), 1e-300)
  r2 = np.where(varies, 1 - error_bt / np.where(varies, variance_bt, 1), 0).sum(axis=1)
  return r2 / np.maximum(varies.sum(axis=1), 1)
