"""Candidates of a fit: each computes the weights under one prior.

A candidate judges its penalties on the models that a fold leaves out, and fits all models
with the penalties chosen. It does both for a tile of targets at a time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxdm import matrices
from jaxdm.datamodels import path, posterior
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.outcomes import Outcomes
from jaxdm.datamodels.priors import Prior
from jaxdm.lasso.result import Status
from jaxdm.lasso.solver import Solver
from jaxdm.margins import Margins

TileFunction = Callable[[slice], dict[str, np.ndarray]]


class FitData(NamedTuple):
  """The models that all candidates are fitted to.

  Attributes:
    masks_mn: bool.
    margins_mt: real, in logits.
    weights_m: float64, what each counts; None: 1.
    lacks_margins_t: bool, targets without margins.
    tiles: slices of targets.
    solver: of the lassos of all models.
  """

  masks_mn: matrices.Matrix
  margins_mt: Margins
  weights_m: np.ndarray | None
  lacks_margins_t: np.ndarray
  tiles: Sequence[slice]
  solver: Solver


class Candidate(Protocol):
  """One prior, and the fits under it."""

  def judge(self, fold: path.Fold, solver: Solver) -> TileFunction:
    """Computes 'grid' and 'errors', each float64[lambdas, u], of a tile.

    Args:
      fold: models to fit to, and models to check on.
      solver: of the lassos of the models to fit to.
    """

  def choose(self, errors_lt: np.ndarray) -> np.ndarray:
    """Each target's index of the penalty to use, int[t], from errors [lambdas, t]."""

  def fit(self, lambdas_t: np.ndarray) -> TileFunction:
    """Computes the arrays 'weights', 'intercepts', 'gap' and 'status' of a tile."""


def of_prior(data: FitData, prior: Prior, config: FitConfig) -> Candidate:
  """The candidate of a prior."""
  outcomes = Outcomes(
    data.masks_mn,
    data.margins_mt,
    data.weights_m,
    data.lacks_margins_t,
    prior,
    data.tiles,
  )
  if prior.covariance_scores is None:
    return _Lasso(data, outcomes, config)
  return _Posterior(data, outcomes, prior.covariance_scores, config)


class _Lasso:
  """A lasso for each target, with a penalty of its own."""

  def __init__(self, data: FitData, outcomes: Outcomes, config: FitConfig):
    self._data, self._outcomes, self._config = data, outcomes, config

  def judge(self, fold: path.Fold, solver: Solver) -> TileFunction:
    def judge_tile(part: slice) -> dict[str, np.ndarray]:
      outcomes_mt = self._outcomes.of_tile(part)
      factors_tn = self._outcomes.factors(part)
      top_t = self._data.solver.tile(outcomes_mt, factors_tn).lambda_max()
      grid_lt = path.lambdas(top_t[: part.stop - part.start], self._config)
      tile = solver.tile(outcomes_mt[fold.fit], factors_tn)
      masks_mn = self._data.masks_mn
      validate = path.validation_errors(masks_mn, fold, outcomes_mt, solver, tile)
      errors_lt = path.errors(solver, tile, grid_lt, validate, self._config)
      return {"grid": grid_lt, "errors": errors_lt}

    return judge_tile

  def choose(self, errors_lt: np.ndarray) -> np.ndarray:
    return errors_lt.argmin(axis=0)

  def fit(self, lambdas_t: np.ndarray) -> TileFunction:
    def fit_tile(part: slice) -> dict[str, np.ndarray]:
      solver, outcomes = self._data.solver, self._outcomes
      lassos = solver.finish(
        solver.tile(outcomes.of_tile(part), outcomes.factors(part)),
        lambdas_t[part],
        tol=self._config.tol,
        limit=self._config.max_steps,
        offset_tn=outcomes.offset(part),
      )
      return {k: v for k, v in lassos._asdict().items() if k != "constant_columns"}

    return fit_tile


class _Posterior:
  """The mean of a Gaussian posterior, with one penalty for all targets."""

  def __init__(
    self,
    data: FitData,
    outcomes: Outcomes,
    scores_sn: matrices.Matrix,
    config: FitConfig,
  ):
    self._data, self._outcomes, self._scores = data, outcomes, scores_sn
    self._multiples = posterior.penalties(config.num_lambdas)

  @functools.cached_property
  def _covariance(self) -> np.ndarray:
    """float64[n, n]."""
    return posterior.covariance(self._scores)

  def _of_models(
    self, rows_m: np.ndarray, weights_m: np.ndarray | None
  ) -> posterior.Posterior:
    """The posterior of some of the models."""
    masks_mn = self._data.masks_mn
    return posterior.Posterior(masks_mn, rows_m, self._covariance, weights_m)

  def judge(self, fold: path.Fold, solver: Solver) -> TileFunction:
    @functools.cache
    def model_and_checks() -> tuple[posterior.Posterior, np.ndarray]:
      model = self._of_models(fold.fit, fold.fit_weights)
      return model, model.project(fold.check)

    def judge_tile(part: slice) -> dict[str, np.ndarray]:
      model, check_cn = model_and_checks()
      outcomes_mt = self._outcomes.of_tile(part)
      errors_lt = model.errors(
        outcomes_mt[fold.fit],
        check_cn,
        outcomes_mt[fold.check],
        self._multiples,
        fold.check_weights,
      )
      grid_lt = np.tile(self._multiples[:, None], errors_lt.shape[1])
      return {"grid": grid_lt, "errors": errors_lt}

    return judge_tile

  def choose(self, errors_lt: np.ndarray) -> np.ndarray:
    return np.full(errors_lt.shape[1], errors_lt.sum(axis=1).argmin())

  def fit(self, lambdas_t: np.ndarray) -> TileFunction:
    @functools.cache
    def model_of_all() -> posterior.Posterior:
      return self._of_models(np.arange(len(self._data.margins_mt)), self._data.weights_m)

    def fit_tile(part: slice) -> dict[str, np.ndarray]:
      model, outcomes_mt = model_of_all(), self._outcomes.of_tile(part)
      offset_un = self._outcomes.offset(part)
      deviation_un = model.weights(outcomes_mt, lambdas_t[0])
      weights_un = (deviation_un + offset_un).astype(np.float32)
      finite_u = np.isfinite(weights_un).all(axis=1)
      return {
        "weights": weights_un,
        "intercepts": model.intercepts(outcomes_mt, weights_un - offset_un),
        "gap": np.where(finite_u, 0.0, np.nan),
        "status": np.where(finite_u, Status.CONVERGED, Status.UNCERTIFIED),
      }

    return fit_tile
