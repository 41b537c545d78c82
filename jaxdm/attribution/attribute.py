"""Scores of training examples by the methods of the registry."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxdm import progress as progress_lib
from jaxdm.attribution import full_data
from jaxdm.attribution.registry import METHODS
from jaxdm.attribution.scores import add_scores
from jaxdm.errors import UserError
from jaxdm.lasso import tiling
from jaxdm.training.trainer import Trainer

_TILE_TARGETS = 1024


def attribution_scores(
  trainer: Trainer,
  methods: Sequence[str],
  num_models: int,
  *,
  damping: float = 0.5,
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
    methods: some of 'influence', 'trak', 'tracin', 'similar', 'close', 'pixels' and
      'random' (see `attribution.registry`).
    num_models: models on all data whose scores are averaged, at least 2.
    damping: added to TRAK's and influence functions' matrices, as a multiple of an
      average example's part in them.
    progress: called with (models done, models in all).

  Returns:
    By method, float32[t, n]; the highest scores support a target most. Those of influence
    functions are in logits, all others in units of their own.

  Raises:
    UserError: on a method that is not known or makes no scores by itself, or if fewer
      than 2 models converge.
  """
  known = [name for name, one in METHODS.items() if one.terms or one.rows]
  wrong = [name for name in methods if name not in known]
  if wrong or len(set(methods)) < len(methods):
    raise UserError("methods", f"must be some of {', '.join(known)}, got {list(methods)}")
  shape = len(trainer.target_labels), len(trainer.labels)
  totals = {name: np.zeros(shape, np.float32) for name in methods if METHODS[name].terms}
  if totals:
    add_full_data_scores(trainer, totals, num_models, damping=damping, progress=progress)
  made = {name: rows(trainer)[:] for name in methods if (rows := METHODS[name].rows)}
  both = totals | made
  return {name: both[name] for name in methods}


def add_full_data_scores(
  trainer: Trainer,
  totals_tn: Mapping[str, np.ndarray],
  num_models: int,
  *,
  damping: float,
  progress: progress_lib.Progress = progress_lib.silent,
) -> np.ndarray:
  """Trains models on all data and averages what methods make of each.

  Beside the scores, which may be memory maps, the host holds a tile of 1,024 targets, and
  a device the gradients of a chunk of models at four points of training.

  Args:
    trainer: trains them.
    totals_tn: by method, float32[t, n] of zeros; they become the scores.
    num_models: models to train; those that diverge are left out.
    damping: see `attribution_scores`.
    progress: called with (models done, models in all).

  Returns:
    float32[r, t, k] logits of the targets under the models that converged.

  Raises:
    UserError: if fewer than 2 models converge.
  """
  t, n = len(trainer.target_labels), len(trainer.labels)
  logits, wrong_n, done = [], np.zeros(n), 0
  progress(0, num_models)
  moments = [moment for name in totals_tn for moment in METHODS[name].moments]
  for models in full_data.models(trainer, num_models, moments):
    whole = [model for model in models if np.isfinite(model.logits_tk).all()]
    for model in whole:
      logits.append(model.logits_tk)
      if last := model.gradients.get(1.0):
        wrong_n += np.asarray(jax.nn.sigmoid(-last.odds_n))
    for name, total_tn in totals_tn.items():
      terms_of = METHODS[name].terms
      assert terms_of is not None
      add_scores(total_tn, [term for model in whole for term in terms_of(model, damping)])
    done += len(models)
    progress(done, num_models)
  if len(logits) < 2:
    raise UserError(
      "peak_learning_rate",
      f"is too large: {num_models - len(logits)} of {num_models} "
      "models on all data diverged",
    )
  for name, total_tn in totals_tn.items():
    factor_n = wrong_n / len(logits) if METHODS[name].by_doubt else np.ones(n)
    for part in tiling.tiles(t, _TILE_TARGETS):
      total_tn[part] *= factor_n.astype(np.float32)
      total_tn[part] /= len(logits)
  return np.stack(logits)
