"""A first figure while models are still trained: how well margins are predicted."""

import contextlib

import numpy as np

from experiments.runtime import progress_bar
from jaxdm import progress as progress_lib
from jaxdm import training_sets
from jaxdm.datamodels.preview import preview_lds
from jaxdm.margins import Margins
from jaxdm.storage import bank
from jaxdm.storage.checksummed_json import StoreError
from jaxdm.storage.store import Store
from jaxdm.training.collection import Collection

_MOST_TARGETS, _MOST_MASKS = 64, 2**25
# Models for each training example, or a share of all models, after which there is one.
_MODELS_PER_EXAMPLE, _SHARE = 2, 0.5


def of_models(masks: training_sets.PackedMasks, margins_mt: Margins) -> str:
  """The LDS that some models allow, in words; empty if they are too few.

  Args:
    masks: bool[m, n], their training sets.
    margins_mt: float; only the first models and targets are read if there are many.
  """
  rows = slice(0, min(len(margins_mt), _MOST_MASKS // masks.shape[1]))
  margins = np.asarray(margins_mt[rows])[:, :_MOST_TARGETS]
  lds = preview_lds(masks[rows], margins)
  if lds is None:
    return ""
  return (
    f"LDS so far {lds:.2f}, of a rough fit to {len(margins):,} models; that of "
    "datamodels is mostly higher"
  )


def of_store(store: Store) -> str:
  """The same of the models that a store holds so far."""
  rows = [
    chunk * store.rows_per_chunk + row
    for chunk, count in store.chunks().items()
    for row in range(count)
  ]
  rows_m = np.array(rows[: _MOST_MASKS // int(store.settings["num_train"])], int)
  width = min(_MOST_TARGETS, store.columns["margins"].width)
  margins_mt = store.read("margins", rows_m, slice(0, width))
  return of_models(bank.packed_masks(store, rows_m), margins_mt)


def after_some(
  collection: Collection, report: progress_lib.Progress
) -> progress_lib.Progress:
  """Reports progress, and says once what the first models allow.

  That is when there are two models for each training example, or half of all.

  Args:
    collection: the models that are trained.
    report: is called with (models done, models in all).
  """
  store, is_said = collection.store, False
  num_train = int(store.settings["num_train"])

  def update(done: int, total: int) -> None:
    nonlocal is_said
    enough = min(_MODELS_PER_EXAMPLE * num_train, _SHARE * total)
    if not is_said and enough <= done < total:
      is_said = True
      with contextlib.suppress(StoreError):
        if text := of_store(store):
          progress_bar.say(text)
    report(done, total)

  return update
