"""How well predicted margins match those of models that were not fitted to."""

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
  groups = np.split(np.argsort(subset_m, kind="stable"), np.cumsum(np.bincount(subset_m)))
  groups = groups[:-1]
  lds_t = columnwise_spearman(predicted_mt, margins_mt)
  t = len(lds_t)
  some = np.unique(np.linspace(0, t - 1, _BOOTSTRAP_TARGETS).astype(int))
  guess_mt, truth_mt = predicted_mt[:, some], margins_mt[:, some]
  pairs = np.array([group[:2] for group in groups if len(group) > 1])
  rng = prng.generator_for(seed, "bootstrap")
  draws = []
  for _ in range(_BOOTSTRAPS):
    drawn = rng.integers(len(groups), size=len(groups))
    rows = np.concatenate([groups[i] for i in drawn])
    guess, truth = guess_mt[rows], truth_mt[rows]
    draws.append(
      (
        columnwise_spearman(guess, truth).mean(),
        _pearson(guess.ravel(), truth.ravel()),
        _r2(guess, truth),
        _ceiling(truth_mt, pairs[rng.integers(len(pairs), size=len(pairs))])
        if len(pairs)
        else 0.0,
      )
    )
  low, high = np.quantile(draws, [0.025, 0.975], axis=0)

  def interval(i: int, estimate: float) -> Interval:
    return Interval(float(estimate), float(low[i]), float(high[i]))

  return Quality(
    interval(0, lds_t.mean()),
    interval(1, _pearson(predicted_mt.ravel(), margins_mt.ravel())),
    interval(2, _r2(predicted_mt, margins_mt)),
    interval(3, _ceiling(margins_mt, pairs)) if len(pairs) else None,
    lds_t,
    len(margins_mt),
  )


def columnwise_spearman(a_mt: np.ndarray, b_mt: np.ndarray) -> np.ndarray:
  """Spearman correlation of each column pair, as float[t]; 0 where one is constant."""
  ranks = [scipy.stats.rankdata(x, axis=0) for x in (a_mt, b_mt)]
  a, b = (r - r.mean(axis=0) for r in ranks)
  norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
  return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson correlation; 0 where one side is constant."""
  a, b = a - a.mean(), b - b.mean()
  norm = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / norm) if norm > 0 else 0.0


def _r2(guess_mt: np.ndarray, truth_mt: np.ndarray) -> float:
  """Mean over targets of 1 - squared error / variance; constant targets left out."""
  variance_t = truth_mt.var(axis=0)
  error_t = np.mean((truth_mt - guess_mt) ** 2, axis=0)
  varies = variance_t > 0
  return float((1 - error_t[varies] / variance_t[varies]).mean()) if varies.any() else 0.0


def _ceiling(margins_mt: np.ndarray, pairs: np.ndarray) -> float:
  """Correlation of one model's margin with the expected one, averaged over targets.

  Two models on one subset correlate by r, so each with their expectation by sqrt(r)
  (Spearman, 'The proof and measurement of association', 1904).
  """
  again_t = columnwise_spearman(margins_mt[pairs[:, 0]], margins_mt[pairs[:, 1]])
  return float(np.sqrt(np.maximum(again_t, 0)).mean())
