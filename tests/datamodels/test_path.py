"""The errors that choose a penalty, against predictions in NumPy."""

import numpy as np
import pytest

from jaxdm import devices, matrices
from jaxdm.datamodels import path
from jaxdm.datamodels.config import FitConfig
from jaxdm.lasso.solver import Solver
from jaxdm.lasso.solver_plan import Plan

MODELS, EXAMPLES, TARGETS = 90, 8, 3


def test_penalties_fall_by_one_factor_from_the_largest_to_its_share() -> None:
  config = FitConfig(num_lambdas=4, lambda_min_ratio=0.008)
  found = path.lambdas(np.array([2.0, 0.5]), config)
  shares = [[1], [0.2], [0.04], [0.008]]
  np.testing.assert_allclose(found, shares * np.array([2, 0.5]), rtol=1e-12)
  one = path.lambdas(np.array([2.0]), FitConfig(num_lambdas=1))
  np.testing.assert_allclose(one, [[2]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block_rows", [MODELS, 6])
def test_errors_are_those_of_predictions_of_the_rows_that_are_held_out(
  weighted, block_rows, monkeypatch
) -> None:
  """Any weights, in the units of outcomes with means and variances of their own."""
  rng = np.random.default_rng(0)
  masks = rng.random((MODELS, EXAMPLES)) < [0.2] + [0.6] * (EXAMPLES - 1)
  outcomes = rng.normal(size=(MODELS, TARGETS)) * [1, 30, 0.1] + [5, -70, 0]
  weights = rng.uniform(0.1, 4, MODELS) if weighted else None
  config = FitConfig(validation_share=0.2)
  [fold] = path.folds(MODELS, config, weights)
  s_fit, s_check = (
    np.ones(len(rows)) if weights is None else weights[rows] for rows in fold[:2]
  )
  np.testing.assert_allclose(fold.check_weight, s_check.sum())
  monkeypatch.setattr(matrices, "BLOCK_BYTES", 8 * EXAMPLES * block_rows)
  # More lassos than targets: the rest of a tile is padding.
  plan = Plan("gram", 4 * devices.count(), devices.count())
  solver = Solver(masks, fold.fit, plan, fold.fit_weights)
  tile = solver.tile(outcomes[fold.fit])
  held_out = path.validation_errors(masks, fold, outcomes, solver, tile)
  unit_tn = rng.normal(size=(plan.tile, EXAMPLES)).astype(np.float32)
  found = held_out(devices.shard_rows(unit_tn, plan.lanes))
  mean = np.average(outcomes[fold.fit], axis=0, weights=s_fit)
  spread = np.average((outcomes[fold.fit] - mean) ** 2, axis=0, weights=s_fit) ** 0.5
  centred = masks[fold.check] - np.average(masks[fold.fit], axis=0, weights=s_fit)
  guess = mean + spread * (centred @ unit_tn[:TARGETS].T)
  expected = np.average((outcomes[fold.check] - guess) ** 2, axis=0, weights=s_check)
  assert found.dtype == np.float64 and found.shape == (TARGETS,)
  np.testing.assert_allclose(found, expected, rtol=2e-6)


class Walk:
  """A solver that notes what it is asked, and held-out errors that are given."""

  def __init__(self, errors_lt: np.ndarray):
    self.errors_lt, self.asked, self.starts = errors_lt, [], []

  def solve(self, tile, lam_t, start, *, tol, limit):
    assert (tol, limit) == (3e-3, 77)
    self.asked.append(lam_t)
    self.starts.append(None if start is None else start.w_tn)
    return type("State", (), {"w_tn": len(self.asked) - 1})


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_paths_end_after_so_many_penalties_without_a_smaller_error(patience) -> None:
  """A plain loop over random errors, of which some are equal and some no numbers."""
  rng = np.random.default_rng(patience)
  errors_lt = rng.integers(0, 30, (12, 40)) - np.arange(12)[:, None] * 2.0
  errors_lt[rng.random((12, 40)) < 0.05] = np.nan
  grid_lt = np.geomspace(1, 0.1, 12)[:, None] * rng.uniform(1, 2, 40)
  ends = []
  for row in errors_lt.T:
    best, since, end = np.inf, 0, 0
    while end < 12 and since < patience:
      since = 0 if row[end] < best else since + 1
      best = row[end] if row[end] < best else best
      end += 1
    ends.append(end)
  walk = Walk(errors_lt)
  config = FitConfig(patience=patience, path_tol=3e-3, max_steps=77)
  tile = type("Tile", (), {"size": 40})
  found = path.errors(walk, tile, grid_lt, lambda w: errors_lt[w], config)
  used = np.arange(12)[:, None] < ends
  np.testing.assert_array_equal(found, np.where(used, errors_lt, np.inf))
  assert len(walk.asked) == max(ends)
  # Each begins where the last one ended; a path that has ended keeps its last penalty.
  assert walk.starts == [None, *range(max(ends) - 1)]
  for place, lam_t in enumerate(walk.asked):
    last = np.minimum(place, np.array(ends) - 1)
    np.testing.assert_array_equal(lam_t, grid_lt[last, np.arange(40)])
