"""The duality gap of a lasso, from its rows and by a search for the best dual point."""

import numpy as np


def gap(
  x_mn: np.ndarray, y_m: np.ndarray, w_n: np.ndarray, lam: float, factors_n: np.ndarray
) -> float:
  """Twice the smallest gap that a multiple of the residual proves.

  The dual of mean((y - Xw)^2) / 2 + lam * sum(v |w|) is the largest
  mean(y r) - mean(r^2) / 2 over r with |mean(x r)| <= lam v for each column x.

  Args:
    x_mn: centred columns.
    y_m: outcomes.
    w_n: the solution to judge.
    lam: the penalty.
    factors_n: v; columns of v = 0 are taken out of the residual first.
  """
  m, free = len(y_m), factors_n == 0
  residual = y_m - x_mn @ w_n
  primal = np.mean(residual**2) + 2 * lam * factors_n @ np.abs(w_n)
  part = np.linalg.lstsq(x_mn[:, free], residual)[0]
  point = residual - x_mn[:, free] @ part
  slopes = np.abs(x_mn[:, ~free].T @ point) / m
  most = np.min(lam * factors_n[~free] / slopes)
  low, high = -most, most
  for _ in range(9):  # Each time between the neighbours of the best of many.
    scales = np.linspace(low, high, 101)
    duals = 2 * scales * np.mean(y_m * point) - scales**2 * np.mean(point**2)
    best = duals.argmax()
    low, high = scales[max(best - 1, 0)], scales[min(best + 1, 100)]
  return float(primal - duals.max())
