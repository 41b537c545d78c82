"""What is said of a training set, against simulated banks whose truth is known."""

import collections

import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxdm
from jaxdm import intervals, training_sets
from jaxdm.audits import estimates, tallies
from jaxdm.storage import training_predictions
from jaxdm.storage.matrix_view import MatrixView

BANKS = 2000
ESTIMATES = ("consistency", "probability", "memorisation", "label_quality")


def bank(m: int = 60, n: int = 40, k: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
  """Margins that depend on the example, and on whether a model was trained on it."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, k, n)
  masks = rng.random((m, n)) < 0.5
  margins = rng.normal(size=n) + masks * rng.random(n) + rng.normal(size=(m, n))
  others = (labels + rng.integers(1, k, (m, n))) % k
  predicted = np.where(margins > 0, labels, others)
  return {"masks": masks, "margins": margins, "labels": labels, "predicted": predicted}


# Means and spreads of margins, left out and trained on.
LAWS = [((0, 1), (2, 1)), ((4, 2), (6, 2)), ((8, 2), (8, 1)), ((-3, 4), (9, 4))]


@pytest.mark.parametrize("out,inside", LAWS)
@pytest.mark.parametrize("m", [30, 300])
def test_intervals_cover_the_truth_in_simulated_banks(out, inside, m) -> None:
  """Each example is a bank of its own, since examples do not depend on each other."""
  rng = np.random.default_rng(m)
  masks = rng.random((m, BANKS)) < 0.5
  noise = rng.normal(size=masks.shape)
  margins = np.where(masks, inside[0] + inside[1] * noise, out[0] + out[1] * noise)
  found = jaxdm.audit(masks, margins, np.arange(BANKS) % 2)
  quantiles = scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
  right_in, right_out = (scipy.stats.norm.cdf(mean / sd) for mean, sd in (inside, out))
  p_in, p_out = (
    scipy.special.expit(mean + sd * quantiles).mean() for mean, sd in (inside, out)
  )
  truth = [right_out, p_out, right_in - right_out, (p_in + p_out) / 2]
  for name, value in zip(ESTIMATES, truth, strict=True):
    estimate = getattr(found, name)
    covered = (estimate.low <= value) & (value <= estimate.high)
    assert covered.mean() >= 0.94, (name, covered.mean())
    assert (estimate.low <= estimate.value).all()
    assert (estimate.value <= estimate.high).all()


@pytest.mark.parametrize("share", [1, 0.3])
def test_totals_over_targets_cover_their_expectation(share) -> None:
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(120, BANKS)) * (rng.random((120, BANKS)) < share)
  found = jaxdm.audit(**bank(n=BANKS), scores=scores)
  expected = 120 * share * scipy.stats.norm.pdf(0)  # The mean of a positive part.
  for total in (found.support, found.opposition):
    assert np.mean((total.low <= expected) & (expected <= total.high)) >= 0.94
  np.testing.assert_allclose(found.support.value, scores.clip(0).sum(axis=0))
  np.testing.assert_allclose(found.opposition.value, (-scores).clip(0).sum(axis=0))


def test_every_number_is_that_of_a_loop() -> None:
  given = bank()
  masks, margins, labels, predicted = given.values()
  found = jaxdm.audit(**given)
  for i, label in enumerate(labels):
    out, inside = margins[~masks[:, i], i], margins[masks[:, i], i]
    right = scipy.stats.binomtest(int((out > 0).sum()), len(out))
    ends = right.proportion_ci(0.95, "exact")
    consistency = [part[i] for part in found.consistency]
    np.testing.assert_allclose(consistency, [right.statistic, *ends], atol=1e-9)
    assert (found.models_in[i], found.models_out[i]) == (len(inside), len(out))
    memorised = (inside > 0).mean() - (out > 0).mean()
    assert found.memorisation.value[i] == pytest.approx(memorised)
    p_in, p_out = (np.mean(1 / (1 + np.exp(-part))) for part in (inside, out))
    assert found.probability.value[i] == pytest.approx(p_out)
    assert found.label_quality.value[i] == pytest.approx((p_in + p_out) / 2)
    votes = collections.Counter(predicted[~masks[:, i], i].tolist())
    suggested = found.suggested_labels[i]
    assert votes[suggested] == max(votes.values())
    assert suggested == label or votes[suggested] > votes[label]
  order = [i for i in np.argsort(found.label_quality.value) if i in found.doubtful]
  below = {i for i in order if found.consistency.high[i] < 0.2}
  assert set(found.suspicious.tolist()) == below
  assert found.doubtful.tolist() == order
  wrong = np.flatnonzero(found.suggested_labels != labels)
  assert sorted(found.doubtful.tolist()) == wrong.tolist()


def test_labels_that_are_learned_by_heart_can_be_suspicious() -> None:
  masks = np.random.default_rng(0).random((200, 40)) < 0.5
  margins = np.where(masks, 20.0, 5.0)  # Who saw an example is sure of its label.
  margins[:, :3] = np.where(masks[:, :3], 20.0, -5.0)
  found = jaxdm.audit(masks, margins, np.arange(40) % 2)
  assert found.label_quality.value.min() >= 0.5
  assert sorted(found.suspicious.tolist()) == [0, 1, 2]


def assert_same(one: jaxdm.Audit, two: jaxdm.Audit, atol: float = 1e-12) -> None:
  for name in ESTIMATES:
    for left, right in zip(getattr(one, name), getattr(two, name), strict=True):
      np.testing.assert_allclose(left, right, rtol=0, atol=atol)
  np.testing.assert_array_equal(one.suggested_labels, two.suggested_labels)


def test_forms_of_input_and_sizes_of_blocks_do_not_matter(tmp_path, monkeypatch) -> None:
  given = bank()
  whole = jaxdm.audit(**given)
  monkeypatch.setattr(tallies, "_BLOCK_BYTES", 7 * 40 * 40)
  packed = training_sets.PackedMasks.of([given["masks"]])
  assert_same(jaxdm.audit(**given | {"masks": packed}), whole)
  lists = {name: value.tolist() for name, value in given.items()}
  assert_same(jaxdm.audit(**lists), whole)
  store = training_predictions.open_store(
    tmp_path, num_train=40, num_classes=4, settings={}, rows_per_chunk=64
  )
  training_predictions.write_from(store, 0, given["margins"], given["predicted"])
  margins, classes = (MatrixView(store, n, np.arange(60)) for n in ("margins", "classes"))
  stored = jaxdm.audit(given["masks"], margins, given["labels"], classes)
  # In float16: whether a model is right stays, probabilities change by 1.1e-4 at most.
  assert_same(stored, whole, atol=2e-3)
  np.testing.assert_array_equal(stored.consistency.value, whole.consistency.value)
  change = stored.label_quality.value - whole.label_quality.value
  assert 0 < np.abs(change).max() < 1.1e-4


def test_two_classes_need_no_predictions_and_more_suggest_nothing_without() -> None:
  two = bank(k=2)
  given = {name: two[name] for name in ("masks", "margins", "labels")}
  assert_same(jaxdm.audit(**given), jaxdm.audit(**two))
  four = bank()
  del four["predicted"]
  found = jaxdm.audit(**four)
  np.testing.assert_array_equal(found.suggested_labels, four["labels"])
  assert not found.doubtful.size


def test_what_cannot_be_said_is_named_and_the_rest_goes_on() -> None:
  given = bank()
  given["masks"][:, 3], given["masks"][:, 5] = True, False
  given["margins"][:, 7] = np.nan
  given["margins"][11, 9] = np.nan
  given["labels"][20], given["labels"][30] = -1, 4
  with pytest.warns(UserWarning) as told:
    found = jaxdm.audit(**given)
  lines = {str(one.message) for one in told}
  assert lines == {
    "1 examples have a label that is no class: 20",
    "1 examples are alone in their class, so that models without them cannot choose it: "
    "30",
    "1 examples have no margins: 7",
    "1 examples are in every training set, so that nothing is known without them: 3",
    "1 examples are in no training set, so that nothing is known of their "
    "memorisation: 5",
    "1 of 60 models are left out: margins of them are not finite",
  }
  unknown = {
    "consistency": {3, 7},
    "probability": {3, 7},
    "memorisation": {3, 5, 7},
    "label_quality": {3, 5, 7},
  }
  for name, examples in unknown.items():
    value, low, high = getattr(found, name)
    assert set(np.flatnonzero(np.isnan(value))) == examples
    least = -1 if name == "memorisation" else 0
    assert all((low[i], high[i]) == (least, 1) for i in examples)
  assert not set(found.doubtful) & {3, 5, 7}
  # The others are what they are in a bank without model 11.
  rest = np.setdiff1d(np.arange(40), [3, 5, 7, 20, 30])
  fewer = {
    name: np.delete(value, 11, axis=0)[:, rest] if value.ndim == 2 else value[rest]
    for name, value in given.items()
  }
  expected = jaxdm.audit(**fewer)
  np.testing.assert_allclose(
    found.label_quality.value[rest], expected.label_quality.value
  )


@pytest.mark.parametrize(
  "change,setting,message",
  [
    ({"margins": None}, "margins", "must be float"),
    ({"margins": np.ones((60, 39))}, "margins", r"= \[60, 40\], as the masks, got \[60"),
    ({"margins": np.full((60, 40), np.nan)}, "margins", "not finite for any model"),
    ({"margins": np.full((60, 40), "a")}, "margins", "must hold real numbers"),
    ({"masks": np.ones(60, bool)}, "masks", "must be"),
    (
      {"masks": np.full((60, 40), 0.5)},
      "masks",
      "must be bool, or numbers 0 and 1, got 0.5 in row 0",
    ),
    (
      {"masks": np.eye(60, 40) * (1 + np.arange(60)[:, None])},
      "masks",
      "got 2.0 in row 1",
    ),
    ({"labels": np.ones(39, int)}, "labels", "must be 40 integers"),
    ({"labels": np.ones(40)}, "labels", "must be a vector of integers, got float64 .40."),
    ({"labels": np.arange(40) + 2**41}, "labels", "below 65536, got .*numpy.unique"),
    ({"predicted": np.full((60, 40), 2**41)}, "predicted", "must be class numbers"),
    ({"predicted": np.ones((60, 4), int)}, "predicted", "as the masks"),
    (
      {"predicted": np.where(np.eye(60, 40, -2), np.nan, 1)},
      "predicted",
      "must be integers, .*, got nan of model 2",
    ),
    ({"predicted": np.full((60, 40), 0.5)}, "predicted", "got 0.5 of model 0"),
    ({"predicted": np.full((60, 40), np.inf)}, "predicted", "got inf of model 0"),
    ({"masks": np.ones((0, 40), bool)}, "masks", r"must have models and .*, got \[0, 40"),
    ({"masks": np.ones((60, 0), bool)}, "masks", r"must have models and .*, got \[60, 0"),
    ({"scores": np.ones((3, 4))}, "scores", "must be .targets, 40"),
    ({"scores": np.full((3, 40), np.nan)}, "scores", "finite"),
  ],
)
def test_bad_input_is_one_line(change, setting, message) -> None:
  with pytest.raises(jaxdm.UserError, match=message) as raised:
    jaxdm.audit(**bank() | change)
  assert raised.value.setting == setting
  assert "\n" not in str(raised.value)


def test_nothing_is_suggested_of_what_is_not_known() -> None:
  rng, labels = np.random.default_rng(0), np.array([0, 0, 1, 1, 0, 1])
  masks, margins = rng.random((40, 6)) < 0.5, rng.normal(size=(40, 6)) + 3
  margins[:, [1, 2]] = np.nan
  result = jaxdm.audit(masks, margins, labels)
  np.testing.assert_array_equal(result.suggested_labels, labels)
  # One class is none of two: another one does not exist.
  result = jaxdm.audit(masks, -np.abs(margins), np.zeros(6, int))
  np.testing.assert_array_equal(result.suggested_labels, np.zeros(6, int))


@pytest.mark.parametrize(
  "unit,offset", [(1, 0), (1, 1e4), (1, 1e6), (1e80, 0), (1e-90, 0)]
)
def test_totals_are_those_of_terms_less_their_mean(unit, offset) -> None:
  rng = np.random.default_rng(0)
  terms = rng.gamma(2, size=(300, BANKS))  # Positive, so that the support has them all.
  found = jaxdm.audit(**bank(n=BANKS), scores=(terms + offset) * unit).support
  skewness, tails = scipy.stats.skew(terms), scipy.stats.kurtosis(terms) + 2
  error = terms.std(axis=0, ddof=1) * np.sqrt(300)
  low, high = intervals.skewed(terms.sum(axis=0), error, 300, skewness, tails)
  value = 300 * offset
  atol = 1e-9 * value
  np.testing.assert_allclose(found.low / unit - value, low, rtol=1e-6, atol=atol)
  np.testing.assert_allclose(found.high / unit - value, high, rtol=1e-6, atol=atol)


@pytest.mark.parametrize(
  "one,two,ends",
  [
    ((56, 70), (48, 80), (0.0524, 0.3339)),
    ((9, 10), (3, 10), (0.1705, 0.8090)),
    ((6, 7), (2, 7), (0.0582, 0.8062)),
  ],
)
def test_differences_have_newcombes_published_ends(one, two, ends) -> None:
  """Table II of Newcombe, Statistics in Medicine 17 (1998), method 10."""
  parts = []
  for wins, count in (one, two):
    ends_of_one = scipy.stats.binomtest(wins, count).proportion_ci(0.95, "wilson")
    numbers = (wins / count, *ends_of_one)
    parts.append(estimates.Estimate(*(np.array([x]) for x in numbers)))
  found = estimates.difference(*parts)
  np.testing.assert_allclose([found.low[0], found.high[0]], ends, atol=5e-5)


@pytest.mark.parametrize("out,inside", [LAWS[0], LAWS[3]])
def test_intervals_are_no_wider_than_they_must_be(out, inside) -> None:
  """Their half-width is at most 15 % above that of the true standard deviation."""
  rng = np.random.default_rng(0)
  masks = rng.random((300, BANKS)) < 0.5
  noise = rng.normal(size=masks.shape)
  margins = np.where(masks, inside[0] + inside[1] * noise, out[0] + out[1] * noise)
  found = jaxdm.audit(masks, margins, np.arange(BANKS) % 2)
  for name in ESTIMATES:
    estimate = getattr(found, name)
    half = (estimate.high - estimate.low).mean() / 2
    assert half < 1.15 * 1.96 * estimate.value.std(), name


@pytest.mark.parametrize("targets,known", [(4, False), (5, True)])
def test_few_targets_say_nothing_of_others(targets, known) -> None:
  rng = np.random.default_rng(0)
  given = rng.random((60, 6)) < 0.5, rng.normal(size=(60, 6)), np.arange(6) % 2
  support = jaxdm.audit(*given, scores=rng.normal(size=(targets, 6))).support
  for ends in (support.low, support.high):
    assert np.isfinite(ends).all() == known


def test_equal_scores_say_nothing_of_other_targets() -> None:
  rng = np.random.default_rng(0)
  given = rng.random((60, 6)) < 0.5, rng.normal(size=(60, 6)), np.arange(6) % 2
  support = jaxdm.audit(*given, scores=np.ones((9, 6))).support
  assert not np.isfinite([support.low, support.high]).any()
