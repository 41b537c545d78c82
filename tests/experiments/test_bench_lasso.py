"""The lasso's benchmark on a toy size."""

import dataclasses

import numpy as np
import pytest
from sklearn import linear_model

from experiments.bench import lasso
from experiments.bench.planted_lassos import Case, largest_distance


@pytest.mark.slow
@pytest.mark.parametrize("side", ["jaxdm", "sklearn", "celer", "skglm", "saga"])
def test_every_side_comes_as_close_as_asked(side) -> None:
  if side in ("celer", "skglm"):
    pytest.importorskip(side)
  case = lasso._make_case("12x40x6")
  best_lt = lasso.smallest_objectives(case)
  case = dataclasses.replace(case, best_lt=best_lt)
  measured = lasso._child(side, case, "12x40x6", 1e-3)
  assert measured["reached_distance"] <= 1e-3
  assert measured["targets_timed"] == 6 and measured["seconds"] > 0
  assert f"12x40x6 | 1e-03 | {side} | " in lasso.table([measured])


def test_sides_are_judged_by_the_objective_itself() -> None:
  case = lasso._make_case("12x40x3")
  lam_t = case.lam_lt[10]
  one = Case(case.masks, case.outcomes, lam_t[None], np.zeros((1, 3)))
  one = dataclasses.replace(one, best_lt=lasso.smallest_objectives(one))
  worst = []
  for t in range(3):
    peer = linear_model.Lasso(alpha=lam_t[t], tol=1e-12)
    y = case.outcomes[:, t]
    peer.fit(case.masks, y)

    def objective(w, y=y, lam=lam_t[t]) -> float:
      left = y - case.masks @ w
      return np.var(left) / 2 + lam * np.abs(w).sum()

    found = objective(np.full(12, 0.05)) - objective(peer.coef_)
    worst.append(found / (y.var() / 2))
  weights = np.full((1, 3, 12), 0.05)
  np.testing.assert_allclose(largest_distance(one, weights), max(worst), rtol=1e-6)
