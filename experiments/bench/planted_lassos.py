"""Lassos with known weights, and how far solutions are from the smallest objective."""

import dataclasses

import numpy as np

CHECKED_TARGETS = 12
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Case:
  """Planted lassos: 5 % of the weights are not 0, and explain 40 % of the variance.

  Attributes:
    masks: bool[m, n].
    outcomes: float64[m, t].
    lam_lt: float64, penalties.
    best_lt: float64, the smallest objectives known of the first targets, over those at 0.
  """

  masks: np.ndarray
  outcomes: np.ndarray
  lam_lt: np.ndarray
  best_lt: np.ndarray

  def first(self, t: int) -> "Case":
    """Its first t targets."""
    parts = self.outcomes[:, :t], self.lam_lt[:, :t], self.best_lt[:, :t]
    return Case(self.masks, *parts)


def _parts(rows: int) -> list[slice]:
  """Slices of rows, so that no copy of a large design is made whole."""
  return [slice(i, min(i + _BLOCK_ROWS, rows)) for i in range(0, rows, _BLOCK_ROWS)]


def make_case(shape: str, path_points: int, path_end: float) -> Case:
  """The case of a shape such as 300x1600x500.

  Args:
    shape: columns x rows x targets.
    path_points: penalties of every path.
    path_end: the last penalty over the first.
  """
  n, m, t = (int(part) for part in shape.split("x"))
  rng = np.random.default_rng(0)
  parts = _parts(m)
  blocks = (rng.random((part.stop - part.start, n), np.float32) for part in parts)
  masks = np.concatenate([draw < 0.5 for draw in blocks])
  weights = rng.normal(size=(t, n)) * (rng.random((t, n)) < 0.05)
  weights_nt = weights.astype(np.float32).T
  signal = np.concatenate([masks[part].astype(np.float32) @ weights_nt for part in parts])
  spread_t = np.where(signal.std(axis=0) > 0, signal.std(axis=0), 1.0)
  outcomes = signal + rng.normal(size=(m, t)) * spread_t * 1.5**0.5
  centred = outcomes - outcomes.mean(axis=0)
  products = sum(masks[part].astype(np.float32).T @ centred[part] for part in parts)
  top_t = np.abs(products).max(axis=0) / m
  ratios = np.geomspace(1, path_end, path_points)
  return Case(masks, outcomes, ratios[:, None] * top_t, np.zeros((len(ratios), 0)))


def objectives(case: Case, weights_ltn: np.ndarray) -> np.ndarray:
  """Objectives of the first targets, over those at 0, in float64, as [l, t]."""
  mean_n, m = case.masks.mean(axis=0), len(case.masks)
  weights_ltn = weights_ltn[:, :CHECKED_TARGETS].astype(np.float64)
  t = weights_ltn.shape[1]
  y_mt = case.outcomes[:, :t] - case.outcomes[:, :t].mean(axis=0)
  square_lt = np.float64(0)
  for part in _parts(m):
    left_ltm = y_mt[part].T - weights_ltn @ (case.masks[part] - mean_n).T
    square_lt = square_lt + (left_ltm**2).sum(axis=2) / m
  sizes_lt = np.abs(weights_ltn).sum(axis=2)
  null_t = (y_mt**2).sum(axis=0) / m / 2
  return np.asarray((square_lt / 2 + case.lam_lt[:, :t] * sizes_lt) / null_t)


def largest_distance(case: Case, weights_ltn: np.ndarray) -> float:
  """From the smallest objectives known, over the path and the first targets."""
  found_lt = objectives(case, weights_ltn)
  return float((found_lt - case.best_lt[:, : found_lt.shape[1]]).max())
