"""Repairs, against brute force, planted answers and the stated level."""

import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import RidgeClassifier

import jaxdm
from jaxdm import prng

# Two clouds; some labels of the second are wrong.
N = 14
X = (
  np.random.default_rng(6).normal(size=(N, 2))
  + np.where(np.arange(N) % 2, 1.2, -1.2)[:, None]
)
TRUE = np.arange(N) % 2
PLANTED = np.array([3, 7, 11])
LABELS = np.where(np.isin(np.arange(N), PLANTED), 0, TRUE)
TARGETS = np.array([[0.15, 0.6], [-2.0, -1.0]])
TARGET_LABELS = np.array([1, 0])
CONFIG = jaxdm.SearchConfig(max_share=0.9)


def margins_of_set(mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Margins float[t] of scikit-learn's ridge classifier."""
  found = RidgeClassifier(alpha=0.1).fit(X[mask], labels[mask])
  return found.decision_function(TARGETS) * (2 * TARGET_LABELS - 1)


def retrain(masks, labels, seeds) -> np.ndarray:
  pairs = zip(masks, labels, strict=True)
  return np.array([margins_of_set(mask, label) for mask, label in pairs])


def changed_set(change: str, examples) -> tuple[np.ndarray, np.ndarray]:
  """Mask and labels of a changed training set, for the first target."""
  mask, labels = np.ones(N, bool), LABELS.copy()
  if change == "removal":
    mask[list(examples)] = False
  else:
    labels[list(examples)] = TARGET_LABELS[0]
  return mask, labels


def scores_of(change: str) -> np.ndarray:
  """What each example's change takes from the margins, float[t, n]."""
  full = margins_of_set(*changed_set(change, []))
  return np.stack(
    [full - margins_of_set(*changed_set(change, [i])) for i in range(N)], axis=1
  )


@pytest.mark.parametrize("change", ["removal", "relabel"])
def test_the_smallest_repairs_are_those_of_brute_force(change) -> None:
  assert margins_of_set(*changed_set(change, []))[0] < 0
  [found] = jaxdm.find_repairs(
    {"mine": scores_of(change)},
    retrain,
    LABELS,
    TARGET_LABELS,
    config=CONFIG,
    change=change,
  )
  allowed = np.flatnonzero(LABELS == 0) if change == "relabel" else np.arange(N)
  smallest = next(
    size
    for size in range(1, N)
    if any(
      margins_of_set(*changed_set(change, some))[0] > 0
      for some in itertools.combinations(allowed, size)
    )
  )
  assert found.target == 0 and not found.censored and found.is_repair
  assert found.k == smallest > 1
  after = margins_of_set(*changed_set(change, found.examples[: found.k]))[0]
  assert found.accuracy == 1
  np.testing.assert_allclose(
    [found.mean_margin, found.margin_low, found.margin_high], after
  )


def test_repairs_name_the_labels_that_are_wrong() -> None:
  found = jaxdm.find_repairs(
    scores_of("relabel"), retrain, LABELS, TARGET_LABELS, config=CONFIG, change="relabel"
  )
  named = {i for i in PLANTED if i in found[0].examples[: found[0].k]}
  assert len(named) == found[0].k > 0


class Noisy:
  """Margins that rise by an example's opposition once it is gone, plus noise."""

  def __init__(self, seed: int = 0):
    rng = np.random.default_rng(seed)
    self.labels, self.target_labels = np.arange(30) % 3, np.arange(6) % 3
    self.weights = rng.normal(size=(6, 30)) - 0.1
    own = self.target_labels[:, None] == self.labels
    self.weights += np.where(own, 0.3, -0.1)
    self.asked: list = []

  def __call__(self, masks, labels, seeds):
    own = labels[:, None] == self.target_labels[:, None]
    was = self.labels == self.target_labels[:, None]
    signs = np.where(own & ~was, -1, 1) * masks[:, None]
    noise = [np.random.default_rng(int(seed)).normal(size=6) for seed in seeds]
    margins = (signs * self.weights).sum(axis=-1) + 0.3 * np.array(noise)
    sets = zip(masks, labels, strict=True)
    keys = [(~m | (lab != self.labels)).nonzero()[0].tolist() for m, lab in sets]
    self.asked += zip(keys, map(prng.stream_of, seeds), margins, strict=True)
    return margins


@pytest.mark.parametrize("change", ["removal", "relabel"])
def test_a_verdict_says_what_its_own_models_do(change) -> None:
  problem = Noisy()
  given = problem.weights, problem, problem.labels, problem.target_labels
  found = jaxdm.find_repairs(*given, config=CONFIG, change=change)
  full = problem.weights.sum(axis=1)
  assert [v.target for v in found] == np.flatnonzero(full < 0).tolist() and len(found) > 2
  step = 2 if change == "relabel" else 1
  for v in found:
    weights = problem.weights[v.target]
    other = problem.labels != problem.target_labels[v.target]
    allowed = np.flatnonzero(other) if change == "relabel" else np.arange(30)
    by_weight = sorted(allowed, key=lambda i, w=weights: w[i])
    assert list(v.examples) == by_weight[: len(v.examples)]
    exact = next(
      k for k in range(30) if full[v.target] - step * weights[by_weight[:k]].sum() > 0
    )
    assert not v.censored and exact <= v.k <= exact + 1
    key = sorted(v.examples[: v.k])
    # Other targets may have asked for the same set, between the models of this one.
    of_seed = {
      s.number: m[v.target]
      for k, s, m in problem.asked
      if k == key and s.family == "verify"
    }
    mine = [of_seed[number] for number in sorted(of_seed)]
    count, level = v.models, CONFIG.test(v.skewness or 0).level(v.models)
    starts = [mine[i : i + count] for i in range(len(mine) - count + 1)]
    [own] = [s for s in starts if np.isclose(np.mean(s), v.mean_margin)][:1]
    assert v.accuracy == np.mean(np.array(own) > 0) and v.margin_low >= 0
    half = scipy.stats.sem(own) * scipy.stats.t.ppf(1 - level, count - 1)
    # Levels are those of some skewness that the test allows for.
    assert v.margin_low == pytest.approx(np.mean(own) - half, abs=0.5 * half)
    assert v.margin_high - v.mean_margin == pytest.approx(v.mean_margin - v.margin_low)
    largest = sorted(v.examples[: v.largest])
    probes = [
      m[v.target] for k, s, m in problem.asked if k == largest and s.family == "search"
    ]
    assert v.largest_margin == pytest.approx(probes[0])


def test_similarities_choose_the_nearest_examples_of_other_classes() -> None:
  problem = Noisy()
  scores = {"similar": np.abs(problem.weights), "random": problem.weights}
  given = problem, problem.labels, problem.target_labels
  found = jaxdm.find_repairs(scores, *given, config=CONFIG)
  assert {v.method for v in found} == {"similar", "random"}
  for v in found:
    other = np.flatnonzero(problem.labels != problem.target_labels[v.target])
    highest = sorted(other, key=lambda i, v=v: -scores[v.method][v.target, i])
    assert list(v.examples) == highest[: len(v.examples)]


def test_sizes_for_datamodels_follow_from_the_margins_that_they_predict() -> None:
  masks = jaxdm.random_subsets(300, 30, alpha=0.5, seed=0)
  problem = Noisy()
  margins = problem(masks, np.broadcast_to(problem.labels, masks.shape), np.arange(300))
  models = jaxdm.fit_datamodels(masks, margins)
  config = jaxdm.SearchConfig(max_share=0.9, size_law="surrogate", num_sizes=3)
  given = problem, problem.labels, problem.target_labels
  for v in jaxdm.find_repairs(models, *given, config=config):
    mask = np.ones(30, bool)
    mask[list(v.examples[: v.k])] = False
    assert not v.censored and models.predict(mask)[v.target] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("skewness", [0.0, 1.0])
def test_false_claims_stay_below_the_stated_level(skewness) -> None:
  # The worst case: probes are always fooled, and true mean margins stay just below 0.
  # A long left tail is what makes few models' means look positive.
  rng, count, claims = np.random.default_rng(1), 250, []
  shape = 4 / skewness**2 if skewness else 0

  def noise(*size: int) -> np.ndarray:
    if not shape:
      return rng.normal(size=size)
    return (shape - rng.standard_gamma(shape, size)) / np.sqrt(shape)

  def fooled(masks, labels, seeds):
    searched = [prng.stream_of(seed).family == "search" for seed in seeds]
    return np.where(np.array(searched)[:, None], 1.0, noise(len(seeds), count) - 1e-9)

  for _ in range(6):
    found = jaxdm.find_repairs(
      np.zeros((count, 8)),
      fooled,
      np.arange(8) % 2,
      np.arange(count) % 2,
      config=jaxdm.SearchConfig(max_share=0.5, num_targets=count, max_verifications=1),
      base_margins=noise(64, count) - 1,
    )
    claims += [not v.censored for v in found]
  runs = len(claims)
  assert runs > 1000
  error = np.sqrt(0.05 * 0.95 / runs)
  assert 0.03 <= np.mean(claims) <= 0.05 + 3 * error


def test_ties_and_diverged_models_are_no_repair() -> None:
  for value in (0.0, np.nan):

    def constant(masks, labels, seeds, value=value):
      return np.full((len(masks), 1), value)

    [found] = jaxdm.find_repairs(
      np.zeros((1, 8)),
      constant,
      np.arange(8) % 2,
      [0],
      config=CONFIG,
      base_margins=-np.ones((9, 1)),
    )
    assert found.censored and found.finished
    assert found.accuracy == 0 or np.isnan([value, found.accuracy]).all()


@pytest.mark.parametrize(
  "change,message",
  [
    ({"base_margins": np.ones((9, 2))}, "get no target wrong, so that there is nothing"),
    (
      {"base_margins": np.array([[1.0, -1]] * 9), "targets": [0, 1]},
      r"get \[0\] right; find_removals is for those",
    ),
    ({"targets": [2]}, r"must be in \[0, 2\), got \[2\]"),
    ({"change": "edit"}, "change must be removal or relabel, got 'edit'"),
    ({"labels": np.zeros(N, int)}, "two classes or more"),
    ({"scores": np.full((2, N), np.nan)}, "scores must be finite"),
    ({"scores": np.zeros((2, 3))}, r"must be \[t, n\]"),
  ],
)
def test_what_cannot_be_repaired_is_refused(change, message) -> None:
  given = {"scores": np.zeros((2, N)), "retrain": retrain, "labels": LABELS}
  given |= {"target_labels": TARGET_LABELS, "base_margins": -np.ones((9, 2))} | change
  with pytest.raises(ValueError, match=message):
    jaxdm.find_repairs(**given)


def test_a_small_competing_class_is_not_removed_as_a_whole() -> None:
  rng = np.random.default_rng(0)
  labels = np.array([0] * 45 + [1] * 5)
  x = rng.normal(size=(50, 2)) + np.where(labels, 1.0, -1.0)[:, None]
  seen = []

  def retrain(masks, sets, seeds):
    seen.extend(np.unique(sets[row][mask]).size for row, mask in enumerate(masks))
    models = [RidgeClassifier().fit(x[m], y[m]) for m, y in zip(masks, sets, strict=True)]
    return np.array([-f.decision_function([[2.0, 2.0], [-2.0, -2.0]]) for f in models])

  scores = np.tile(np.where(labels, -1.0, 1.0), (2, 1))
  for change in ("removal", "relabel"):
    jaxdm.find_repairs(scores, retrain, labels, [0, 0], targets=[0], change=change)
  assert min(seen) == 2
