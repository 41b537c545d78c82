"""Where a search draws the line between margins that fell and those that did not."""

import numpy as np
import pytest
from support.simulated import base

from jaxdm.brittleness.cases import Case
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.search import search


@pytest.mark.parametrize("above", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("size", [3, 11, 40])
def test_the_first_size_whose_margin_is_not_positive_is_found(size, above) -> None:
  """One removal fewer leaves a margin just above 0, and may not be proposed.

  Proofs lead down to what the probes propose, and keep the last that held: a proposal too
  small by one would end with a larger size.
  """
  sizes = np.arange(1, 65)
  case = Case(0, "method", np.arange(64), sizes)
  rng = np.random.default_rng(0)

  def retrain(changes, seeds, *, progress) -> np.ndarray:
    k = np.array([k for _, k in changes])
    means = np.where(k < size, above + (size - 1 - k), -1e-3 - (k - size))
    return means + 1e-9 * rng.normal(size=len(k))

  [verdict] = search([case], retrain, SearchConfig(), base(1, above + size - 1, 1e-9))
  assert verdict.k == size and not verdict.censored
