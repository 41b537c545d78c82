"""What models on subsets predict of the training examples: margins and chosen classes.

It is a store beside that of the models' margins of targets, with the same rows in the
same chunks, so that a bank can get one later: the other store, its identity and what was
fitted to it stay as they are. The training sets of the rows are in the other store.

A model takes 2 bytes an example for the margin, in float16, and at most 1 for the class
(2 beyond 256 classes), before compression; see `MARGIN_ROUNDING`. More than 256 examples
count as the next multiple of 256.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxdm.storage import store as store_lib
from jaxdm.storage import zarr_arrays

# Largest relative error of a margin in float16. Its sign, and with it whether a model is
# right, stays. The logistic function changes by at most .224 times as much, 1.1e-4: x
# times its slope at x is .224 at most.
MARGIN_ROUNDING = 2.0**-11
_MARGIN = np.dtype(np.float16)
# Smallest and largest positive float16.
_LEAST, _MOST = 2.0**-24, float(np.finfo(_MARGIN).max)


def open_store(
  path: str | epath.PathLike,
  *,
  num_train: int,
  num_classes: int | None,
  settings: Mapping[str, Any],
  rows_per_chunk: int,
  provenance: Callable[[], Mapping[str, str]] = dict,
) -> store_lib.Store:
  """Opens or makes the store of such predictions.

  Args:
    path: see `store.Store`.
    num_train: n.
    num_classes: k; None: margins are all that is known.
    settings: what the predictions depend on; JSON values.
    rows_per_chunk: models a chunk, as in the store of the models.
    provenance: see `store.Store`.
  """
  columns = {"margins": zarr_arrays.ArraySpec(_MARGIN.name, num_train)}
  if num_classes is not None:
    smallest = np.min_scalar_type(num_classes - 1).name
    # Most are the example's label, so that they are small once compressed.
    columns["classes"] = zarr_arrays.ArraySpec(smallest, num_train, compressed=True)
  sizes = {"num_train": num_train, "num_classes": num_classes}
  return store_lib.Store(
    path,
    columns=columns,
    settings={**sizes, **settings},
    rows_per_chunk=rows_per_chunk,
    provenance=provenance,
  )


def bytes_per_model(num_train: int, num_classes: int) -> int:
  """Bytes of a model's row, before classes are compressed."""
  classes = np.min_scalar_type(num_classes - 1).itemsize
  return num_train * (_MARGIN.itemsize + classes)


def write_from(
  store: store_lib.Store,
  first: int,
  margins_mn: np.ndarray,
  classes_mn: np.ndarray | None = None,
) -> None:
  """Writes models by number, to the end of a chunk whose first rows may be there.

  Args:
    store: of `open_store`.
    first: number of the first one; those before it in its chunk are in the store.
    margins_mn: float, in logits; NaN marks a diverged model. What float16 cannot hold
      becomes the nearest number that it can, with the same sign.
    classes_mn: int, the class of the largest logit, if the store keeps them.
  """
  chunk, before = divmod(first, store.rows_per_chunk)
  size_mn = np.clip(np.abs(margins_mn), _LEAST, _MOST)
  margins_mn = np.where(margins_mn == 0, 0, np.copysign(size_mn, margins_mn))
  arrays = {"margins": margins_mn}
  if classes_mn is not None:
    arrays["classes"] = classes_mn
  if before:
    rows = slice(first - before, first)
    arrays = {
      name: np.concatenate([store.read(name, rows), array])
      for name, array in arrays.items()
    }
  diverged = int(np.isnan(arrays["margins"]).all(axis=1).sum())
  store.write(chunk, arrays, {"diverged": diverged})
