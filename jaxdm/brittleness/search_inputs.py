"""The inputs of a search: checked, completed by models on all data, turned into cases."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdm import labels as labels_lib
from jaxdm import matrices, prng
from jaxdm import progress as progress_lib
from jaxdm.attribution import registry
from jaxdm.brittleness import margin_curve
from jaxdm.brittleness.cases import Case, make_cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.margin_curve import BaseMargins
from jaxdm.brittleness.retraining import Retrain, margins_of, targets_of
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError

# Trained on all data where a caller has no margins of such models: enough to see which
# targets are right, and how skewed their margins are.
BASE_MODELS = 16


class SearchInputs(NamedTuple):
  """The examples, the targets, and the models on all data.

  Attributes:
    labels: int[n], of the training examples, of the type that they were given in.
    target_labels: int[t].
    base_margins_rt: float, margins of r models on all data; NaN where there are none.
  """

  labels: np.ndarray
  target_labels: np.ndarray
  base_margins_rt: np.ndarray

  @property
  def base(self) -> BaseMargins:
    """Mean, spread and skewness of each target's margins in the models on all data."""
    return margin_curve.describe(self.base_margins_rt)


def make_inputs(
  retrain: Retrain,
  labels: Any,
  target_labels: Any,
  base_margins: Any,
  progress: progress_lib.Progress,
) -> SearchInputs:
  """Checks labels, and trains models on all data where no margins of such are given.

  Raises:
    UserError: on labels that are not class numbers.
    ValueError: on margins of another shape.
  """
  labels = labels_lib.as_classes("labels", labels, np.size(labels))
  target_labels = labels_lib.as_classes("target_labels", target_labels, len(labels))
  n, t = len(labels), len(target_labels)
  if base_margins is not None:
    base_rt = matrices.as_array("base_margins", base_margins)
    if base_rt.ndim != 2 or base_rt.shape[1] != t or not len(base_rt):
      raise ValueError(f"base_margins must be [r, t] with t = {t}, got {base_rt.shape}")
    if base_rt.dtype.kind != "f":  # Unsigned integers cannot be negated.
      base_rt = base_rt.astype(np.float64)
    return SearchInputs(labels, target_labels, base_rt)
  masks = np.ones((BASE_MODELS, n), bool)
  seeds = prng.model_seeds("base", BASE_MODELS)
  margins = margins_of(
    retrain, masks, np.broadcast_to(labels, masks.shape), seeds, t, progress
  )
  margins = margins[np.isfinite(margins).any(axis=1)]
  if len(margins) < 2:
    raise UserError(
      "retrain",
      f": {BASE_MODELS - len(margins)} of {BASE_MODELS} models on all data have no "
      "finite margins; a Trainer's models diverge if peak_learning_rate is too large",
    )
  base_rt = np.full((len(margins), t), np.nan)
  base_rt[:, targets_of(retrain, t)] = margins
  return SearchInputs(labels, target_labels, base_rt)


def cases_of(
  scores: Any,
  inputs: SearchInputs,
  targets: np.ndarray,
  config: SearchConfig,
  *,
  same_class: bool = False,
) -> list[Case]:
  """One case a target and method.

  Args:
    scores: see `find_removals`.
    inputs: the examples and targets.
    targets: int[u].
    config: which sizes to try.
    same_class: choose among the target's class by every method; else by those only that
      say nothing of other classes (`attribution.registry`).
  """
  cases: list[Case] = []
  for name, scores_tn, full_t in named_scores(scores, len(inputs.labels)):
    check_has_models(name, full_t, targets)
    cases += make_cases(
      name,
      scores_tn,
      targets,
      inputs.labels,
      inputs.target_labels,
      config=config,
      same_class=same_class or not registry.all_classes(name),
      predicted_full_t=full_t,
    )
  return cases


def named_scores(
  scores: Any, num_train: int
) -> Iterator[tuple[str, matrices.Matrix, np.ndarray | None]]:
  """Each method's name, its scores [t, n], and margins float[t] that it predicts.

  Only datamodels predict margins, of models on all data; of other methods they are None.

  Args:
    scores: see `find_removals`.
    num_train: n.

  Raises:
    ValueError: if there are no methods, or scores are not real numbers.
  """
  by_name = scores if isinstance(scores, Mapping) else {"scores": scores}
  if not by_name:
    raise ValueError("scores must name at least one method")
  for name, one in by_name.items():
    if isinstance(one, Datamodels):
      yield name, one.weights_tn, one.predict(np.ones(num_train, bool))
    else:
      yield name, matrices.as_real(f"scores of {name}", one), None


def check_has_models(name: str, full_t: np.ndarray | None, targets: np.ndarray) -> None:
  """Raises UserError on a target of which there is no datamodel.

  Args:
    name: of the method.
    full_t: float[t], margins that it predicts on all data; None: it predicts none.
    targets: int[u].
  """
  if full_t is None:
    return
  lacking = targets[~np.isfinite(full_t[targets])]
  if lacking.size:
    raise UserError(
      "targets",
      f": {name} has no datamodel of target {lacking[0]}, whose margins are not finite; "
      "leave it out",
    )
