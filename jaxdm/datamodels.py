"""Datamodels: lambda path, selection on held-out models, and how good they are."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import scipy.stats
from etils import epath

from jaxdm import Array, lasso, prng

_BOOTSTRAPS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """How datamodels are fitted.

  Attributes:
    num_lambdas: points of each target's path.
    lambda_min_ratio: the path's end, as a share of the target's lambda_max.
    validation_share: of the models, held out to choose lambda (and the penalty
      factors); the final fit uses them too.
    tol: relative duality gap of the final fit.
    path_tol: of the fits along the path, whose only use is the choice.
    max_steps: proximal-gradient steps at most, per lambda.
    seed: of the validation split.
  """

  num_lambdas: int = 20
  lambda_min_ratio: float = 0.02
  validation_share: float = 0.2
  tol: float = 1e-4
  path_tol: float = 1e-3
  max_steps: int = 5_000
  seed: int = 0

  def __post_init__(self) -> None:
    if self.num_lambdas < 1:
      raise ValueError(f"num_lambdas must be >= 1, got {self.num_lambdas}")
    for name in ("lambda_min_ratio", "validation_share"):
      if not 0 < getattr(self, name) < 1:
        raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")
    for name in ("tol", "path_tol"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Interval(NamedTuple):
  """An estimate and its bootstrap interval."""

  estimate: float
  low: float
  high: float


class Quality(NamedTuple):
  """How well datamodels predict models that they have not seen.

  Attributes:
    lds: linear datamodeling score: Spearman correlation over held-out models of
      predicted and true margin, per target, then averaged over targets.
    pooled_correlation: Pearson correlation over all (model, target) pairs at once.
      Much of it is targets having different mean margins; never compare it to lds.
    lds_t: float[t], each target's own score.
    num_models: held-out models, each trained once.
  """

  lds: Interval
  pooled_correlation: Interval
  lds_t: np.ndarray
  num_models: int


@dataclasses.dataclass(frozen=True)
class Datamodels:
  """T fitted datamodels, in the 0/1 basis: margin = weights . mask + intercept.

  Attributes:
    weights_tn: float32, what each training example's presence adds, in logits.
    intercepts_t: float32, in logits.
    lambdas_t: float32, the penalty chosen for each target.
    gap_t: float32, relative duality gap reached.
    choice_t: int32, which candidate of penalty factors was chosen.
  """

  weights_tn: np.ndarray
  intercepts_t: np.ndarray
  lambdas_t: np.ndarray
  gap_t: np.ndarray
  choice_t: np.ndarray

  def predict(self, masks_mn: np.ndarray) -> np.ndarray:
    """Expected margins, as float32[m, t], of models trained on these subsets."""
    return masks_mn.astype(np.float32) @ self.weights_tn.T + self.intercepts_t

  def evaluate(
    self, masks_mn: np.ndarray, margins_mt: np.ndarray, *, seed: int = 0
  ) -> Quality:
    """Scores the predictions on held-out models.

    Args:
      masks_mn: bool, subsets of models that the fit has not seen.
      margins_mt: float, their margins.
      seed: of the bootstrap.

    Returns:
      Quality; its intervals are 95 % bootstrap intervals over models, which
      leave the targets as they are.
    """
    predicted_mt = self.predict(masks_mn)
    rng = prng.generator_for(seed, "bootstrap")
    m = len(masks_mn)
    lds_t = columnwise_spearman(predicted_mt, margins_mt)
    lds, pooled = [], []
    for _ in range(_BOOTSTRAPS):
      rows = rng.integers(m, size=m)
      truth, guess = margins_mt[rows], predicted_mt[rows]
      lds.append(columnwise_spearman(guess, truth).mean())
      pooled.append(_pearson(guess.ravel(), truth.ravel()))
    return Quality(
      Interval(float(lds_t.mean()), *_central(lds)),
      Interval(_pearson(predicted_mt.ravel(), margins_mt.ravel()), *_central(pooled)),
      lds_t,
      m,
    )

  def top(self, target: int, k: int) -> np.ndarray:
    """The k training examples that support a target most, strongest first."""
    return np.argsort(-self.weights_tn[target], kind="stable")[:k]

  def save(self, path: str | epath.PathLike, *, overwrite: bool = False) -> None:
    """Writes an Orbax checkpoint, whole or not at all.

    Raises:
      ValueError: if there is one already and `overwrite` is not set.
    """
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(
        epath.Path(path).absolute(), dataclasses.asdict(self), force=overwrite
      )

  @classmethod
  def load(cls, path: str | epath.PathLike) -> "Datamodels":
    """Reads what `save` wrote, on any number of devices."""
    path = epath.Path(path).absolute()
    if not path.exists():
      raise FileNotFoundError(f"no fitted datamodels at {path}")
    with ocp.StandardCheckpointer() as checkpointer:
      # Restored as host arrays, so the devices of the writer do not matter.
      meta = checkpointer.metadata(path).item_metadata
      template = {
        name: np.empty(leaf.shape, leaf.dtype) for name, leaf in dict(meta).items()
      }
      tree = checkpointer.restore(path, template)
    return cls(**{name: np.asarray(value) for name, value in tree.items()})


def _central(draws: list[float]) -> tuple[float, float]:
  """The central 95 % of bootstrap draws."""
  low, high = np.quantile(draws, [0.025, 0.975])
  return float(low), float(high)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson correlation; 0 where one side is constant."""
  a, b = a - a.mean(), b - b.mean()
  norm = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / norm) if norm > 0 else 0.0


def columnwise_spearman(a_mt: np.ndarray, b_mt: np.ndarray) -> np.ndarray:
  """Spearman correlation of each column pair, as float[t]; 0 where one is constant."""
  ranks = [scipy.stats.rankdata(x, axis=0) for x in (a_mt, b_mt)]
  a, b = (r - r.mean(axis=0) for r in ranks)
  norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
  return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)


@functools.partial(jax.jit, static_argnames=("config",))
def _validation_errors(
  stats: lasso.Moments,
  masks_mn: Array,
  margins_mt: Array,
  grid_lt: Array,
  factors_tn: Array,
  config: FitConfig,
) -> Array:
  """Held-out mean squared error of every lambda, as float[l, t], warm-started."""
  masks = masks_mn.astype(jnp.float32)

  def one_lambda(start_tn: jax.Array, lam_t: Any) -> tuple[jax.Array, jax.Array]:
    weights, _, _ = lasso.solve(
      stats, lam_t, factors_tn, start_tn, tol=config.path_tol, max_steps=config.max_steps
    )
    intercepts = stats.mean_t - weights @ stats.mean_n
    errors = margins_mt - masks @ weights.T - intercepts
    return jnp.asarray(weights), jnp.mean(errors**2, axis=0)

  start = jnp.zeros(factors_tn.shape, jnp.float32)
  return jax.lax.scan(one_lambda, start, grid_lt)[1]


def lambda_path(top_t: Array, config: FitConfig) -> Array:
  """Geometric from each target's lambda_max down, as float[l, t]."""
  decay = jnp.geomspace(1.0, config.lambda_min_ratio, config.num_lambdas)
  return decay[:, None] * top_t


def fit_datamodels(
  masks_mn: np.ndarray,
  margins_mt: np.ndarray,
  *,
  config: FitConfig = FitConfig(),
  penalty_factors: Mapping[str, np.ndarray] | None = None,
  report: Callable[[str], Any] = lambda line: None,
) -> Datamodels:
  """Fits one sparse linear datamodel per target.

  For each candidate of penalty factors a path of lambdas is fitted to part of the
  models; each target keeps the lambda, and all targets together the candidate,
  with the smallest squared error on the rest; the fit is then repeated on all.

  Args:
    masks_mn: bool, which examples each model was trained on.
    margins_mt: float, correct-class margins in logits; finite.
    config: of the path and the choice.
    penalty_factors: candidates by name, each float[t, n] > 0. None: all ones, the
      published method.
    report: called with a line of text after each candidate.

  Returns:
    Datamodels.

  Raises:
    ValueError: on shapes that do not match, masks that are not 0/1, non-finite
      margins, or too few models to hold any out.
  """
  masks_mn, margins_mt = np.asarray(masks_mn), np.asarray(margins_mt, np.float32)
  _check_rows(masks_mn, margins_mt)
  (m, n), t = masks_mn.shape, margins_mt.shape[1]
  if penalty_factors is None:
    penalty_factors = {"ones": np.ones((t, n), np.float32)}
  factors = [jnp.asarray(v, jnp.float32) for v in penalty_factors.values()]
  for candidate in factors:
    lasso.check_penalty_factors(candidate, (t, n))
  held_out = round(config.validation_share * m)
  if held_out < 2 or m - held_out < 2:
    raise ValueError(f"{m} models are too few to hold {held_out} out for validation")

  order = prng.generator_for(config.seed, "validation").permutation(m)
  fit_rows, check_rows = np.sort(order[held_out:]), np.sort(order[:held_out])
  stats = lasso.moments(jnp.asarray(masks_mn[fit_rows]), margins_mt[fit_rows])
  best_error, best_lambda = [], []
  for name, candidate in zip(penalty_factors, factors, strict=True):
    grid = lambda_path(lasso.lambda_max(stats.corr_tn, candidate), config)
    errors = _validation_errors(
      stats, masks_mn[check_rows], margins_mt[check_rows], grid, candidate, config
    )
    row = jnp.nanargmin(errors, axis=0)
    best_error.append(np.asarray(errors[row, jnp.arange(t)]))
    best_lambda.append(np.asarray(grid[row, jnp.arange(t)]))
    explained = 1 - best_error[-1].sum() / margins_mt[check_rows].var(axis=0).sum()
    report(f"penalty factors {name}: validation R2 {explained:.4f}")
  # One choice for all targets: a choice per target costs more in noise than it
  # gains, the held-out rows being few.
  choice = int(np.argmin([error.mean() for error in best_error]))
  fit = lasso.fit_lasso(
    masks_mn,
    margins_mt,
    jnp.asarray(best_lambda[choice]),
    penalty_factors_tn=factors[choice],
    tol=config.tol,
    max_steps=config.max_steps,
  )
  return Datamodels(
    np.asarray(fit.weights_tn),
    np.asarray(fit.intercepts_t),
    best_lambda[choice],
    np.asarray(fit.gap_t),
    np.full(t, choice, np.int32),
  )


def _check_rows(masks_mn: np.ndarray, margins_mt: np.ndarray) -> None:
  """Raises ValueError on masks and margins that cannot be fitted."""
  if masks_mn.ndim != 2 or margins_mt.ndim != 2:
    raise ValueError(
      "masks must be [m, n] and margins [m, t], "
      f"got shapes {masks_mn.shape} and {margins_mt.shape}"
    )
  if len(masks_mn) != len(margins_mt):
    raise ValueError(f"masks have {len(masks_mn)} rows, margins {len(margins_mt)}")
  if masks_mn.dtype != bool and not np.isin(masks_mn, (0, 1)).all():
    raise ValueError("masks must be 0 or 1")
  bad = np.flatnonzero(~np.isfinite(margins_mt).all(axis=1))
  if bad.size:
    raise ValueError(f"margins of {bad.size} models are not finite, first row {bad[0]}")
