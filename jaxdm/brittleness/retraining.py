"""Margins of models on edited training sets, by any function that trains."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdm import matrices
from jaxdm import progress as progress_lib
from jaxdm.brittleness.cases import Case

Changes = Sequence[tuple[Case, int]]
# From changes to masks bool[m, n] and labels int[m, n].
Edit = Callable[[Changes], tuple[np.ndarray, np.ndarray]]


class Retrain(Protocol):
  """Trains models and returns their margins; `jaxdm.Trainer` is one, and any function.

  >>> import numpy as np
  >>> def retrain(masks, labels, seeds):  # Nearest class means of -2, -1, 1 and 2.
  ...   margins = np.zeros((len(masks), 1))
  ...   for row, (mask, label) in enumerate(zip(masks, labels)):
  ...     x, y = np.array([-2.0, -1, 1, 2])[mask], label[mask]
  ...     margins[row] = abs(1.5 - x[y == 0].mean()) - abs(1.5 - x[y == 1].mean())
  ...   return margins
  >>> retrain(np.ones((1, 4), bool), np.array([[0, 0, 1, 1]]), np.array([0]))
  array([[3.]])

  It may take a keyword-only argument `progress`, which it calls with (models done, models
  in this call). If it has an attribute `column_targets`, int[u], its margins have columns
  for these targets only, in that order.
  """

  def __call__(self, masks: np.ndarray, labels: np.ndarray, seeds: np.ndarray) -> Any:
    """Margins of m models.

    Args:
      masks: bool[m, n], which examples each model is trained on.
      labels: int[m, n], the labels to train with, of the type in which a search was
        given them.
      seeds: int[m] in [0, 2**32), of all that is random in a model's training.

    Returns:
      float[m, t], correct-class margins in logits (or another score that is positive
      where the prediction is right); not finite where training diverged.
    """
    ...


class TrainChanges:
  """Margins of the changed targets, by a `retrain` function and an edit."""

  def __init__(self, retrain: Retrain, edit: Edit, num_targets: int):
    """Takes any function; its margins are checked as they come.

    Args:
      retrain: see `Retrain`.
      edit: makes training sets of changes.
      num_targets: t.
    """
    self._retrain, self._edit, self._num_targets = retrain, edit, num_targets

  def __call__(
    self,
    changes: Changes,
    seeds: np.ndarray,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> np.ndarray:
    """The margin of each change's own target, float[m]."""
    masks, labels = self._edit(changes)
    margins_mt = margins_of(
      self._retrain, masks, labels, seeds, self._num_targets, progress
    )
    place_of = {t: i for i, t in enumerate(targets_of(self._retrain, self._num_targets))}
    places = [place_of.get(case.target) for case, _ in changes]
    if None in places:
      missing = sorted({case.target for case, _ in changes} - place_of.keys())
      raise ValueError(f"retrain returns no margins of targets {missing}")
    return margins_mt[np.arange(len(changes)), np.array(places)]


def targets_of(retrain: Retrain, num_targets: int) -> list[int]:
  """The targets whose margins a `retrain` function returns, in the order of columns.

  Raises:
    ValueError: on numbers that are not targets, or not different ones.
  """
  if not hasattr(retrain, "column_targets"):
    return list(range(num_targets))
  targets = np.asarray(retrain.column_targets)
  is_vector = targets.ndim == 1 and targets.dtype.kind in "iu"
  numbers = set(targets.tolist()) if is_vector else {-1}
  if len(numbers) < len(targets) or not numbers <= set(range(num_targets)):
    raise ValueError(
      f"retrain.column_targets must be different integers in [0, {num_targets}), got "
      f"{targets.tolist()}"
    )
  return [int(target) for target in targets]


def margins_of(
  retrain: Retrain,
  masks: np.ndarray,
  labels: np.ndarray,
  seeds: np.ndarray,
  num_targets: int,
  progress: progress_lib.Progress = progress_lib.silent,
) -> np.ndarray:
  """What a `retrain` function returns, checked: float[m, columns].

  Raises:
    ValueError: if it is of another shape, or no real numbers.
  """
  options: dict[str, Any] = {"progress": progress} if _takes_progress(retrain) else {}
  columns = len(targets_of(retrain, num_targets))
  margins = as_margins(retrain(masks, labels, seeds, **options), len(masks), columns)
  progress(len(masks), len(masks))
  return margins


def as_margins(output: Any, num_models: int, columns: int) -> np.ndarray:
  """What a `retrain` function has returned, as float[m, columns].

  Raises:
    ValueError: if it is of another shape, or no real numbers.
  """
  shape = num_models, columns
  try:
    margins = matrices.as_array("margins", output)
  except ValueError as error:
    raise ValueError(
      f"retrain must return margins float[m, t] = {list(shape)}: they "
      f"{str(error).removeprefix('margins ')}"
    ) from error
  if margins.shape != shape or margins.dtype.kind == "b":
    raise ValueError(
      f"retrain must return margins float[m, t] = {list(shape)}, got {margins.dtype} "
      f"{list(margins.shape)}"
    )
  return margins if margins.dtype.kind == "f" else margins.astype(np.float64)


def _takes_progress(retrain: Retrain) -> bool:
  """Whether a function has a keyword-only argument `progress`."""
  try:
    parameter = inspect.signature(retrain).parameters.get("progress")
  except (TypeError, ValueError):  # Of some functions written in C.
    return False
  return parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY
