"""The lasso's benchmark on a toy size."""

import numpy as np
import pytest

from experiments import bench_lasso
from jaxdm import lasso


@pytest.mark.slow
@pytest.mark.parametrize("side", ["jaxdm", "sklearn", "celer", "skglm", "saga"])
def test_every_side_reaches_the_gap(side) -> None:
  if side in ("celer", "skglm"):
    pytest.importorskip(side)
  measured = bench_lasso._child(side, "12x40x6", 1e-3)
  assert 0 < measured["reached_gap"] <= 1e-3
  assert measured["targets_timed"] == 6 and measured["seconds"] > 0
  assert f"12x40x6 | 1e-03 | {side} | " in bench_lasso.table([measured])


def test_the_gap_that_all_sides_are_held_to_is_the_certified_one() -> None:
  case = bench_lasso.planted("12x40x3")
  lam_t = case.lam_lt[10]
  fit = lasso.fit_lasso(case.masks, case.outcomes, lam_t, tol=1e-3)
  one = bench_lasso.Case(case.masks, case.outcomes, lam_t[None])
  found = bench_lasso.largest_gap(one, fit.weights[None])
  np.testing.assert_allclose(found, fit.gap.max(), rtol=1e-5)
