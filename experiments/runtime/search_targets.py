"""Which targets a program searches, with errors that name the next step."""

import numpy as np

from experiments.config.settings import CompareConfig
from jaxdm.brittleness import targets
from jaxdm.brittleness.config import SearchConfig

_RIGHT = targets.Wording(
  "search_targets",
  "models on all data get no target right, so that none can be searched; train longer "
  "(--epochs) or on more examples, in a new workdir",
  "models on all data get {} wrong; experiments.repair searches what would make them "
  "right, and experiments.studies.explain --target={} shows what opposes one",
)
_WRONG = targets.Wording(
  "search_targets",
  "models on all data get no target wrong, so that there is nothing to repair; "
  "experiments.brittleness searches what they get right",
  "models on all data get {} right, or wrong too seldom; experiments.brittleness "
  "--search_targets={} searches what would make one wrong",
)


def choose_right(
  margins_rt: np.ndarray, search: SearchConfig, compare: CompareConfig
) -> np.ndarray:
  """The named targets, or a sample of those that models on all data get right."""
  named = compare.target_list or None
  return targets.choose_targets(margins_rt, named, search, _RIGHT)


def choose_wrong(
  margins_rt: np.ndarray, search: SearchConfig, compare: CompareConfig
) -> np.ndarray:
  """The named targets, or a sample of those that models on all data get wrong."""
  named = compare.target_list or None
  return targets.choose_targets(-margins_rt, named, search, _WRONG)
