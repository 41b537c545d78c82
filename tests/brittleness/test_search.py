"""The search on simulated margins, where the truth is known."""

import numpy as np
import pytest
from support.simulated import Simulated, base, cases

from jaxdm import prng
from jaxdm.brittleness import score_signs, summary, verdicts, verification
from jaxdm.brittleness.cases import (
  Case,
  candidate_sizes,
  largest_change,
  make_cases,
  surrogate_sizes,
)
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.search import search
from jaxdm.brittleness.targets import right_targets, sample_targets
from jaxdm.errors import UserError


def test_without_noise_the_smallest_size_of_the_grid_is_found() -> None:
  margins = np.array([0.5, 2.5, 9.5, 63.5, 64.5, 100.0])
  simulated = Simulated(margins, np.ones(6), 1e-9)
  config = SearchConfig()
  sizes = candidate_sizes(64, 12)
  found = search(cases(6), simulated, config, simulated.base)
  for verdict, margin in zip(found, margins, strict=True):
    enough = sizes[sizes >= margin]
    assert verdict.censored == (not enough.size)
    assert verdict.k == (enough[0] if enough.size else -1)
    assert verdict.k_tried == (enough[0] if enough.size else 64)
    assert verdict.accuracy == (margin > verdict.k_tried)


def test_verification_seeds_are_fresh_and_models_are_counted() -> None:
  simulated = Simulated(np.full(30, 8.0), np.ones(30), 3.0)
  config = SearchConfig(verify_seeds=5)
  found = search(cases(30), simulated, config, simulated.base)
  for verdict in found:
    mine = [(k, seed) for t, k, seed in simulated.asked if t == verdict.target]
    assert verdict.models_used == len(mine)
    assert len(set(mine)) == len(mine)
    verifying = [seed.number for _, seed in mine if seed.family == "verify"]
    assert len(set(verifying)) == len(verifying)


def test_the_first_claims_are_logged_while_others_are_searched(caplog) -> None:
  margins = np.array([0.5, 100.0, 2.5, 9.5, 20.0, 30.0])
  with caplog.at_level("INFO", "jaxdm"):
    simulated = Simulated(margins, np.ones(6), 1e-9)
    found = search(cases(6), simulated, SearchConfig(), simulated.base)
  k_of = {v.target: v.k for v in found if not v.censored}
  assert len(k_of) == 5
  said = [record.args[:3] for record in caplog.records]
  assert len(said) == 3
  for target, method, k in said:
    assert k_of[target] == k and method == found[target].method


def test_no_case_needs_more_models_than_is_said_before() -> None:
  config = SearchConfig(search_models=3, verify_seeds=3, max_verifications=2)
  rng = np.random.default_rng(0)

  def retrain(changes, seeds, *, progress):
    means = np.array(
      [{0: -9.0, 1: 9.0, 2: 2.0 - k / 20}[c.target % 3] for c, k in changes]
    )
    return means + rng.normal(size=len(seeds))

  found = search(cases(90), retrain, config, base(90, mean=1.0))
  assert {v.censored for v in found} == {True, False}
  used = [v.models_used for v in found]
  assert min(used) == 1 and max(used) == config.most_models == 3 + 2 * 3


@pytest.mark.slow
def test_false_claims_over_ten_thousand_searches_stay_below_the_stated_level() -> None:
  # The worst case: probes always fool the search, and the true margin stays just above 0
  # below a size, at and above which it is clearly negative. Smaller claims are false.
  runs, config = 10_000, SearchConfig()
  for flips_at in (65, 40):
    rng = np.random.default_rng(flips_at)

    def retrain(changes, seeds, *, progress, flips_at=flips_at, rng=rng):
      luck = rng.normal(size=len(seeds))
      means = np.array([-9.0 if k >= flips_at else 1e-6 for _, k in changes])
      fooled = np.array([prng.stream_of(seed).family == "search" for seed in seeds])
      return np.where(fooled, -1.0, means + luck)

    found = search(cases(runs), retrain, config, base(runs, mean=1.0))
    false = np.mean([not v.censored and v.k < flips_at for v in found])
    # The level is used, not merely kept.
    assert 0.04 <= false <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_steep_targets_are_found_in_spite_of_noise() -> None:
  simulated = Simulated(np.full(200, 8.0), np.ones(200), 1.0)
  results = search(cases(200), simulated, SearchConfig(), simulated.base)
  found = np.array([v.k for v in results])
  assert np.mean(found > 0) > 0.95
  assert 8 <= np.median(found[found > 0]) <= 16


def test_each_verification_is_smaller_and_the_first_failure_is_the_last() -> None:
  config = SearchConfig(max_verifications=5)
  simulated = Simulated(np.full(200, 8.0), np.ones(200), 2.0)
  for verdict in search(cases(200), simulated, config, simulated.base):
    mine = [(k, seed) for t, k, seed in simulated.asked if t == verdict.target]
    sizes = [k for k, seed in mine if seed.family == "verify"]
    order = list(dict.fromkeys(sizes))
    assert order == sorted(order, reverse=True) and len(order) <= 5
    assert sizes == sorted(sizes, reverse=True)
    claims = [k for k in order if k != verdict.k]
    assert verdict.censored or (verdict.k in order and min(order) in order[-2:])
    assert verdict.censored or all(
      k > verdict.k for k in claims[: order.index(verdict.k)]
    )
    assert verdict.censored or len(order) - order.index(verdict.k) <= 2
    kinds = [seed.family for _, seed in mine]
    assert kinds == sorted(kinds)  # "search", then "verify".


def test_one_verification_is_one_size() -> None:
  simulated = Simulated(np.full(50, 8.0), np.ones(50), 1.0)
  config = SearchConfig(max_verifications=1)
  found = search(cases(50), simulated, config, simulated.base)
  verified = {t: set() for t in range(50)}
  for target, k, seed in simulated.asked:
    if seed.family == "verify":
      verified[target].add(k)
  assert {len(sizes) for sizes in verified.values()} == {1}
  assert np.mean([not v.censored for v in found]) > 0.8


def test_the_largest_size_is_seen_before_anything_is_chosen() -> None:
  simulated = Simulated(np.full(9, 8.0), np.full(9, 0.5), 1.0)
  for verdict in search(cases(9), simulated, SearchConfig(), simulated.base):
    [first, *_] = [k for t, k, _ in simulated.asked if t == verdict.target]
    assert first == 64 and verdict.largest == 64
    assert abs(verdict.largest_margin - (8 - 32)) < 4
    assert 1 <= verdict.models <= 16


def test_hopeless_cases_take_one_model() -> None:
  simulated = Simulated(np.full(50, 8.0), np.full(50, 0.01), 1.0)
  found = search(cases(50), simulated, SearchConfig(), simulated.base)
  assert np.mean([v.models_used == 1 for v in found]) > 0.95
  for verdict in found:
    assert verdict.censored and verdict.finished and verdict.k_tried == 64
    assert verdict.mean_margin > 0 and verdict.margin_high == np.inf


def test_a_diverged_model_never_helps_a_claim() -> None:
  simulated = Simulated(np.array([np.nan]), np.ones(1), 0.0)
  [verdict] = search(cases(1), simulated, SearchConfig(), base(1))
  assert verdict.censored and verdict.finished


def test_progress_ends_at_its_total() -> None:
  seen = []
  simulated = Simulated(np.full(5, 8.0), np.ones(5), 1.0)
  config = SearchConfig(verify_seeds=5)
  search(cases(5), simulated, config, simulated.base, progress=lambda *x: seen.append(x))
  assert seen[-1] == (len(simulated.asked),) * 2
  assert all(done <= total for done, total in seen)
  assert all(isinstance(count, int) for counts in seen for count in counts)


def test_the_models_expected_are_about_those_that_are_asked_for() -> None:
  seen = []
  simulated = Simulated(np.full(50, 8.0), np.ones(50), 3.0)
  search(
    cases(50),
    simulated,
    SearchConfig(),
    simulated.base,
    progress=lambda *x: seen.append(x),
  )
  end = len(simulated.asked)
  first, *later = (total for _, total in seen)
  assert first > 50  # All may be hopeless, which the first probe of each tells.
  assert min(later) > 0.8 * end and max(later) < 2.5 * end
  assert max(total for done, total in seen if done > end / 2) < 1.4 * end


def test_a_search_whose_budget_runs_out_can_be_continued() -> None:
  def run(budget: int | None) -> list[verdicts.Verdict]:
    # The same change and seed give the same margin, as a bank's models do.
    def retrain(changes, seeds, *, progress):
      rows = []
      for (case, k), seed in zip(changes, seeds, strict=True):
        noise = np.random.default_rng([case.target, k, seed]).normal()
        rows.append(8.0 - k + noise)
      return np.array(rows)

    config = SearchConfig()
    return search(cases(20), retrain, config, base(20), budget=budget)

  whole = run(None)
  assert all(v.finished for v in whole)
  total = sum(v.models_used for v in whole)
  for budget in (0, 100, 300, total - 1):
    some = run(budget)
    assert sum(v.models_used for v in some) <= budget
    assert not all(v.finished for v in some)
    for part, full in zip(some, whole, strict=True):
      assert part.censored or part.k >= full.k
      assert not part.finished or part == full
  assert run(total) == whole


def test_before_any_model_a_verdict_says_nothing() -> None:
  case = Case(1, "method", np.arange(9, 0, -1), np.array([1, 2, 4]))
  skewness = verification.Skewness(np.array([0.1, 0.5]), np.zeros(2))
  known = base(2)._replace(skewness=skewness)
  [verdict] = search([case], None, SearchConfig(), known, budget=0)
  assert (verdict.target, verdict.method) == (1, "method")
  assert (verdict.k, verdict.k_tried, verdict.largest) == (-1, 0, 4)
  assert (verdict.margin_low, verdict.margin_high) == (-np.inf, np.inf)
  unknown = verdict.mean_margin, verdict.accuracy, verdict.largest_margin
  assert np.isnan(unknown).all() and verdict.skewness == 0.5
  assert verdict.models == verdict.models_used == 0
  assert verdict.censored and not verdict.finished
  assert verdict.examples == (9, 8, 7, 6)


def test_surrogate_sizes_are_where_predictions_pass_the_levels() -> None:
  predicted = np.array([1.5, 0.5, -0.5, -1.0, -0.8, -2.0])
  np.testing.assert_array_equal(surrogate_sizes(predicted, 3), [3, 4, 6])
  np.testing.assert_array_equal(surrogate_sizes(predicted[:2], 3), [2])
  scores = np.array([[3.0, 2, 1, 0.5], [1, 0, 0, 0]])
  config = SearchConfig(max_share=0.99, size_law="surrogate", num_sizes=2)
  found = make_cases(
    "datamodel",
    scores,
    np.arange(2),
    np.zeros(4, int),
    np.zeros(2, int),
    config=config,
    same_class=False,
    predicted_full_t=np.array([4.0, 9.0]),
  )
  # Margins left are 1, -1, -2: at most 0 after two removals, at most -2 after three.
  np.testing.assert_array_equal(found[0].sizes, [2, 3])
  np.testing.assert_array_equal(found[1].sizes, [3])


def test_targets_are_sampled_among_the_right_ones() -> None:
  base = np.array([[1.0, -1, 0.1, 2], [1, -1, 0.1, 2], [1, 5, -0.9, 2]])
  # Target 1 is wrong in most models, target 2 has a negative mean.
  np.testing.assert_array_equal(sample_targets(base, 10, 0), [0, 3])
  # Right in half of the models is enough; a mean of 0, or a margin of 0, is not.
  limits = np.array([[3.0, 2, 5], [4, 2, 0], [-1, 2, 0], [-1, -6, 0]])
  np.testing.assert_array_equal(right_targets(limits), [True, False, False])
  many = np.ones((3, 100))
  sample = sample_targets(many, 20, 0)
  assert len(set(sample)) == 20
  assert set(sample) != set(sample_targets(many, 20, 1))


def test_cases_rank_by_score_within_what_is_allowed() -> None:
  scores = np.array([[0.1, 0.9, 0.5, 0.7, 0.8, 0.2]])
  labels, target_labels = np.array([0, 1, 0, 0, 0, 1]), np.array([0])
  kwargs = {
    "config": SearchConfig(max_share=0.5),
    "targets": np.array([0]),
    "labels": labels,
    "target_labels": target_labels,
  }
  [any_class] = make_cases("m", scores, same_class=False, **kwargs)
  np.testing.assert_array_equal(any_class.ranking, [1, 4])
  [same] = make_cases("m", scores, same_class=True, **kwargs)
  np.testing.assert_array_equal(same.ranking, [4, 3])


def test_a_share_of_a_class_is_exact() -> None:
  for percent in range(1, 100):
    for size in (7, 50, 100, 150, 350, 5000):
      found = largest_change(np.zeros(size, int), 0, percent / 100)
      assert found == max(1, percent * size // 100)
  assert largest_change(np.zeros(9, int), 0, 1 / 3) == 3
  assert largest_change(np.zeros(9, int), 0, 1 - 1e-9) == 8


def test_bad_scores_and_settings_are_named() -> None:
  kwargs = {
    "config": SearchConfig(max_share=0.5),
    "same_class": False,
    "targets": np.array([0]),
    "labels": np.zeros(4, int),
    "target_labels": np.zeros(1, int),
  }
  with pytest.raises(ValueError, match=r"\[t, n\] = \(1, 4\)"):
    make_cases("m", np.zeros((4, 1)), **kwargs)
  with pytest.raises(ValueError, match="m must be finite"):
    make_cases("m", np.full((1, 4), np.nan), **kwargs)
  with pytest.raises(ValueError, match=r"targets must be in \[0, 1\), got \[3\]"):
    make_cases("m", np.zeros((1, 4)), **kwargs | {"targets": np.array([3])})
  for field, value in [
    ("confidence", 0.5),
    ("confidence", 0.99999),
    ("verify_seeds", 1),
    ("max_share", 1.0),
    ("num_targets", 0),
  ]:
    with pytest.raises(ValueError, match=field):
      SearchConfig(**{field: value})


@pytest.mark.parametrize(
  "field,value,message",
  [
    ("size_law", "grd", "must be grid or surrogate, got 'grd'"),
    ("size_law", None, "must be grid or surrogate, got None"),
    ("seed", -1, "must be an integer in [0, 2**32), got -1"),
    ("seed", 0.5, "must be an integer in [0, 2**32), got 0.5"),
    ("num_sizes", 2.5, "must be an integer >= 1, got 2.5"),
    ("num_sizes", True, "must be an integer >= 1, got True"),
    ("search_models", "8", "must be an integer >= 1, got '8'"),
    ("max_verifications", None, "must be an integer >= 1, got None"),
    ("num_targets", np.nan, "must be an integer >= 1, got nan"),
    ("verify_seeds", 1001, "must be an integer in [2, 1000], got 1001"),
    ("max_share", "0.1", "must be a number, got '0.1'"),
    ("max_share", np.nan, "must be in (0, 1), got nan"),
    ("confidence", "0.95", "must be a number, got '0.95'"),
  ],
)
def test_settings_say_at_once_what_they_accept(field, value, message) -> None:
  with pytest.raises(UserError) as caught:
    SearchConfig(**{field: value})
  assert caught.value.setting == field and str(caught.value) == f"{field} {message}"


def test_numbers_of_numpy_are_settings_too() -> None:
  given = SearchConfig(max_share=np.float32(0.5), num_sizes=np.int64(7), seed=np.uint8(3))
  assert given == SearchConfig(max_share=0.5, num_sizes=7, seed=3)


def test_scores_of_the_wrong_sign_are_noticed_and_noise_is_not() -> None:
  rng = np.random.default_rng(0)
  labels, target_labels = np.arange(40) % 2, np.arange(12) % 2
  kwargs = {"config": SearchConfig(), "same_class": True}
  kwargs |= {"labels": labels, "target_labels": target_labels, "targets": np.arange(12)}
  for _ in range(200):
    noise = rng.normal(size=(12, 40))
    assert len(make_cases("m", noise, **kwargs)) == 12
  # Correct distances: a class that is spread out is farther from itself than from others.
  wide = rng.normal(size=(60, 3)) * np.where(np.arange(60) % 2, 3.0, 0.5)[:, None]
  wide_labels = np.arange(60) % 2
  far = np.linalg.norm(wide[:, None] - wide, axis=-1)
  rows = np.flatnonzero((wide_labels == 1) | (np.arange(60) < 10))
  wide_kwargs = kwargs | {"labels": wide_labels, "target_labels": wide_labels[rows]}
  assert far[rows][:, wide_labels == 1].mean() > far[rows][:, wide_labels == 0].mean()
  make_cases("close", -far[rows], **wide_kwargs | {"targets": np.arange(3)})
  support = noise + (target_labels[:, None] == labels)
  assert len(make_cases("m", support, **kwargs)) == 12
  with pytest.raises(ValueError, match="scores of m have the wrong sign"):
    make_cases("m", -support, **kwargs)


class ReadByTarget:
  """Scores that note how many targets are read at a time."""

  def __init__(self, scores_tn):
    self.scores_tn, self.shape, self.dtype = scores_tn, scores_tn.shape, scores_tn.dtype
    self.read: list[int] = []

  def __getitem__(self, targets):
    rows = self.scores_tn[targets]
    self.read.append(len(rows))
    return rows


def test_scores_are_read_a_tile_of_targets_at_a_time(monkeypatch) -> None:
  monkeypatch.setattr(score_signs, "_TILE_TARGETS", 5)
  rng = np.random.default_rng(0)
  labels, target_labels = np.arange(40) % 3, np.arange(23) % 3
  scores = rng.normal(size=(23, 40)) + (target_labels[:, None] == labels)
  kwargs = {"config": SearchConfig(), "same_class": False}
  kwargs |= {"labels": labels, "target_labels": target_labels}
  kwargs |= {"targets": np.array([22, 4])}
  rows = ReadByTarget(scores)
  for case, target in zip(make_cases("m", rows, **kwargs), (22, 4), strict=True):
    size = max(1, (labels == target_labels[target]).sum() // 4)
    best = sorted(range(40), key=lambda i, t=target: -scores[t, i])[:size]
    assert case.target == target and case.ranking.tolist() == best
  assert rows.read == [5, 5, 5, 5, 3, 2]
  with pytest.raises(ValueError, match="wrong sign"):
    make_cases(
      "m",
      ReadByTarget(np.repeat(-scores, 5, axis=1)),
      **kwargs | {"labels": np.repeat(labels, 5)},
    )
  for target, example in ((0, 39), (22, 0), (14, 7)):
    bad = scores.copy()
    bad[target, example] = np.nan
    with pytest.raises(ValueError, match="m must be finite"):
      make_cases("m", ReadByTarget(bad), **kwargs)


def test_censored_targets_stay_in_the_denominator() -> None:
  simulated = Simulated(np.array([2.5, 1000.0]), np.ones(2), 1e-9)
  found = search(cases(2), simulated, SearchConfig(), simulated.base)
  np.testing.assert_array_equal(
    summary.share_flipped(found, np.array([0, 2, 3, 64]))[0], [0, 0, 0.5, 0.5]
  )


def test_a_failed_verification_says_what_its_models_do() -> None:
  """Models of the search get the target wrong, fresh ones do not."""
  fresh = []

  def retrain(changes, seeds, *, progress):
    searched = np.array([prng.stream_of(seed).family == "search" for seed in seeds])
    margins = np.where(searched, -5.0, 1 + 0.1 * np.sin(seeds))
    rows = zip(changes, searched, margins, strict=True)
    fresh.extend((k, margin) for (_, k), probe, margin in rows if not probe)
    return margins

  [found] = search(cases(1), retrain, SearchConfig(), base(1))
  assert found.censored and found.finished and found.models == len(fresh) >= 3
  assert found.k_tried == fresh[-1][0] and found.accuracy == 1
  assert found.mean_margin == pytest.approx(np.mean([margin for _, margin in fresh]))
  assert 0 < found.margin_high < np.inf


def test_a_margin_of_0_is_not_right() -> None:
  def retrain(changes, seeds, *, progress):
    return np.zeros(len(seeds))

  [found] = search(cases(1), retrain, SearchConfig(), base(1))
  assert found.accuracy == 0
