"""Which size to train next: to learn more of the margins, or to verify a claim.

A claim at a size is worth the logarithm of how much smaller it is than the claim before.
"""

import numpy as np

from jaxdm.brittleness.margin_curve import MarginCurve

# Nothing is tried if the chance of passing at the largest size is smaller.
_HOPELESS = 0.05
# A first verification needs this chance of passing.
_LEAST_CHANCE = 0.15
# A probe must tell this much of the logarithm of the size.
_LEAST_PROGRESS = 0.03
# A verification costs as much as this change of the logarithm of the size.
_COST = 0.04
# Having no claim counts as needing so many times the largest size.
_NO_CLAIM = 20.0


def is_hopeless(curve: MarginCurve) -> bool:
  """Whether not even the largest size would pass."""
  return bool(curve.chances_to_pass()[:, -1].mean() < _HOPELESS)


def to_probe(curve: MarginCurve) -> int | None:
  """The index of the size to train one model at; None: another tells too little."""
  passes_ds = curve.chances_to_pass() > 0.5
  smallest_d = passes_ds.argmax(axis=1)[passes_ds.any(axis=1)]
  if not smallest_d.size:
    return len(curve.sizes) - 1
  index = int(np.median(smallest_d))
  deviation = np.log(curve.sizes[smallest_d]).std()
  variance, noise = curve.std(index) ** 2, curve.noise**2
  remaining = noise / (variance + noise)  # Of the variance, after one more model.
  progress = deviation * (1 - np.sqrt(remaining))
  return None if progress < _LEAST_PROGRESS else index


def to_verify(curve: MarginCurve, claim: int | None, remaining: int) -> int | None:
  """The index of the size to verify next; None: what is claimed is enough.

  It looks ahead to one further verification, since the case ends at the first that
  fails.

  Args:
    curve: what is known.
    claim: the smallest size that passed; None: none yet.
    remaining: verifications that may still follow, this one included.
  """
  if not remaining:
    return None
  sizes, passes_ds = curve.sizes, curve.chances_to_pass()
  now = _NO_CLAIM * sizes[-1] if claim is None else claim
  chance_s = passes_ds.mean(axis=0)
  value_s = chance_s * np.log(now / sizes) - _COST
  if remaining > 1:
    both_ss = passes_ds.T @ passes_ds / len(passes_ds)
    ratio_ss = np.log(np.divide.outer(sizes, sizes))
    further_ss = np.tril(both_ss * ratio_ss - _COST * chance_s[:, None], -1)
    value_s += further_ss.max(axis=1).clip(0)
  value_s[sizes >= now] = -np.inf
  best = int(np.argmax(value_s))
  if claim is None:
    return best if chance_s[best] >= _LEAST_CHANCE else None
  return best if value_s[best] > 0 else None
