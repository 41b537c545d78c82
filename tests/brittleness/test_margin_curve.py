"""The posterior of margins over sizes, and the sizes that are chosen from it."""

import numpy as np
import pytest

from jaxdm.brittleness import next_size
from jaxdm.brittleness.margin_curve import MarginCurve, describe
from jaxdm.brittleness.verification import SequentialTest

SIZES = np.array([1, 2, 4, 8, 16, 32])
TEST = SequentialTest(most=16, confidence=0.95, skewness=0)
SEEN = {5: [-6.0], 3: [0.4, 1.4], 2: [2.0, 2.5, 3.0]}


def made(
  seen: dict[int, list[float]], mean: float = 4.0, std: float = 0.8
) -> MarginCurve:
  curve = MarginCurve(SIZES, mean, std, TEST)
  for index, margins in seen.items():
    curve.add(index, np.array(margins))
  return curve


def regression(seen: dict[int, list[float]]) -> tuple[np.ndarray, np.ndarray, float]:
  """Posterior mean and standard deviation, and the noise, as a Bayesian regression.

  The unknowns are the slope and the steps of the Brownian motion; a row a model.
  """
  u = (SIZES / 32) ** 0.75
  unit = max(np.hypot(4.0, 0.8), *(abs(np.mean(m) - 4) / 2 for m in seen.values()))
  steps = np.tril(np.ones((6, 6))) * np.sqrt(np.diff(np.concatenate([[0], u])))
  basis = np.column_stack([4 * unit * u, 0.5 * unit * steps])
  start = 4.0 * (1 - u)
  squares = sum(np.var(m) * len(m) for m in seen.values())
  freedom = sum(len(m) - 1 for m in seen.values())
  noise = np.sqrt((8 * 0.8**2 + squares) / (8 + freedom))
  rows = np.concatenate([[basis[i]] * len(m) for i, m in seen.items()])
  values = np.concatenate([np.array(m) - start[i] for i, m in seen.items()])
  precision = np.eye(7) + rows.T @ rows / noise**2
  covariance = np.linalg.inv(precision)
  weights = covariance @ rows.T @ values / noise**2
  spread = np.sqrt(np.einsum("sw,wv,sv->s", basis, covariance, basis))
  return start + basis @ weights, spread, noise


def test_the_posterior_is_that_of_a_bayesian_regression() -> None:
  mean, spread, noise = regression(SEEN)
  curve = made(SEEN)
  assert curve.noise == pytest.approx(noise)
  np.testing.assert_allclose([curve.std(i) for i in range(6)], spread, rtol=1e-6)
  draws = curve.draws()
  error = spread / np.sqrt(len(draws))
  assert np.all(abs(draws.mean(axis=0) - mean) < 4 * error)
  np.testing.assert_allclose(draws.std(axis=0), spread, rtol=0.2)


def test_before_any_model_curves_begin_at_the_mean() -> None:
  draws = made({}).draws()
  np.testing.assert_allclose(draws.mean(axis=0)[0], 4, atol=0.6)
  assert np.all(np.diff(draws.std(axis=0)) > 0)


def test_models_that_diverged_count_as_unchanged() -> None:
  diverged, unchanged = made({5: [np.nan, np.inf]}), made({5: [4.0, 4.0]})
  np.testing.assert_array_equal(diverged.draws(), unchanged.draws())
  assert next_size.is_hopeless(diverged)


def test_chances_are_those_of_the_test() -> None:
  """Of a curve that is known, against the share of simulated tests that pass."""
  rng = np.random.default_rng(0)
  for mean in (-0.3, -0.5, -0.8):
    known = {5: (mean + 0.8 * np.resize([1.0, -1.0], 20_000)).tolist()}
    chance = made(known).chances_to_pass()[:, 5].mean()
    rows = mean + 0.8 * rng.normal(size=(2000, 16))
    passed = [
      next(p for p in map(TEST.passed, looks(row)) if p is not None) for row in rows
    ]
    assert abs(chance - np.mean(passed)) < 0.12


def looks(row: np.ndarray) -> list[np.ndarray]:
  return [row[:count] for count in TEST.looks]


def test_what_is_certain_is_chosen_at_once() -> None:
  certain = {i: [margin] * 40 for i, margin in enumerate([4.0, 3, 2, -2, -5, -9])}
  curve = made(certain)
  assert next_size.to_probe(curve) is None and not next_size.is_hopeless(curve)
  assert next_size.to_verify(curve, None, 1) == 3
  assert next_size.to_verify(curve, None, 8) == 3
  assert next_size.to_verify(curve, 8, 8) is None  # Nothing smaller would pass.
  assert next_size.to_verify(curve, 32, 8) == 3
  assert next_size.to_verify(curve, None, 0) is None


def test_one_model_tells_what_is_hopeless() -> None:
  assert next_size.is_hopeless(made({5: [4.1]}))
  assert not next_size.is_hopeless(made({5: [-4.0]}))
  between = made({5: [-4.0]})
  assert 0 < next_size.to_probe(between) < 5


def test_verifications_begin_on_the_safe_side() -> None:
  """Without a claim a size is chosen that passes more likely than with one."""
  curve = made(SEEN)
  chances = curve.chances_to_pass().mean(axis=0)
  first, later = (next_size.to_verify(curve, *args) for args in ((None, 8), (32, 1)))
  assert chances[first] >= chances[later] and chances[first] > 0.8


def test_statistics_of_models_on_all_data() -> None:
  rng = np.random.default_rng(0)
  base = rng.normal(3, 2, size=(12, 4))
  lost = base.copy()
  lost[3, 1] = np.nan
  found = describe(lost)
  kept = np.delete(base[:, 1], 3)
  np.testing.assert_allclose(found.mean_t[[0, 1]], [base[:, 0].mean(), kept.mean()])
  np.testing.assert_allclose(
    found.std_t[[0, 1]], [base[:, 0].std(ddof=1), kept.std(ddof=1)]
  )
  one = describe(base[:1])
  np.testing.assert_allclose(one.std_t, abs(base[0]) / 3)


class Known:
  """Curves of which only the chances to pass are known."""

  def __init__(self, chances_ds: np.ndarray, sizes: np.ndarray):
    self.chances_ds, self.sizes = chances_ds, sizes

  def chances_to_pass(self) -> np.ndarray:
    return self.chances_ds


def best_plan(known: Known, now: float, left: int) -> tuple[float, int]:
  """The best first size of all plans of one or two verifications, and its value."""
  plans = []
  for i, first in enumerate(known.sizes):
    if first >= now:
      continue
    one = np.mean([c[i] * np.log(now / first) for c in known.chances_ds]) - 0.04
    plans.append((one, i))
    for j, second in enumerate(known.sizes[:i]):
      gain = [c[i] * (c[j] * np.log(first / second) - 0.04) for c in known.chances_ds]
      if left > 1:
        plans.append((one + np.mean(gain), i))
  return max(plans)


def test_the_size_to_verify_is_that_of_the_best_plan() -> None:
  rng = np.random.default_rng(0)
  chosen = set()
  for _ in range(300):
    steps = rng.exponential(size=(5, 6)) * rng.exponential(size=(5, 1)) * 2
    chances = 1 / (1 + np.exp(12 * rng.random() - np.cumsum(steps, axis=1)))
    known = Known(chances, SIZES)
    for claimed, left in ((32, 1), (32, 2), (16, 2), (2, 1)):
      value, size = best_plan(known, claimed, left)
      found = next_size.to_verify(known, claimed, left)
      assert found == (size if value > 0 else None)
      chosen.add((left, found))
    _, size = best_plan(known, 20 * 32, 2)
    likely = chances[:, size].mean() >= 0.15
    assert next_size.to_verify(known, None, 2) == (size if likely else None)
    chosen.add((0, next_size.to_verify(known, None, 2)))
  assert len(chosen) > 12 and {(0, None), (2, None)} <= chosen


class KnownMargins(Known):
  """And what is known of the margins at two sizes: all have a standard deviation of 1.

  Attributes:
    noise: the standard deviation of a model.
  """

  def __init__(self, chances_ds: list[list[float]], noise: float = 1.0):
    super().__init__(np.array(chances_ds), np.array([1, 2]))
    self.noise = noise

  def std(self, index: int) -> float:
    return 1.0


def test_a_case_is_hopeless_below_one_chance_in_twenty() -> None:
  assert next_size.is_hopeless(KnownMargins([[0, 0.04]] * 3))
  assert not next_size.is_hopeless(KnownMargins([[0, 0.06]] * 3))


@pytest.mark.parametrize("noise,index", [(3.0, None), (1.5, 0)])
def test_a_probe_must_tell_enough(noise, index) -> None:
  """Half of the curves pass at 1, half at 2: log(2) / 2 of the size is not known.

  One model leaves noise^2 / (1 + noise^2) of the variance: 95 % and 83 % of the
  standard deviation.
  """
  halves = [[1.0, 1.0], [0.0, 1.0]] * 8 + [[1.0, 1.0]]
  assert next_size.to_probe(KnownMargins(halves, noise)) == index
