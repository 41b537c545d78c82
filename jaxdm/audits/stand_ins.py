"""Pairs of training examples of which one can replace the other: near-duplicates."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from jaxdm import margins as margins_lib

_LEVEL = 0.05
_BLOCK_EXAMPLES = 256
_BLOCK_MODELS = 4096
_MOST_PRODUCTS = 10**12
_LEAST_MODELS = 8
_MOST_PAIRS = 10


class Pair(NamedTuple):
  """Two examples of one label, of which each helps with the other if that is left out.

  Attributes:
    first: an example.
    second: another one.
    effect: what either adds to the margin of the other, the smaller of the two, in
      logits.
    z: the smaller of the two effects' ratios to their standard errors.
  """

  first: int
  second: int
  effect: float
  z: float


def find_pairs(masks: Any, margins: Any, labels: np.ndarray) -> list[Pair]:
  """Finds pairs with an effect of each on the other that chance does not explain.

  The effect of j on i is the mean margin of i over models with j and without i, less that
  over models without both (the influence of Feldman and Zhang, arXiv:2008.03703, between
  training examples, in logits). A pair counts if both effects are positive at the level
  of 5 % over all pairs (Bonferroni). It takes n * n * m products; of many models, only
  the first are read.

  Args:
    masks: bool[m, n], an array or packed.
    margins: float[m, n], an array or in a store.
    labels: int[n].

  Returns:
    At most 10 pairs, the strongest first.
  """
  n = len(labels)
  models, _ = margins_lib.usable(margins)
  models = models[: max(_LEAST_MODELS, _MOST_PRODUCTS // n**2)]
  level = _LEVEL / max(1, n * (n - 1) // 2)
  least = -scipy.special.ndtri(level)  # With fewer models, more is needed.
  effect_of: dict[tuple[int, int], tuple[float, float]] = {}
  for start in range(0, n, _BLOCK_EXAMPLES):
    part = slice(start, min(start + _BLOCK_EXAMPLES, n))
    effects_bn, z_bn, freedom_bn = _effects(masks, margins, models, part)
    same_bn = np.equal.outer(labels[part], labels)
    rows, columns = np.nonzero(same_bn & (z_bn > least))
    # Student's, with the degrees of freedom of the smaller group of models.
    chance = scipy.special.stdtr(freedom_bn[rows, columns], -z_bn[rows, columns])
    rows, columns = rows[chance < level], columns[chance < level]
    pairs = zip((start + rows).tolist(), columns.tolist(), strict=True)
    values = effects_bn[rows, columns].tolist(), z_bn[rows, columns].tolist()
    effect_of |= dict(zip(pairs, zip(*values, strict=True), strict=True))
  mutual = [
    Pair(i, j, *map(min, one, effect_of[j, i]))
    for (i, j), one in effect_of.items()
    if i < j and (j, i) in effect_of
  ]
  return sorted(mutual, key=lambda pair: -pair.z)[:_MOST_PAIRS]


def _effects(
  masks: Any, margins: Any, models: np.ndarray, part: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Effects [b, n] of all examples on some, their ratios to standard errors, and the
  models of the smaller group less 1.
  """
  with_j, total = np.zeros(1), np.zeros(1)
  for start in range(0, len(models), _BLOCK_MODELS):
    rows = models[start : start + _BLOCK_MODELS]
    masks_mn = np.asarray(masks[rows], np.float32)
    margins_mb = np.asarray(margins[rows, part], np.float64)
    out_mb = 1 - masks_mn[:, part]
    if not start:
      centre_b = (out_mb * margins_mb).sum(0) / np.maximum(out_mb.sum(0), 1)
      _, exponent_b = np.frexp(np.abs(margins_mb - centre_b).max(axis=0))
    # Near 1, where float32 holds them and their squares.
    gap_mb = np.ldexp(out_mb * (margins_mb - centre_b), -exponent_b).astype(np.float32)
    terms = np.stack([out_mb, gap_mb, gap_mb**2])
    with_j = with_j + terms.transpose(0, 2, 1) @ masks_mn
    total = total + terms.sum(axis=1)[:, :, None]
  without_j = total - with_j
  means, squared_errors = zip(*map(_mean_and_error, (with_j, without_j)), strict=True)
  effects = means[0] - means[1]
  with np.errstate(divide="ignore", invalid="ignore"):
    z = effects / np.sqrt(sum(squared_errors))
  freedom = np.maximum(np.minimum(with_j[0], without_j[0]) - 1, 1)
  effects = np.ldexp(effects, exponent_b[:, None])
  return effects, np.nan_to_num(z, posinf=0, neginf=0), freedom


def _mean_and_error(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means of numbers by their count, sum and sum of squares; squared standard errors."""
  count, first, second = sums
  safe = np.maximum(count, 2)
  mean = first / safe
  variance = np.maximum(second / safe - mean**2, 0) * safe / (safe - 1)
  return mean, np.where(count < _LEAST_MODELS, np.inf, variance / safe)
