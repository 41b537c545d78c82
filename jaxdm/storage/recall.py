"""Models that are stored by training set, labels and seed, and trained only once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from jaxdm import identity, matrices, prng, training_sets
from jaxdm import labels as labels_lib
from jaxdm import progress as progress_lib
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, polling, store_layout
from jaxdm.storage import bank as bank_lib
from jaxdm.training_sets import ModelSpecs


def recall(
  bank: bank_lib.Bank,
  models: ModelSpecs,
  train: Callable[[Iterable[ModelSpecs]], Iterator[np.ndarray]],
  *,
  rows: int = store_layout.ROWS_PER_CHUNK,
  share: tuple[int, int] = (0, 1),
  progress: progress_lib.Progress = progress_lib.silent,
) -> np.ndarray:
  """Margins of models: those that a bank lacks are trained and stored.

  Args:
    bank: stores them.
    models: which are wanted, some perhaps more than once.
    train: takes parts of at most `rows` models, and yields float[m, t] margins of each in
      order. Each part is stored before the next one is requested.
    rows: models a part.
    share: (i, N): this is process i of N that ask for the same models, in the same
      order: each trains an Nth and waits for the others to store the rest.
    progress: called with (models done, models in all), the first time with what the bank
      already holds.

  Returns:
    float32[m, t].
  """
  streams = [prng.stream_of(int(seed)) for seed in models.seeds]
  ids = bank_lib.model_ids(models.masks_mn, models.labels_mn, streams)
  bank.refresh()
  index, processes = share
  first = {model_id: row for row, model_id in reversed(list(enumerate(ids)))}
  mine = sorted(first.values())[index::processes]
  missing = np.array([row for row in mine if ids[row] not in bank], int)

  def report_progress() -> bool:
    done = sum(model_id in bank for model_id in ids)
    progress(done, len(ids))
    return done == len(ids)

  def all_are_stored() -> bool:
    bank.refresh()
    return report_progress()

  is_done = report_progress()
  parts = [missing[i : i + rows] for i in range(0, len(missing), rows)]
  parts_to_train = (models.rows(part) for part in parts)
  for part, margins_mt in zip(parts, train(parts_to_train), strict=True):
    names = [streams[row] for row in part]
    bank.append(names, models.masks_mn[part], models.labels_mn[part], margins_mt)
    is_done = report_progress()
  if not is_done:
    polling.until(all_are_stored, "its share of the models")
  return bank.margins(ids)


class CachedRetrain:
  """A `retrain` function whose results are kept in a folder; see `remember`."""

  def __init__(
    self,
    retrain: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
    bank: bank_lib.Bank,
    num_targets: int,
  ):
    self._retrain, self._bank, self._num_targets = retrain, bank, num_targets

  def __call__(
    self,
    masks: np.ndarray,
    labels: np.ndarray,
    seeds: np.ndarray,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> np.ndarray:
    """Margins float32[m, t]; the function trains only models that the folder lacks.

    Raises:
      ValueError: on masks, labels or seeds of another shape or kind, or with other
        values, than `training_sets.model_specs` takes.
    """
    models = training_sets.model_specs(
      masks,
      labels,
      seeds,
      num_train=self._bank.num_train,
      num_classes=self._bank.most_classes,
    )
    if not len(models.seeds):
      return np.zeros((0, self._num_targets), np.float32)
    return recall(self._bank, models, self._train, progress=progress)

  def _train(self, parts: Iterable[ModelSpecs]) -> Iterator[np.ndarray]:
    """Margins of each part."""
    for part in parts:
      margins_mt = matrices.as_array("margins that retrain returns", self._retrain(*part))
      expected = len(part.masks_mn), self._num_targets
      if margins_mt.shape != expected:
        raise ValueError(
          f"retrain must return margins [m, t] = {expected}, got {margins_mt.shape}"
        )
      with np.errstate(over="ignore"):  # Infinite margins count as diverged.
        yield margins_mt.astype(np.float32, copy=False)


def remember(
  retrain: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
  labels: np.ndarray,
  target_labels: np.ndarray,
  *,
  folder: str | epath.PathLike,
  depends_on: Any,
) -> CachedRetrain:
  """Keeps the margins of every model that a `retrain` function trains.

  A model is known by its training set, the labels of that set, and its seed. What else
  margins depend on must be said, since a function does not tell: a folder never mixes
  results that depend on different things.

  >>> import jaxdm, numpy as np, tempfile
  >>> labels = np.array([0, 0, 1, 1])
  >>> def count(masks, labels, seeds):  # In place of training.
  ...   return masks.sum(axis=1, keepdims=True) - 1.5
  >>> folder = tempfile.mkdtemp()
  >>> retrain = jaxdm.remember(count, labels, [0], folder=folder, depends_on="v1")
  >>> print(retrain(np.ones((1, 4), bool), labels, [0]))
  [[2.5]]

  Args:
    retrain: takes bool[m, n] masks, int[m, n] labels and int[m] seeds; returns margins
      float[m, t] in logits.
    labels: int[n], of the training examples.
    target_labels: int[t].
    folder: for the store; it may be in a bucket.
    depends_on: all that decides what margins come out, beside masks, labels and seeds:
      data, settings, versions. Plain values, arrays, and any nesting of them.

  Returns:
    A function with the arguments of `retrain`.

  Raises:
    StoreError: if the folder holds models that depend on something else.
    UserError: on labels that are not class numbers.
    TypeError: on a `depends_on` that has no digest, such as a function.
  """
  if hasattr(retrain, "column_targets"):
    raise UserError(
      "retrain", "must return all targets to be remembered, and has column_targets"
    )
  labels = labels_lib.as_classes("labels", labels, np.size(labels))
  target_labels = labels_lib.as_classes("target_labels", target_labels, len(labels))
  num_classes = max(int(labels.max()), int(target_labels.max())) + 1
  store = bank_lib.open_store(
    atomic_io.as_path(folder).absolute(),  # The working directory may change later.
    num_targets=len(target_labels),
    num_train=len(labels),
    settings={
      "depends_on": identity.digest(depends_on),
      "target_labels": identity.digest(target_labels.astype(np.int32)),
    },
    label_classes=num_classes,
  )
  return CachedRetrain(retrain, bank_lib.Bank(store), len(target_labels))
