"""Candidates of a fit: how the weights follow from models under one prior.

Each judges its penalties on the models that a fold leaves out, and fits all models with
the penalties chosen. Both are done a tile of targets at a time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxdm.datamodels import path, posterior
from jaxdm.datamodels.outcomes import Outcomes
from jaxdm.datamodels.path import FitConfig
from jaxdm.datamodels.priors import Prior
from jaxdm.lasso import design
from jaxdm.lasso.result import Status
from jaxdm.lasso.solver import Solver
from jaxdm.margins import Margins

OfTile = Callable[[slice], dict[str, np.ndarray]]


class Models(NamedTuple):
  """The models that all candidates are fitted to.

  Attributes:
    masks_mn: bool.
    margins_mt: real, in logits.
    weights_m: float64, what each counts; None: 1.
    lost_t: bool, targets without margins.
    parts: the tiles of targets.
    solver: of the lassos of all models.
  """

  masks_mn: design.Matrix
  margins_mt: Margins
  weights_m: np.ndarray | None
  lost_t: np.ndarray
  parts: Sequence[slice]
  solver: Solver


class Candidate(Protocol):
  """One prior, and the fits under it."""

  def judge(self, fold: path.Fold, solver: Solver) -> OfTile:
    """Computes 'grid' and 'errors', each float64[lambdas, u], of a tile.

    Args:
      fold: models to fit to, and models to check on.
      solver: of the lassos of the models to fit to.
    """

  def choose(self, grid_lt: np.ndarray, errors_lt: np.ndarray) -> np.ndarray:
    """Each target's index of the penalty to use, int[t]."""

  def fit(self, lambdas_t: np.ndarray) -> OfTile:
    """Computes the arrays 'weights', 'intercepts', 'gap' and 'status' of a tile."""


def of_prior(models: Models, prior: Prior, config: FitConfig) -> Candidate:
  """The candidate of a prior."""
  outcomes = Outcomes(
    models.masks_mn,
    models.margins_mt,
    models.weights_m,
    models.lost_t,
    prior,
    models.parts,
  )
  if prior.covariance is None:
    return _Lasso(models, outcomes, config)
  return _Posterior(models, outcomes, prior.covariance, config)


class _Lasso:
  """A lasso for each target, with a penalty of its own."""

  def __init__(self, models: Models, outcomes: Outcomes, config: FitConfig):
    self._models, self._outcomes, self._config = models, outcomes, config

  def judge(self, fold: path.Fold, solver: Solver) -> OfTile:
    def judged(part: slice) -> dict[str, np.ndarray]:
      outcomes_mt = self._outcomes.outcomes(part)
      factors_tn = self._outcomes.factors(part)
      whole = self._models.solver.tile(outcomes_mt, factors_tn)
      grid_lt = path.lambdas(whole.lambda_max()[: part.stop - part.start], self._config)
      tile = solver.tile(outcomes_mt[fold.fit], factors_tn)
      held_out = path.held_out_errors(
        self._models.masks_mn, fold, outcomes_mt, solver, tile
      )
      errors_lt = path.errors(solver, tile, grid_lt, held_out, self._config)
      return {"grid": grid_lt, "errors": errors_lt}

    return judged

  def choose(self, grid_lt: np.ndarray, errors_lt: np.ndarray) -> np.ndarray:
    return errors_lt.argmin(axis=0)

  def fit(self, lambdas_t: np.ndarray) -> OfTile:
    def fitted(part: slice) -> dict[str, np.ndarray]:
      tile = self._models.solver.tile(
        self._outcomes.outcomes(part), self._outcomes.factors(part)
      )
      made = self._models.solver.finish(
        tile,
        lambdas_t[part],
        tol=self._config.tol,
        limit=self._config.max_steps,
        offset_tn=self._outcomes.offset(part),
      )
      return {k: v for k, v in made._asdict().items() if k != "constant_columns"}

    return fitted


class _Posterior:
  """The mean of a Gaussian posterior, with one penalty for all targets."""

  def __init__(
    self,
    models: Models,
    outcomes: Outcomes,
    covariance_nn: np.ndarray,
    config: FitConfig,
  ):
    self._models, self._outcomes = models, outcomes
    self._covariance, self._config = covariance_nn, config

  def judge(self, fold: path.Fold, solver: Solver) -> OfTile:
    made = posterior.Posterior(
      self._models.masks_mn, fold.fit, self._covariance, fold.fit_weights
    )
    grid_l = posterior.penalties(self._config.num_lambdas)

    def judged(part: slice) -> dict[str, np.ndarray]:
      outcomes_mt = self._outcomes.outcomes(part)
      errors_lt = made.errors(
        outcomes_mt[fold.fit],
        fold.check,
        fold.check_weights,
        outcomes_mt[fold.check],
        grid_l,
      )
      return {"grid": np.tile(grid_l[:, None], errors_lt.shape[1]), "errors": errors_lt}

    return judged

  def choose(self, grid_lt: np.ndarray, errors_lt: np.ndarray) -> np.ndarray:
    return np.full(errors_lt.shape[1], errors_lt.sum(axis=1).argmin())

  def fit(self, lambdas_t: np.ndarray) -> OfTile:
    rows = np.arange(len(self._models.margins_mt))
    made = posterior.Posterior(
      self._models.masks_mn, rows, self._covariance, self._models.weights_m
    )

    def fitted(part: slice) -> dict[str, np.ndarray]:
      outcomes_mt = self._outcomes.outcomes(part)
      [deviation_un] = made.weights(outcomes_mt, lambdas_t[:1])
      return {
        "weights": deviation_un + self._outcomes.offset(part),
        "intercepts": made.intercepts(outcomes_mt, deviation_un),
        "gap": np.zeros(len(deviation_un)),
        "status": np.full(len(deviation_un), Status.CONVERGED),
      }

    return fitted
