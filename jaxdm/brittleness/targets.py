"""Which targets are searched: those that models on all data get right, or wrong."""

from collections.abc import Sequence
from typing import NamedTuple

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


class Wording(NamedTuple):
  """How errors about targets are worded.

  Attributes:
    setting: that names targets.
    none: the error if no target has a positive margin.
    others: the error if some of the requested ones have none, with places for all of
      these and for the first.
  """

  setting: str
  none: str
  others: str


RIGHT = Wording(
  "targets",
  "models on all data get no target right, so that none can be searched",
  "models on all data get {} wrong",
)
WRONG = Wording(
  "targets",
  "models on all data get no target wrong, so that there is nothing to repair",
  "models on all data get {} right; find_removals is for those",
)


def choose_targets(
  margins_rt: np.ndarray,
  targets: Sequence[int] | np.ndarray | None,
  config: SearchConfig,
  wording: Wording = RIGHT,
) -> np.ndarray:
  """The targets to search, int[u], ascending; by default a sample of those that fit.

  Args:
    margins_rt: float, margins of r models trained on all data; negated ones where targets
      fit that these get wrong.
    targets: indices of the requested ones, or bool[t]; None: a sample.
    config: of the sample.
    wording: of the errors.

  Raises:
    UserError: if there is no target with a positive margin, or a requested one has none.
    ValueError: on targets that are not indices in range, or bool[t].
  """
  if targets is None:
    sample = sample_targets(margins_rt, config.num_targets, config.seed)
    if not sample.size:
      raise UserError(None, wording.none)
    return sample
  indices = _as_indices(targets, margins_rt.shape[1])
  unfit = indices[~right_targets(margins_rt)[indices]].tolist()
  if unfit:
    raise UserError(wording.setting, f": {wording.others.format(unfit, unfit[0])}")
  return indices


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
