"""The steps of the lasso against a plain loop, and their gap against a search for it."""

import jax
import numpy as np
import pytest
from support import duality

from jaxdm import devices
from jaxdm.lasso import design, fista

ROWS, COLUMNS = 40, 6


class Lassos:
  """Some lassos of one design with unpenalised columns: none, one and two of them."""

  def __init__(self, lam_t: np.ndarray, seed: int = 0):
    rng = np.random.default_rng(seed)
    t = len(lam_t)
    x = rng.normal(size=(ROWS, COLUMNS)) + rng.normal(size=(ROWS, 1))
    y = x @ rng.normal(size=(COLUMNS, t)) + rng.normal(size=(ROWS, t))
    self.x_mn, y = x - x.mean(axis=0), y - y.mean(axis=0)
    self.y_mt, self.lam_t = y / y.std(axis=0), lam_t
    self.factors_tn = rng.uniform(0.5, 2, (t, COLUMNS))
    self.gram_nn = self.x_mn.T @ self.x_mn / ROWS
    self.corr_tn = self.y_mt.T @ self.x_mn / ROWS
    free_tz = np.full((t, 2), COLUMNS, np.int32)
    basis_tzr, corr_trn = np.zeros((t, 2, 2)), np.zeros((t, 2, COLUMNS))
    for i in range(t):
      free = np.arange(i % 3) + 1
      size, self.factors_tn[i, free] = len(free), 0
      vectors, triangle = np.linalg.qr(self.x_mn[:, free])
      free_tz[i, :size] = free
      basis_tzr[i, :size, :size] = np.linalg.inv(triangle) * ROWS**0.5
      corr_trn[i, :size] = vectors.T @ self.x_mn / ROWS**0.5
    free_parts = free_tz, basis_tzr, corr_trn
    self.problem = fista.Problem(self.corr_tn, lam_t, self.factors_tn, *free_parts)

  def gaps(self, w_tn: np.ndarray) -> list[float]:
    rows = zip(self.y_mt.T, w_tn, self.lam_t, self.factors_tn, strict=True)
    return [duality.gap(self.x_mn, *row) for row in rows]

  def loop(
    self, t: int, start: np.ndarray, size: float, steps: int, tol: float
  ) -> tuple[np.ndarray, int]:
    """Greedy FISTA of Liang, Luo and Schoenlieb (2022): a solution, and its steps."""
    penalty = self.lam_t[t] * self.factors_tn[t]
    least, size = size, 1.3 * size
    w = ahead = start
    first = np.inf
    for done in range(steps):
      row = self.y_mt[:, t], w, self.lam_t[t], self.factors_tn[t]
      if tol > 0 and duality.gap(self.x_mn, *row) <= tol:
        return w, done
      moved = ahead - size * (self.gram_nn @ ahead - self.corr_tn[t])
      new = moved - np.clip(moved, -size * penalty, size * penalty)
      restart = (ahead - new) @ (new - w) > 0
      length = np.linalg.norm(new - w)
      first = length if done == 0 else first
      size = max(0.96 * size, least) if length > first else size
      w, ahead = new, (new if restart else 2 * new - w)
    return w, steps

  def solve(
    self,
    lipschitz: float,
    steps: int,
    tol: float = -1.0,
    start: fista.State | None = None,
    lanes: int = 1,
  ) -> fista.State:
    """The same by `fista.solve`, all at once."""
    tolerance, limit = np.float64(tol), np.int32(steps)
    shared = design.Gram(self.gram_nn), lipschitz, tolerance, limit, np.asarray(True)
    start = start or fista.begin(0 * self.corr_tn, 0 * self.corr_tn, lanes)
    return fista.solve(fista.SharedInputs(*shared), self.problem, start, lanes)


@pytest.mark.parametrize("lam", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.6, 4.0])
def test_the_gap_is_that_of_the_best_multiple_of_the_residual(lam, share) -> None:
  """Weights far too large leave residuals against the outcomes: multiples below 0."""
  lassos = Lassos(np.full(3, lam))
  best_nt = np.linalg.lstsq(lassos.x_mn, lassos.y_mt)[0]
  w_tn = share * best_nt.T + 0.01 * np.random.default_rng(1).normal(size=(3, COLUMNS))
  with jax.enable_x64(True):
    found_t = fista._gap_at(lassos.problem, w_tn, w_tn @ lassos.gram_nn)
  np.testing.assert_allclose(found_t, lassos.gaps(w_tn), rtol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 120])
@pytest.mark.parametrize("estimate", [1.0, 0.5])
def test_steps_are_those_of_greedy_fista(steps, estimate) -> None:
  """With half of the largest eigenvalue steps are too long, and become shorter."""
  lassos = Lassos(np.array([0.02, 0.05, 0.2]))
  lipschitz = estimate * np.linalg.eigvalsh(lassos.gram_nn).max()
  with jax.enable_x64(True):
    state = lassos.solve(lipschitz, steps)
    for _ in range(2):
      np.testing.assert_array_equal(state.steps_t, steps)
      np.testing.assert_allclose(state.gw_tn, state.w_tn @ lassos.gram_nn, atol=1e-12)
      start = np.asarray(state.w_tn)
      # Other penalties begin anew from these weights.
      lassos.lam_t = lassos.lam_t[::-1]
      lassos.problem = lassos.problem._replace(lam_t=lassos.lam_t)
      state = lassos.solve(lipschitz, steps, start=state)
      for t in range(3):
        expected, _ = lassos.loop(t, start[t], 1 / lipschitz, steps, -1)
        np.testing.assert_allclose(state.w_tn[t], expected, rtol=1e-9, atol=1e-12)


def test_finished_lassos_stay_where_they_are_and_leave_room(monkeypatch) -> None:
  """Eight lassos become four and then two, and end as each does alone."""
  monkeypatch.setattr(fista, "_LEAST_BUCKET", 2)
  monkeypatch.setattr(fista, "_BLOCK_STEPS", 5)
  sizes, take = [], fista._take

  def noted(tree, rows):
    sizes.append(len(rows))
    return take(tree, rows)

  monkeypatch.setattr(fista, "_take", noted)
  lassos = Lassos(np.geomspace(1, 0.001, 8))
  lipschitz = np.linalg.eigvalsh(lassos.gram_nn).max()
  fista._compile.cache_clear()
  with jax.enable_x64(True):
    state = lassos.solve(lipschitz, 300, tol=1e-6, lanes=min(2, devices.count()))
  fista._compile.cache_clear()
  alone = [lassos.loop(t, np.zeros(COLUMNS), 1 / lipschitz, 300, 1e-6) for t in range(8)]
  for t, (w_n, steps) in enumerate(alone):
    assert state.steps_t[t] == steps
    np.testing.assert_allclose(state.w_tn[t], w_n, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(state.gap_t, lassos.gaps(np.asarray(state.w_tn)), atol=1e-12)
  assert sizes == [4, 2], [steps for _, steps in alone]
