"""Fitted datamodels, and what they predict."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdm import matrices, numerics, tiling
from jaxdm.datamodels import metrics
from jaxdm.datamodels.quality import Quality
from jaxdm.errors import UserError, check_count
from jaxdm.lasso.result import Status
from jaxdm.storage import checkpoint
from jaxdm.typing import Array

_TILE_TARGETS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Datamodels:
  """T fitted datamodels, in the 0/1 basis: margin = weights . mask + intercept.

  >>> import jaxdm, numpy as np
  >>> rng = np.random.default_rng(0)
  >>> masks = jaxdm.random_subsets(num_models=300, num_train=20, alpha=0.5, seed=0)
  >>> weights = np.zeros((1, 20))
  >>> weights[0, 3] = 1.0
  >>> margins = masks @ weights.T + 0.1 * rng.normal(size=(300, 1))
  >>> models = jaxdm.fit_datamodels(masks, margins)
  >>> models.top(target=0, k=1)
  array([3])
  >>> models.predict(np.ones(20, bool)).shape
  (1,)

  Attributes:
    weights_tn: float32, what each training example's presence adds, in logits.
    intercepts_t: float32, in logits.
    lambdas_t: float32, the penalty chosen for each target; of a prior with covariance
      scores a multiple of the mean eigenvalue (see `posterior`), infinite where the
      weights are the prior's.
    gap_t: float32, relative duality gap reached by a lasso; 0 for a posterior mean, which
      is computed in closed form.
    status_t: int8 of `result.Status`; NONFINITE for targets without margins: their
      weights are 0; their intercepts, lambdas and gaps are NaN.
    choice_t: int32, which candidate prior was chosen.
  """

  weights_tn: np.ndarray
  intercepts_t: np.ndarray
  lambdas_t: np.ndarray
  gap_t: np.ndarray
  status_t: np.ndarray
  choice_t: np.ndarray

  def predict(self, masks_mn: Any) -> np.ndarray:
    """Expected margins of models trained on these subsets.

    Args:
      masks_mn: bool[m, n], or numbers in [0, 1], of which a half counts as half of an
        example. Or one mask, [n].

    Returns:
      float32[m, t]; float32[t] of one mask.

    Raises:
      ValueError: on masks with another n than the weights, or with other numbers.
    """
    masks = matrices.as_real("masks", masks_mn)
    if masks.shape == self.weights_tn.shape[1:]:
      [margins_t] = self.predict(masks[None])
      return margins_t
    _check_shares(masks)
    margins_mt = predictions_by_subset(masks, self.weights_tn)
    margins_mt += self.intercepts_t
    return margins_mt

  def evaluate(self, masks_mn: Any, margins_mt: Any) -> Quality:
    """Scores the predictions on held-out models.

    Args:
      masks_mn: bool, subsets of models that the fit has not seen.
      margins_mt: real[m, t], their margins; a vector [m] is one target.

    Returns:
      Quality.

    Raises:
      ValueError: see `metrics.evaluate`; and on masks with another number of examples.
    """
    masks = matrices.as_matrix("masks", masks_mn)
    margins = np.asarray(matrices.as_columns("margins", margins_mt)[:])
    lacking = np.flatnonzero(self.status_t == Status.NONFINITE)
    if lacking.size:
      margins = margins.astype(np.promote_types(margins.dtype, np.float32))
      margins[:, lacking] = np.nan
    return metrics.evaluate(self.predict(masks), margins, masks)

  def top(self, target: int, k: int) -> np.ndarray:
    """The k training examples that support a target most, strongest first.

    Raises:
      UserError: on a target that does not exist, or a negative k.
    """
    target = check_count("target", target, 0, len(self.weights_tn) - 1)
    k = check_count("k", k, 0)
    return np.argsort(-self.weights_tn[target], kind="stable")[:k]

  def save(self, path: str | epath.PathLike, *, overwrite: bool = False) -> None:
    """Writes an Orbax checkpoint, whole or not at all.

    Args:
      path: of its folder; it may be in a bucket.
      overwrite: replace a checkpoint, or an empty folder.

    Raises:
      UserError: if there is something already and `overwrite` is not set, or it is
        neither a checkpoint nor an empty folder.
    """
    checkpoint.save(path, dataclasses.asdict(self), overwrite=overwrite)

  @classmethod
  def load(cls, path: str | epath.PathLike) -> "Datamodels":
    """Reads what `save` wrote, on any number of devices.

    Raises:
      FileNotFoundError: if there is nothing.
      UserError: if it is something else, or damaged.
    """
    arrays, names = checkpoint.load(path), [f.name for f in dataclasses.fields(cls)]
    if arrays.keys() != set(names):
      raise UserError(
        None,
        f"{path} is no checkpoint of datamodels: it must hold {', '.join(names)}, and "
        f"holds {', '.join(sorted(arrays))}",
      )
    return cls(**arrays)


def _check_shares(masks: matrices.Matrix) -> None:
  """Raises ValueError on masks of numbers that are not in [0, 1]."""
  if masks.dtype == bool or len(masks.shape) != 2:
    return
  for rows, block in matrices.blocks(masks, np.arange(masks.shape[0])):
    wrong = np.flatnonzero(~((block >= 0) & (block <= 1)).all(axis=1))
    if wrong.size:
      raise ValueError(
        f"masks must be bool, or in [0, 1], and are not in row {rows.start + wrong[0]}"
      )


@numerics.pinned()
def predictions(masks_mn: matrices.Matrix, weights_tn: matrices.Matrix) -> np.ndarray:
  """Masks times weights, as float32[m, t].

  Weights are read once, a tile of targets at a time; masks a block of rows at a time.

  Raises:
    ValueError: if masks are not [m, n] with the n of the weights.
  """
  t, n = weights_tn.shape
  if len(masks_mn.shape) != 2 or masks_mn.shape[1] != n:
    raise ValueError(
      f"masks must be [m, n] with n = {n} as in the weights, got shape "
      f"{tuple(masks_mn.shape)}"
    )
  m = masks_mn.shape[0]
  guess_mt = np.empty((m, t), np.float32)
  for part in tiling.tiles(t, _TILE_TARGETS):
    tile_un = jnp.asarray(weights_tn[part], jnp.float32)
    for rows, block in matrices.blocks(masks_mn, np.arange(m)):
      guess_mt[rows, part] = _product(block, tile_un)
  return guess_mt


def predictions_by_subset(
  masks_mn: matrices.Matrix, weights_tn: matrices.Matrix
) -> np.ndarray:
  """The same as `predictions`; models on the same subset cost one product together."""
  masks_mn = matrices.as_real("masks", masks_mn)
  if len(masks_mn.shape) == 2 and masks_mn.dtype == bool:
    ids_m = metrics.subset_ids(masks_mn)
    _, rows, subset_m = np.unique(ids_m, return_index=True, return_inverse=True)
    if len(rows) < len(subset_m):
      return predictions(matrices.take_rows(masks_mn, rows), weights_tn)[subset_m]
  return predictions(masks_mn, weights_tn)


@jax.jit
def _product(block: Array, weights_un: Array) -> Array:
  """float32[m, u]."""
  rows = block.astype(jnp.float32)
  return jnp.einsum("mn,un->mu", rows, weights_un, precision="highest")
