"""The models on all data: their predictions, and the scores that are made of them.

The models themselves are not stored. Logits and scores are computed while the models are
on the devices, and written to the folder `base_models` of the workdir.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.report_page import opening
from experiments.runtime.own_training import full_data_margins
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from experiments.runtime.workdir_models import BASE_MODELS
from jaxdm import margins
from jaxdm.attribution import registry
from jaxdm.attribution.attribute import add_full_data_scores
from jaxdm.attribution.registry import from_full_data
from jaxdm.errors import UserError
from jaxdm.storage import array_folder, atomic_io
from jaxdm.storage.checksummed_json import DamageError

_LOGITS = "logits"
_MARGINS = "margins"  # In place of logits, of a function of the user.
# Of targets that models get wrong.
LABEL_FIRST = (
  "look first whether the target's own label is right: targets.csv has its file"
)


class BaseModels(NamedTuple):
  """Models trained on all data.

  Attributes:
    margins_rt: float32, in logits.
    logits_rtk: float32; None where training is a function of the user.
    scores: by method, a read-only memory map float32[t, n] that is opened when it is
      indexed: similar (cosine of penultimate features), close (their distance), tracin,
      trak and influence, all averaged over the models.
  """

  margins_rt: np.ndarray
  logits_rtk: np.ndarray | None
  scores: Mapping[str, np.ndarray]


def load(run: Run) -> BaseModels:
  """What `train_all` wrote; the logits are checked, scores are opened later.

  Raises:
    DamageError: if the folder is missing or damaged.
    UserError: if it holds other models.
  """
  try:
    arrays = array_folder.ArrayFolder(_folder(run.workdir), identity_of(run))
    outputs = arrays.read_verified(_outputs_name(run))
  except array_folder.OtherArraysError as error:
    raise UserError(
      None,
      f"{error}; run python -m experiments.train_subsets "
      f"--workdir={run.workdir.path}, with the same settings, first",
    ) from error
  except KeyError as error:
    record = _folder(run.workdir) / array_folder.RECORD
    raise DamageError(record, f"is damaged: it lacks {error}") from error
  if run.networks is None:
    return BaseModels(outputs, None, {})
  base_margins = margins.correct_class_margins(outputs, run.dataset.test_labels)
  return BaseModels(base_margins, outputs, arrays)


def describe_accuracy(margins_rt: np.ndarray, target_labels: np.ndarray) -> str:
  """How often models on all data are right, with a warning if that is hardly ever."""
  shares = _accuracies(margins_rt, target_labels)
  lines = opening.accuracies(*shares), opening.poor_models(*shares)
  return "\n".join(line for line in lines if line)


def print_if_poor(margins_rt: np.ndarray, target_labels: np.ndarray) -> None:
  """Says in a line, before results of models on all data, that these are poor."""
  shares = _accuracies(margins_rt, target_labels)
  if opening.poor_models(*shares):
    print(
      "warning: these models are poor, and what follows says little: "
      f"{opening.accuracies(*shares)}"
    )


def _accuracies(margins_rt: np.ndarray, target_labels: np.ndarray) -> tuple[float, float]:
  """The models' accuracy, and that of a constant answer."""
  return float((margins_rt > 0).mean()), opening.constant_accuracy(target_labels)


def exist(run: Run) -> bool:
  """Whether `train_all` has written those that the settings ask for."""
  folder, identity = _folder(run.workdir), identity_of(run)
  if not array_folder.exists(folder, identity):
    return False
  return set(score_names(run)) <= set(array_folder.ArrayFolder(folder, identity))


def score_names(run: Run) -> tuple[str, ...]:
  """The methods whose scores are computed from the models on all data."""
  return from_full_data(run.experiment.compare.names) if run.networks else ()


def need_gradients(run: Run) -> bool:
  """Whether gradients are computed at several moments of their training."""
  return any(registry.METHODS[name].gradients for name in score_names(run))


def damage(run: Run, *, complete: bool) -> Iterator[tuple[str, str]]:
  """Looks for files that are not what `train_all` wrote.

  Args:
    run: the experiment.
    complete: whether `train_all` has ended; else a missing record is no damage.

  Yields:
    Name in the workdir and fault of each such file.
  """
  if complete or atomic_io.exists(_folder(run.workdir) / array_folder.RECORD):
    for file, why in array_folder.damage(_folder(run.workdir), identity_of(run)):
      yield f"{BASE_MODELS}/{file}", why


def identity_of(run: Run) -> dict[str, Any]:
  """All that the models on all data, and the scores made of them, depend on."""
  gradient = run.settings("gradient")
  return run.trainer.identity() | gradient | {"num_base": run.experiment.collect.num_base}


def train_all(run: Run) -> BaseModels:
  """Trains models on all data, and writes what is needed of those that converged.

  Scores are added up in memory maps on disk, one float32[t, n] a method.
  """
  t, n = len(run.dataset.test_labels), len(run.dataset.train_labels)
  folder, count = _folder(run.workdir), run.experiment.collect.num_base
  bar = run.bar("models on all data")
  totals = array_folder.create(folder, dict.fromkeys(score_names(run), (t, n)))
  networks, gradient = run.networks, run.experiment.gradient
  if networks is None:
    function = run.experiment.retrain.retrain
    outputs = full_data_margins(run.trainer, function, count, bar)
  else:
    outputs = add_full_data_scores(
      networks,
      totals,
      count,
      damping=gradient.damping,
      moments=gradient.moments,
      progress=bar,
    )
  name = _outputs_name(run)
  arrays = array_folder.create(folder, {name: outputs.shape})
  arrays[name][:] = outputs
  array_folder.finish(folder, totals | arrays, identity_of(run))
  if networks:
    networks.fleet.settle()
  return load(run)


def _outputs_name(run: Run) -> str:
  """The array of what the models predict."""
  return _LOGITS if run.networks else _MARGINS


def _folder(workdir: Workdir) -> epath.Path:
  """Where the models on all data leave their logits and scores."""
  return workdir.path / BASE_MODELS
