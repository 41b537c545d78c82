"""Which targets a program searches, with errors that name the next step."""

import numpy as np

from experiments.config.settings import CompareConfig
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.targets import select_targets
from jaxdm.errors import UserError


def choose_targets(
  margins_rt: np.ndarray, search: SearchConfig, compare: CompareConfig
) -> np.ndarray:
  """The targets whose brittleness is searched, as int[...], ascending.

  Raises:
    UserError: if models on all data get none right, or one that is named wrong.
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
    UserError: if models on all data get none wrong, or one that is named right.
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
  """The requested targets, or a sample, of those whose margins are positive.

  Args:
    margins_rt: of the models on all data, or negated.
    search: of the sample.
    compare: names targets.
    none: the error if there are none.
    others: the error if some of the requested ones are not among them, with places for
      all of these and for the first.
  """
  selected, unfit = select_targets(margins_rt, compare.target_list or None, search)
  if unfit.size:
    raise UserError("search_targets", f": {others.format(unfit.tolist(), unfit[0])}")
  if not selected.size:
    raise UserError(None, none)
  return selected
