"""The inputs of a fit of datamodels: checked, and in the form in which they are used."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdm import margins as margins_lib
from jaxdm import matrices, training_sets
from jaxdm.datamodels import posterior
from jaxdm.datamodels.priors import Prior
from jaxdm.errors import UserError, first_few
from jaxdm.margins import Margins
from jaxdm.storage import polling
from jaxdm.storage.matrix_view import MatrixView

_AT_ONCE = 2**28
_BLOCK_ROWS = 4096
# Weights are float32: of margins far beyond these they would be infinite, or 0.
_SMALLEST, _LARGEST = 1e-30, 1e30


def check_candidates(candidates: Any) -> dict[str, Prior]:
  """Priors by name; raises ValueError on anything else."""
  candidates = {"none": Prior()} if candidates is None else candidates
  if not isinstance(candidates, Mapping):
    kind = type(candidates).__name__
    raise ValueError(f"candidates must map names to Prior, got {kind}")
  for name, prior in candidates.items():
    if not isinstance(prior, Prior):
      kind = type(prior).__name__
      raise ValueError(f"candidates must map names to Prior, got {kind} as {name!r}")
    if prior.covariance_scores is not None and prior.factors is not None:
      raise ValueError(
        f"factors and covariance_scores exclude each other, got both in {name!r}"
      )
  return dict(candidates or {"none": Prior()})


def check_share(share: tuple[int, int], folder: Any) -> None:
  """Raises ValueError unless share is (i, N), with a folder for tiles if N > 1."""
  polling.check_share(share)
  if share[1] > 1 and folder is None:
    raise ValueError(
      f"share={share} needs a folder: the {share[1]} processes exchange tiles there"
    )


def check_covariances(
  candidates: Mapping[str, Prior], n: int, num_validation: int
) -> dict[str, Prior]:
  """Priors whose covariance scores are matrices.

  Args:
    candidates: priors by name.
    n: examples.
    num_validation: models of the largest validation fold.

  Raises:
    ValueError: on scores of another shape, or too little memory.
  """
  checked = dict(candidates)
  for name, prior in candidates.items():
    if prior.covariance_scores is None:
      continue
    matrix = matrices.as_matrix("covariance_scores", prior.covariance_scores)
    if matrix.shape[1] != n:
      raise ValueError(
        f"covariance_scores must be [s, {n}] in {name!r}, got {matrix.shape}"
      )
    posterior.check_room(n, num_validation)
    if isinstance(matrix, matrices.SparseRows):
      matrix = np.asarray(matrix[:])
    checked[name] = prior._replace(covariance_scores=matrix)
  return checked


def check_models(
  masks_mn: Any, margins_mt: Any, sample_weight: Any
) -> tuple[matrices.Matrix, Margins, np.ndarray | None, np.ndarray]:
  """Models that count, and bool[t], which targets have no margins.

  Models are masks of bool, margins, and weights as `matrices.as_weights`.

  Raises:
    UserError: on margins in a unit in which float32 cannot hold weights.
    ValueError: on what else cannot be fitted.
  """
  masks = matrices.as_matrix("masks", masks_mn)
  margins = _as_margins(margins_mt)
  m = masks.shape[0]
  if not min(*masks.shape, margins.shape[1]):
    raise ValueError(
      f"masks and margins must not be empty, got {masks.shape}, {margins.shape}"
    )
  if m != len(margins):
    raise ValueError(f"masks have {m} rows, margins {len(margins)}")
  rows, weights_m = matrices.as_weights(sample_weight, m)
  masks = as_bool(masks)
  margins = matrices.take_rows(margins, rows)
  models, targets = margins_lib.usable(margins)
  bad = rows[np.setdiff1d(np.arange(len(rows)), models)]
  if bad.size:
    raise ValueError(
      f"margins of {bad.size} models are not finite: rows {first_few(bad)}"
    )
  lacks_margins_t = np.ones(margins.shape[1], bool)
  lacks_margins_t[targets] = False
  _check_scale(margins, targets)
  return matrices.take_rows(masks, rows), margins, weights_m, lacks_margins_t


def _check_scale(margins_mt: Margins, targets: np.ndarray) -> None:
  """Raises UserError unless float32 can hold what is fitted to the margins of targets."""
  low_u, high_u = np.full(len(targets), np.inf), np.full(len(targets), -np.inf)
  for start in range(0, len(margins_mt), _BLOCK_ROWS):
    part_mu = margins_mt[start : start + _BLOCK_ROWS][:, targets].astype(np.float64)
    low_u = np.minimum(low_u, part_mu.min(axis=0))
    high_u = np.maximum(high_u, part_mu.max(axis=0))
  size_u, range_u = np.maximum(-low_u, high_u), high_u / 2 - low_u / 2
  wrong = (size_u > _LARGEST) | ((range_u > 0) & (range_u < _SMALLEST))
  if wrong.any():
    first = int(np.argmax(wrong))
    raise UserError(
      "margins",
      f"must be at most {_LARGEST:g} in size and differ by {_SMALLEST:g} or more, since "
      f"weights are float32; those of target {targets[first]} are from {low_u[first]:g} "
      f"to {high_u[first]:g}: divide them by their standard deviation",
    )


def _as_margins(margins_mt: Any) -> Margins:
  """Margins as an array, unless they are many and in a store."""
  if isinstance(margins_mt, MatrixView):
    return margins_mt[:] if np.prod(margins_mt.shape) < _AT_ONCE else margins_mt
  matrix = matrices.as_columns("margins", margins_mt)
  return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix[:])


def as_bool(masks_mn: matrices.Matrix) -> matrices.Matrix:
  """Masks of bool as they are; others packed. Raises UserError on other numbers."""
  if masks_mn.dtype == bool and not isinstance(masks_mn, matrices.SparseRows):
    return masks_mn

  blocks = matrices.blocks(masks_mn, np.arange(masks_mn.shape[0]))
  return training_sets.PackedMasks.of(
    training_sets.rows_of_masks(block, rows.start) for rows, block in blocks
  )
