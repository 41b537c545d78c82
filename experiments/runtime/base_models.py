"""The models on all data: what they predict, and what they say of the examples.

They are not kept themselves; everything that is wanted of them is taken while they are
on the devices, and written to the folder `base_models` of the workdir.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from experiments.runtime import lab
from jaxdm import margins
from jaxdm.attribution.attribute import add_full_data_scores
from jaxdm.attribution.registry import from_full_data
from jaxdm.brittleness.cases import right_targets, sample_targets
from jaxdm.errors import UserError
from jaxdm.storage import array_folder, checksummed_json

_LOGITS = "logits"
# What earlier versions wrote instead of the folder.
_OLD_FILE = "base_models.npz"


class BaseModels(NamedTuple):
  """Models trained on all data.

  Attributes:
    margins_rt: float32, in logits.
    logits_rtk: float32.
    scores: by method, a read-only memory map float32[t, n] that is opened when it is
      asked for: similar (cosine of penultimate features), close (their distance), tracin,
      trak and influence, all averaged over the models.
  """

  margins_rt: np.ndarray
  logits_rtk: np.ndarray
  scores: Mapping[str, np.ndarray]


def load(opened: lab.Lab) -> BaseModels:
  """What `train_all` wrote; the logits are checked, scores are opened later.

  Raises:
    ValueError: if the folder is missing or damaged, holds other models or is of an
      earlier version.
  """
  again = (
    f"python -m experiments.ops.bank --do=repair --workdir={opened.workdir.path} removes "
    "it, and experiments.train_subsets trains these models again"
  )
  if _old_file(opened).exists() and not _folder(opened).exists():
    raise UserError(None, f"{_old_file(opened)} is of an earlier version; {again}")
  try:
    arrays = array_folder.ArrayFolder(_folder(opened), opened.base_models_identity())
    logits = arrays.verified(_LOGITS)
  except array_folder.OtherArraysError as error:
    raise UserError(
      None,
      f"{error}; run python -m experiments.train_subsets "
      f"--workdir={opened.workdir.path}, with the same settings, first",
    ) from error
  except (checksummed_json.StoreError, KeyError) as error:
    raise UserError(None, f"{error}; {again}") from error
  base_margins = margins.correct_class_margins(logits, opened.target_labels)
  return BaseModels(base_margins, logits, arrays)


def exist(opened: lab.Lab) -> bool:
  """Whether `train_all` has written those that the settings ask for."""
  folder, identity = _folder(opened), opened.base_models_identity()
  if not array_folder.exists(folder, identity):
    return False
  return set(from_full_data()) <= set(array_folder.ArrayFolder(folder, identity))


def damage(opened: lab.Lab, *, complete: bool) -> Iterator[tuple[str, str]]:
  """Looks for files that are not what `train_all` wrote.

  Args:
    opened: the experiment.
    complete: whether `train_all` has ended; else a missing record is no damage.

  Yields:
    Name in the workdir and fault of each such file.
  """
  if _old_file(opened).exists():
    yield _OLD_FILE, "it is of an earlier version"
  elif complete or (_folder(opened) / array_folder.RECORD).exists():
    for file, why in array_folder.damage(_folder(opened), opened.base_models_identity()):
      yield f"{lab.BASE_MODELS}/{file}", why


def searched_targets(opened: lab.Lab) -> np.ndarray:
  """The targets whose brittleness is searched, as int[...], ascending.

  Raises:
    ValueError: if models on all data get none right, or one that was asked for wrong.
  """
  margins_rt, config = load(opened).margins_rt, opened.experiment.search
  asked = np.sort(np.array(opened.experiment.compare.target_list, int))
  if asked.size:
    wrong = asked[~right_targets(margins_rt)[asked]]
    if wrong.size:
      raise UserError(
        "search_targets", f": models on all data get {wrong.tolist()} wrong"
      )
    return asked
  targets = sample_targets(margins_rt, config.num_targets, config.seed)
  if not targets.size:
    raise UserError(
      None,
      "models on all data get no target right, so that none can be searched; train "
      "longer (--epochs) or on more examples, in a new workdir",
    )
  return targets


def train_all(opened: lab.Lab) -> BaseModels:
  """Trains models on all data, and writes what is needed of those that converged.

  Scores are added up in memory maps on disk, one float32[t, n] a method.
  """
  t, n = len(opened.target_labels), len(opened.labels)
  folder = _folder(opened)
  totals = array_folder.create(folder, dict.fromkeys(from_full_data(), (t, n)))
  logits_rtk = add_full_data_scores(
    opened.trainer,
    totals,
    opened.experiment.collect.num_base,
    damping=opened.experiment.gradient.damping,
    moments=opened.experiment.gradient.moments,
    progress=opened.bar("models on all data"),
  )
  found = array_folder.create(folder, {_LOGITS: logits_rtk.shape})
  found[_LOGITS][:] = logits_rtk
  array_folder.finish(folder, totals | found, opened.base_models_identity())
  _old_file(opened).unlink(missing_ok=True)
  opened.fleet.settle()
  return load(opened)


def _folder(opened: lab.Lab) -> epath.Path:
  """Where the models on all data leave their logits and scores."""
  return opened.workdir.path / lab.BASE_MODELS


def _old_file(opened: lab.Lab) -> epath.Path:
  """Where they were before there was the folder."""
  return opened.workdir.path / _OLD_FILE
