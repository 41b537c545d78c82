"""The models on all data: their predictions, and the scores that are made of them.

The models themselves are not stored. Logits and scores are computed while the models are
on the devices, and written to the folder `base_models` of the workdir.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.config.settings import CompareConfig
from experiments.report_page import opening
from experiments.runtime.own_training import full_data_margins
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from experiments.runtime.workdir_models import BASE_MODELS
from jaxdm import margins
from jaxdm.attribution import registry
from jaxdm.attribution.attribute import add_full_data_scores
from jaxdm.attribution.registry import from_full_data
from jaxdm.brittleness.cases import right_targets, sample_targets
from jaxdm.brittleness.config import SearchConfig
from jaxdm.errors import UserError
from jaxdm.storage import array_folder, atomic_io
from jaxdm.storage.checksummed_json import DamageError

_LOGITS = "logits"
_MARGINS = "margins"  # In place of logits, of a function of the user.
# Of targets that models get wrong.
LABEL_FIRST = (
  "look first whether the target's own label is right: targets.csv has its file"
)
# What earlier versions wrote instead of the folder.
_OLD_FILE = "base_models.npz"


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
    DamageError: if the folder is missing or damaged, or of an earlier version.
    UserError: if it holds other models.
  """
  if _old_file(run.workdir).exists() and not _folder(run.workdir).exists():
    raise DamageError(_old_file(run.workdir), "is of an earlier version")
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
  if _old_file(run.workdir).exists():
    yield _OLD_FILE, "it is of an earlier version"
  elif complete or atomic_io.exists(_folder(run.workdir) / array_folder.RECORD):
    for file, why in array_folder.damage(_folder(run.workdir), identity_of(run)):
      yield f"{BASE_MODELS}/{file}", why


def identity_of(run: Run) -> dict[str, Any]:
  """All that the models on all data, and the scores made of them, depend on."""
  gradient = run.settings("gradient")
  return run.trainer.identity() | gradient | {"num_base": run.experiment.collect.num_base}


def choose_targets(
  margins_rt: np.ndarray, search: SearchConfig, compare: CompareConfig
) -> np.ndarray:
  """The targets whose brittleness is searched, as int[...], ascending.

  Raises:
    ValueError: if models on all data get none right, or one that is named wrong.
  """
  return _choose(
    margins_rt,
    search,
    compare,
    none="models on all data get no target right, so that none can be searched; train "
    "longer (--epochs) or on more examples, in a new workdir",
    others="models on all data get {} wrong; experiments.repair searches what would make "
    "them right, and experiments.studies.explain --target={} shows what opposes one",
  )


def choose_wrong_targets(
  margins_rt: np.ndarray, search: SearchConfig, compare: CompareConfig
) -> np.ndarray:
  """The targets that are repaired, as int[...], ascending.

  Raises:
    ValueError: if models on all data get none wrong, or one that is named right.
  """
  return _choose(
    -margins_rt,
    search,
    compare,
    none="models on all data get no target wrong, so that there is nothing to repair; "
    "experiments.brittleness searches what they get right",
    others="models on all data get {} right, or wrong too seldom; "
    "experiments.brittleness --search_targets={} searches what would make one wrong",
  )


def _choose(
  margins_rt: np.ndarray,
  search: SearchConfig,
  compare: CompareConfig,
  *,
  none: str,
  others: str,
) -> np.ndarray:
  """The named targets, or a sample, of those whose margins are positive.

  Args:
    margins_rt: of the models on all data, or negated.
    search: of the sample.
    compare: names targets.
    none: the error if there are none.
    others: the error if some of the named ones are not among them, with places for all of
      these and for the first.
  """
  targets_named = np.sort(np.array(compare.target_list, int))
  if targets_named.size:
    unfit = targets_named[~right_targets(margins_rt)[targets_named]].tolist()
    if unfit:
      raise UserError("search_targets", f": {others.format(unfit, unfit[0])}")
    return targets_named
  targets = sample_targets(margins_rt, search.num_targets, search.seed)
  if not targets.size:
    raise UserError(None, none)
  return targets


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
  _old_file(run.workdir).unlink(missing_ok=True)
  if networks:
    networks.fleet.settle()
  return load(run)


def _outputs_name(run: Run) -> str:
  """The array of what the models predict."""
  return _LOGITS if run.networks else _MARGINS


def _folder(workdir: Workdir) -> epath.Path:
  """Where the models on all data leave their logits and scores."""
  return workdir.path / BASE_MODELS


def _old_file(workdir: Workdir) -> epath.Path:
  """Where they were before there was the folder."""
  return workdir.path / _OLD_FILE
