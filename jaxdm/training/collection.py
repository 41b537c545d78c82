"""Models on random subsets of the training set, by number."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxdm import training_sets
from jaxdm.storage import store as store_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subsets:
  """Models on random subsets of the training set, by number.

  Attributes:
    alpha: share of the training set in each subset.
    first: model i is trained on subset first + i.
    family: of the models' seeds; another one trains other models on the same subsets.
  """

  alpha: float
  first: int = 0
  family: str = "subset"

  def masks(self, seed: int, num_train: int, numbers: np.ndarray) -> np.ndarray:
    """The subsets of some models, bool[m, n], drawn from the root seed."""
    subsets = self.first + np.asarray(numbers)
    return training_sets.random_masks(seed, num_train, self.alpha, subsets)


class Collection(NamedTuple):
  """A store of models on random subsets: row i is model i.

  Attributes:
    store: of `Trainer.open_subsets`.
    subsets: which models they are.
    models: how many are wanted.
  """

  store: store_lib.Store
  subsets: Subsets
  models: int


def missing(
  store: store_lib.Store, count: int, *, shard: tuple[int, int] = (0, 1)
) -> list[range]:
  """Which of so many numbered models a store lacks, chunk by chunk.

  Args:
    store: where row i is model i.
    count: models in all.
    shard: (i, N): only the chunks whose numbers leave i when divided by N. Whose a chunk
      is depends on nothing else, so hosts need not talk, and their number may change.

  Returns:
    The numbers of the models that each such chunk lacks, at its end.
  """
  size, whole = store.rows_per_chunk, store.chunks()
  index, of = shard
  found = []
  for chunk in range(index, -(-count // size), of):
    numbers = range(chunk * size + whole.get(chunk, 0), min((chunk + 1) * size, count))
    if numbers:
      found.append(numbers)
  return found
