"""Edited training sets in, margins out: the one way models are asked for.

Collecting data for datamodels, verifying a removal and verifying a label flip all
call a `Retrainer`, which trains only what its bank does not hold yet.
"""

from collections.abc import Sequence

import numpy as np

from jaxdm import Array, bank, fleet, margins, prng, training_sets
from jaxdm import progress as progress_lib


class Retrainer:
  """Margins of models on the targets, trained on demand and remembered."""

  def __init__(
    self,
    models: fleet.Fleet,
    store: bank.Bank,
    labels: np.ndarray,
    target_pixels: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
  ):
    """Binds a fleet to a store and a set of targets.

    Args:
      models: trains them.
      store: remembers them.
      labels: int[n], of the training examples.
      target_pixels: uint8[t, h, w, c].
      target_labels: int[t].
      seed: root of every model's randomness.
    """
    self._models, self._store = models, store
    self._labels = np.asarray(labels, np.int32)
    self._target_pixels, self._target_labels = target_pixels, target_labels
    self._seed = seed

  def __call__(
    self,
    masks_mn: np.ndarray,
    seeds: Sequence[prng.Seed],
    *,
    labels_mn: np.ndarray | None = None,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> np.ndarray:
    """Margins of models trained on these sets.

    Args:
      masks_mn: bool, the training sets.
      seeds: m of them, such as ('verify', 3); whatever the set, the same seed means
        the same initialisation and the same stream of shuffles.
      labels_mn: int, the labels to train with; None: the true ones.
      progress: called with (models done, models in all), the first time with what
        the store already holds.

    Returns:
      float32[m, t], in logits; rows of a diverged model are not finite.
    """
    labels_mn = np.broadcast_to(
      self._labels if labels_mn is None else labels_mn, masks_mn.shape
    )
    prints = training_sets.fingerprints(masks_mn, labels_mn)
    ids = [f"{s.family}/{s.number}/{p}" for s, p in zip(seeds, prints, strict=True)]
    first = {model_id: row for row, model_id in reversed(list(enumerate(ids)))}
    todo = np.array(sorted(r for i, r in first.items() if i not in self._store), int)
    progress(len(ids) - len(todo), len(ids))
    if not len(todo):
      return self._store.margins(ids)
    size = self._models.rows

    def keys(part: slice) -> Array:
      # Always as many, so that nothing is compiled for other numbers of models.
      rows = np.resize(todo[part], size)
      return prng.keys_for(self._seed, [seeds[row] for row in rows])

    parts = [slice(i, min(i + size, len(todo))) for i in range(0, len(todo), size)]
    chunks = (
      (training_sets.from_masks(masks_mn[todo[p]], labels_mn[todo[p]]), keys(p))
      for p in parts
    )
    outputs = self._models.train_models(chunks, self._target_pixels)
    for part, output in zip(parts, outputs, strict=True):
      margins_mt = np.asarray(
        margins.correct_class_margins(np.asarray(output.logits), self._target_labels)
      )[: output.num_models]
      rows = todo[part]
      self._store.append([ids[r] for r in rows], masks_mn[rows], margins_mt)
      progress(len(ids) - len(todo) + part.stop, len(ids))
    return self._store.margins(ids)
