"""The simulated searches of the benchmark."""

import numpy as np

from experiments.bench import searches


def test_made_up_margins_have_their_means_and_noise() -> None:
  kind = searches.Kind(25, 1.0, (0.5, 0.5))
  made = searches.Margins(kind, 3)
  case = searches.Case(1, "made-up", np.arange(25), made.sizes)
  found = made([(case, 25)] * 4000, np.zeros(4000, int), progress=None)
  np.testing.assert_allclose(found.mean(), made.means_ts[1, -1], atol=0.05)
  np.testing.assert_allclose(found.std(), 0.5, atol=0.03)
  assert np.all(np.diff(made.means_ts, axis=1) < 0)


def test_searches_find_most_and_claim_little() -> None:
  found = searches.measure_kind(searches.KINDS["label flips"], 40)
  assert found["false"] <= 0.05 and 1 <= found["ratio"] < 1.5
  assert found["exist"] - 0.3 < found["found"] <= found["exist"] + 0.05
  fooled = searches.measure_kind(searches.KINDS["probes always fooled"], 100)
  assert fooled["exist"] == 0 and fooled["found"] == fooled["false"] <= 0.13
