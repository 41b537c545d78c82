"""Which targets are searched: those that models on all data get right, or wrong."""

from collections.abc import Sequence

import numpy as np

from jaxdm import prng
from jaxdm.brittleness.config import SearchConfig
from jaxdm.errors import UserError


def right_targets(base_margins_rt: np.ndarray) -> np.ndarray:
  """Targets with a positive mean margin, right in half of the models, as bool[t].

  Of negated margins: the targets that models get wrong. Margins that are not finite, of
  models that diverged, do not count; a target without any other is not right.
  """
  finite_rt = np.isfinite(base_margins_rt)
  known_rt = np.where(finite_rt, base_margins_rt, 0)
  often = 2 * (known_rt > 0).sum(axis=0) >= finite_rt.sum(axis=0)
  return (known_rt.sum(axis=0) > 0) & often


def sample_targets(
  base_margins_rt: np.ndarray, num_targets: int, seed: int
) -> np.ndarray:
  """A uniform sample of the targets that full-data models get right (`right_targets`).

  Args:
    base_margins_rt: float, margins of r models trained on all data; negated ones for a
      sample of the targets that they get wrong.
    num_targets: sample size; all eligible targets if there are fewer.
    seed: of the sample.

  Returns:
    int[...], ascending.
  """
  eligible = np.flatnonzero(right_targets(base_margins_rt))
  rng = prng.generator_for(seed, "targets")
  return np.sort(rng.permutation(eligible)[:num_targets])


def select_targets(
  margins_rt: np.ndarray,
  targets: Sequence[int] | np.ndarray | None,
  config: SearchConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """The requested targets, or a sample, and those of them that do not fit.

  Args:
    margins_rt: float, margins of r models trained on all data; negated ones where targets
      fit that these get wrong.
    targets: indices of the requested ones, or bool[t]; None: a sample of those that fit.
    config: of the sample.

  Returns:
    The targets, int[u], ascending, and which of them have no positive margin.

  Raises:
    ValueError: on targets that are not indices in range, or bool[t].
  """
  if targets is None:
    sample = sample_targets(margins_rt, config.num_targets, config.seed)
    return sample, sample[:0]
  indices = _as_indices(targets, margins_rt.shape[1])
  return indices, indices[~right_targets(margins_rt)[indices]]


def choose_targets(
  base_margins_rt: np.ndarray,
  targets: Sequence[int] | np.ndarray | None,
  config: SearchConfig,
) -> np.ndarray:
  """The targets to search, int[u], ascending; by default some of those that are right.

  Args:
    base_margins_rt: float, margins of r models trained on all data.
    targets: indices of the requested ones, or bool[t]; None: a sample.
    config: of the sample.

  Raises:
    UserError: if models on all data get no target right, or a requested one wrong.
    ValueError: on targets that are not indices in range, or bool[t].
  """
  return _choose(
    base_margins_rt,
    targets,
    config,
    none="no target right, so that none can be searched",
    others="{} wrong",
  )


def choose_wrong_targets(
  base_margins_rt: np.ndarray,
  targets: Sequence[int] | np.ndarray | None,
  config: SearchConfig,
) -> np.ndarray:
  """The targets to repair, int[u], ascending; by default some of those that are wrong.

  Args:
    base_margins_rt: float, margins of r models trained on all data.
    targets: indices of the requested ones, or bool[t]; None: a sample.
    config: of the sample.

  Raises:
    UserError: if models on all data get no target wrong, or a requested one right.
    ValueError: on targets that are not indices in range, or bool[t].
  """
  return _choose(
    -base_margins_rt,
    targets,
    config,
    none="no target wrong, so that there is nothing to repair",
    others="{} right; find_removals is for those",
  )


def _choose(
  margins_rt: np.ndarray,
  targets: Sequence[int] | np.ndarray | None,
  config: SearchConfig,
  *,
  none: str,
  others: str,
) -> np.ndarray:
  """Selects targets; raises UserError if there are none, or some that do not fit."""
  selected, unfit = select_targets(margins_rt, targets, config)
  if unfit.size:
    text = others.format(unfit.tolist())
    raise UserError("targets", f": models on all data get {text}")
  if targets is None and not selected.size:
    raise UserError(None, f"models on all data get {none}")
  return selected


def _as_indices(targets: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
  """Which of so many targets are requested, int[u], ascending.

  Raises:
    ValueError: on anything but integers in [0, count), or bool[count].
  """
  values = np.asarray(targets)
  if values.dtype == bool and values.shape == (count,):
    return np.flatnonzero(values)
  if values.ndim > 1 or (values.size and values.dtype.kind not in "iu"):
    raise ValueError(
      f"targets must be indices, integers in [0, {count}), or bool [{count}], which "
      f"selects; got {values.dtype} {list(values.shape)}"
    )
  outside = np.unique(values[(values < 0) | (values >= count)])
  if outside.size:
    raise ValueError(f"targets must be in [0, {count}), got {outside.tolist()}")
  return np.unique(values).astype(int)
