"""Scores of training examples by the methods of the registry."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxdm import progress as progress_lib
from jaxdm import tiling
from jaxdm.attribution import full_data, gradient
from jaxdm.attribution.registry import METHODS, Method
from jaxdm.attribution.scores import add_scores
from jaxdm.errors import UserError, check_count
from jaxdm.training.trainer import Trainer

_TILE_TARGETS = 1024


def attribution_scores(
  trainer: Trainer,
  methods: Sequence[str],
  num_models: int,
  *,
  damping: float = 0.2,
  moments: int = 12,
  progress: progress_lib.Progress = progress_lib.silent,
) -> dict[str, np.ndarray]:
  """How much each training example supports each target, by several methods at once.

  All methods that need models share the same ones, which are trained on all data.

  >>> import jaxdm
  >>> shirts = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 20, 10)
  >>> config = jaxdm.TrainConfig(epochs=4, batch_size=10)
  >>> trainer = jaxdm.Trainer(shirts, config, network="linear")
  >>> scores = jaxdm.attribution_scores(trainer, ["influence", "random"], num_models=2)
  >>> scores["influence"].shape
  (20, 40)

  Args:
    trainer: trains the models, and has the data.
    methods: some of 'influence', 'trak', 'tracin', 'similar', 'close', 'svm', 'pixels'
      and 'random' (see `attribution.registry`).
    num_models: models on all data whose scores are averaged, at least 2.
    damping: added to TRAK's and influence functions' matrices, as a multiple of an
      average example's part in them; in [1e-4, 1e10].
    moments: at how many moments of training, evenly spread, TRAK and influence functions
      are computed; 1: at the end of training only. There are no more than steps.
    progress: called with (models done, models in all).

  Returns:
    By method, float32[t, n]; the highest scores support a target most. Those of influence
    functions are in logits, all others in units of their own.

  Raises:
    UserError: on a method that is not known or makes no scores by itself, a damping out
      of its range, less than one moment or two models, or if fewer than 2 models
      converge.
  """
  gradient.check_damping(damping)
  moments = check_count("moments", moments)
  names = [name for name, one in METHODS.items() if one.terms or one.rows]
  methods = tuple(methods)
  wrong = [name for name in methods if name not in names]
  if wrong or len(set(methods)) < len(methods):
    raise UserError("methods", f"must be some of {', '.join(names)}, got {list(methods)}")
  shape = len(trainer.target_labels), len(trainer.labels)
  totals = {name: np.zeros(shape, np.float32) for name in methods if METHODS[name].terms}
  if totals:
    num_models = check_count("num_models", num_models, 2)
    add_full_data_scores(
      trainer, totals, num_models, damping=damping, moments=moments, progress=progress
    )
  row_scores = {
    name: rows(trainer)[:] for name in methods if (rows := METHODS[name].rows)
  }
  both = totals | row_scores
  return {name: both[name] for name in methods}


def add_full_data_scores(
  trainer: Trainer,
  totals_tn: Mapping[str, np.ndarray],
  num_models: int,
  *,
  damping: float,
  moments: int,
  progress: progress_lib.Progress = progress_lib.silent,
) -> np.ndarray:
  """Trains models on all data and averages what methods make of each.

  Beside the scores, which may be memory maps, the host holds a tile of 1,024 targets, and
  a device the gradients of the models of one call at one moment of training, and for each
  method as many numbers again.

  Args:
    trainer: trains them.
    totals_tn: by method, float32[t, n] of zeros; they become the scores.
    num_models: models to train; one that diverges is left out from then on.
    damping: see `attribution_scores`.
    moments: see `attribution_scores`.
    progress: called with (models done, models in all).

  Returns:
    float32[r, t, k] logits of the targets under the models that converged.

  Raises:
    UserError: if fewer than 2 models converge.
  """
  moments = min(moments, full_data.most_moments(trainer))
  sums = {name: _Sum(METHODS[name], x, moments) for name, x in totals_tn.items()}
  all_moments = {x for one in sums.values() if one.method.gradients for x in one.moments}
  logits, doubt_n, done = [], np.zeros(len(trainer.labels)), 0
  progress(0, num_models)
  for snapshots in full_data.snapshots(trainer, num_models, all_moments):
    finite = [snapshot for snapshot in snapshots if snapshot.converged()]
    for one in sums.values():
      one.add(finite, damping)
    if snapshots[0].moment == 1:
      logits += [last.outputs.logits_tk for last in finite if last.outputs]
      for last in finite:
        if last.gradients:
          doubt_n += np.asarray(jax.nn.sigmoid(-last.gradients.odds_n))
      done += len(snapshots)
      progress(done, num_models)
    del snapshots, finite  # Before the next are computed.
  if len(logits) < 2:
    raise UserError(
      "peak_learning_rate",
      f"is too large: {num_models - len(logits)} of {num_models} models on all data "
      "diverged",
    )
  for one in sums.values():
    one.finish(doubt_n / len(logits))
  return np.stack(logits)


class _Sum:
  """The terms of a method, added up.

  Attributes:
    method: the entry of the registry.
    moments: shares of training at which it has terms.
  """

  def __init__(self, method: Method, total_tn: np.ndarray, moments: int):
    """Begins with `total_tn`, float32 zeros, which become the scores."""
    self.method, self.moments = method, method.moments(moments)
    self._total_tn, self._terms = total_tn, 0
    self._units: list[float] = []

  def add(self, snapshots: Sequence[full_data.Snapshot], damping: float) -> None:
    """Adds the terms of some models at one moment, if the method has any there."""
    assert self.method.terms is not None
    here = [one for one in snapshots if one.moment in self.moments]
    terms = [term for one in here for term in self.method.terms(one, damping)]
    terms = [term for term in terms if np.isfinite(term.unit)]
    add_scores(self._total_tn, terms)
    self._terms += len(terms)
    if here and here[0].moment == max(self.moments):
      self._units += [float(term.unit) for term in terms]

  def finish(self, doubt_n: np.ndarray) -> None:
    """Turns the sum into the mean, in the unit of the last moment.

    Raises:
      UserError: if no model has finite gradients there.
    """
    if not self._units:
      raise UserError(
        "peak_learning_rate",
        "is too large: the gradients of all models overflow; or damping is too small",
      )
    factor_n = np.full(len(doubt_n), np.mean(self._units) / self._terms, np.float32)
    if self.method.by_doubt:
      factor_n *= doubt_n.astype(np.float32)
    for part in tiling.tiles(len(self._total_tn), _TILE_TARGETS):
      self._total_tn[part] *= factor_n
