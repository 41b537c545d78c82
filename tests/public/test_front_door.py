"""What the public functions promise of any `retrain` function."""

import functools

import numpy as np
import pytest

import jaxdm

LABELS = np.arange(30) % 2
TARGETS = np.array([0, 1, 1])
WEIGHTS = np.random.default_rng(0).normal(size=(3, 30)) + 0.4 * (
  TARGETS[:, None] == LABELS
)


def margins_of(masks, labels, seeds) -> np.ndarray:
  """Linear in the examples; a relabelled one counts the other way."""
  signs = np.where(labels == LABELS, 1, -1) * masks
  noise = [np.random.default_rng(int(seed)).normal(size=3) for seed in seeds]
  return signs @ WEIGHTS.T + 0.3 * np.array(noise)


def smallest(step: float, target: int, allowed: np.ndarray) -> int:
  """Examples that must change before the margin is at most 0, the heaviest first."""
  weights = np.sort(WEIGHTS[target, allowed])[::-1]
  left = WEIGHTS[target].sum() - step * np.cumsum(weights)
  return int(np.flatnonzero(left <= 0)[0]) + 1


CONFIG = jaxdm.SearchConfig(max_share=0.9, num_targets=3)


def test_removals_and_flips_are_as_few_as_they_can_be() -> None:
  found = jaxdm.find_removals(WEIGHTS, margins_of, LABELS, TARGETS, config=CONFIG)
  assert found
  for verdict in found:
    exact = smallest(1.0, verdict.target, np.arange(30))
    assert exact <= verdict.k <= exact + 1
    assert verdict.examples[0] == WEIGHTS[verdict.target].argmax()
  flips = jaxdm.find_label_flips(
    WEIGHTS, margins_of, LABELS, TARGETS, new_labels=1 - TARGETS, config=CONFIG
  )
  for verdict in flips:
    allowed = np.flatnonzero(TARGETS[verdict.target] == LABELS)
    exact = smallest(2.0, verdict.target, allowed)
    assert exact <= verdict.k <= exact + 1
    assert set(verdict.examples) <= set(allowed.tolist())
  by_example = np.tile(1 - LABELS, (3, 1))
  again = jaxdm.find_label_flips(
    WEIGHTS, margins_of, LABELS, TARGETS, by_example, config=CONFIG
  )
  assert again == flips


def test_search_and_proof_have_seeds_of_their_own_and_labels_of_the_callers_type() -> (
  None
):
  asked = []

  def retrain(masks, labels, seeds):
    assert masks.dtype == bool and labels.dtype == LABELS.dtype
    assert masks.shape == labels.shape == (len(seeds), 30)
    asked.append((masks.all(axis=1), seeds))
    return margins_of(masks, labels, seeds)

  jaxdm.find_removals(WEIGHTS, retrain, LABELS, TARGETS, config=CONFIG)
  base, *others = asked
  assert base[0].all() and len(set(base[1])) == 16
  changed = {int(s) for whole, seeds in others for s in seeds}
  assert not changed & set(base[1].tolist())
  probes = {s for s in changed if s < 10**6}
  assert probes == set(range(len(probes))) and 1 <= len(probes) <= 8
  assert len(changed - probes) >= 3


def test_a_function_may_return_some_targets_and_may_be_told_of_progress() -> None:
  def some(masks, labels, seeds, *, progress):
    progress(1, len(masks))
    return margins_of(masks, labels, seeds)[:, some.column_targets]

  some.column_targets, told = [2, 0], []
  options = {"config": CONFIG, "progress": lambda *x: told.append(x)}
  all_found = jaxdm.find_removals(
    WEIGHTS, margins_of, LABELS, TARGETS, targets=[0, 2], config=CONFIG
  )
  found = jaxdm.find_removals(WEIGHTS, some, LABELS, TARGETS, targets=[0, 2], **options)
  assert [(v.target, v.k) for v in found] == [(v.target, v.k) for v in all_found]
  assert told[-1][0] == told[-1][1]
  with pytest.raises(ValueError, match=r"\[1\] wrong|no margins of targets"):
    jaxdm.find_removals(WEIGHTS, some, LABELS, TARGETS, targets=[1], config=CONFIG)


def test_methods_are_told_apart_and_datamodels_are_scores() -> None:
  masks = jaxdm.random_subsets(500, 30, alpha=0.5, seed=0)
  margins = margins_of(masks, np.broadcast_to(LABELS, masks.shape), np.arange(500))
  models = jaxdm.fit_datamodels(masks, margins)
  scores = {"mine": WEIGHTS, "fitted": models, "random": np.ones((3, 30))}
  found = jaxdm.find_removals(scores, margins_of, LABELS, TARGETS, config=CONFIG)
  by_name = jaxdm.summarise(found, np.bincount(LABELS)[TARGETS])
  assert list(by_name) == ["mine", "fitted", "random"]
  assert by_name["mine"]["share_flipped"] == by_name["fitted"]["share_flipped"] == 1
  same = [v for v in found if v.method == "random"]
  assert all((LABELS[list(v.examples)] == TARGETS[v.target]).all() for v in same)
  figure = jaxdm.plot_share_flipped(found)
  assert [line.get_label() for line in figure.axes[0].lines] == list(by_name)


@pytest.mark.parametrize(
  "change,message",
  [
    ({"scores": WEIGHTS[:, :-1]}, r"must be \[t, n\]"),
    ({"scores": np.full((3, 30), np.nan)}, "must be finite"),
    ({"scores": {}}, "at least one"),
    ({"labels": LABELS.astype(str)}, "vector of integers"),
    ({"labels": LABELS - 1}, "must be >= 0"),
    ({"target_labels": TARGETS[:, None]}, "vector of integers"),
    ({"targets": [3]}, r"must be in \[0, 3\)"),
    ({"base_margins": np.ones((4, 2))}, r"must be \[r, t\]"),
    ({"base_margins": -np.ones((8, 3))}, "no target right"),
    ({"base_margins": -np.ones((8, 3)), "targets": [1]}, r"\[1\] wrong"),
    (
      {"retrain": lambda masks, labels, seeds: np.ones(len(masks))},
      "must return margins",
    ),
    ({"retrain": lambda masks, labels, seeds: [["a"] * 3] * len(masks)}, "must return"),
    (
      {"retrain": lambda *x: np.full((len(x[0]), 3), np.nan)},
      "no finite margins; .* peak_learning_rate is too large",
    ),
  ],
)
def test_what_cannot_be_searched_is_refused(change, message) -> None:
  given = {"scores": WEIGHTS, "retrain": margins_of, "labels": LABELS}
  given |= {"target_labels": TARGETS, "config": CONFIG} | change
  with pytest.raises(ValueError, match=message):
    jaxdm.find_removals(**given)


@pytest.mark.parametrize("new", [TARGETS, np.zeros((3, 29)), np.tile(LABELS, (3, 1))])
def test_flips_to_the_label_that_is_there_are_refused(new) -> None:
  with pytest.raises(ValueError, match="new_labels"):
    jaxdm.find_label_flips(WEIGHTS, margins_of, LABELS, TARGETS, new, config=CONFIG)


def test_what_is_remembered_is_not_asked_again(tmp_path) -> None:
  asked = []

  def counted(masks, labels, seeds):
    asked.extend(seeds)
    return margins_of(masks, labels, seeds)

  keep = functools.partial(jaxdm.remember, counted, LABELS, TARGETS)
  first = keep(folder=tmp_path / "a", depends_on={"version": 1})
  found = jaxdm.find_removals(WEIGHTS, first, LABELS, TARGETS, config=CONFIG)
  plain = jaxdm.find_removals(WEIGHTS, margins_of, LABELS, TARGETS, config=CONFIG)
  for a, b in zip(found, plain, strict=True):
    assert a.k == b.k
    np.testing.assert_allclose(a.mean_margin, b.mean_margin, rtol=1e-5)  # As float32.
  count = len(asked)
  second = keep(folder=tmp_path / "a", depends_on={"version": 1})
  again = jaxdm.find_removals(WEIGHTS, second, LABELS, TARGETS, config=CONFIG)
  assert again == found and len(asked) == count
  with pytest.raises(jaxdm.UserError, match="depends_on"):
    keep(folder=tmp_path / "a", depends_on={"version": 2})
  with pytest.raises(TypeError, match="identity cannot hold"):
    keep(folder=tmp_path / "b", depends_on=counted)


def test_a_trainer_remembers_where_it_has_a_folder(tmp_path) -> None:
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 12, 5)
  config = jaxdm.TrainConfig(epochs=2, batch_size=6)
  masks = jaxdm.random_subsets(5, 24, alpha=0.5, seed=0)
  given = masks, dataset.train_labels, np.arange(5)
  build = functools.partial(jaxdm.Trainer, dataset, config, network="linear", seed=3)
  plain = build()(*given)
  kept = build(folder=tmp_path / "a")(*given)
  np.testing.assert_array_equal(kept, plain)
  again = build(folder=tmp_path / "a")
  again.fleet.train = None  # Nothing may be trained.
  np.testing.assert_array_equal(again(*given), plain)
  other = functools.partial(jaxdm.Trainer, dataset, config, folder=tmp_path / "a", seed=3)
  with pytest.raises(jaxdm.UserError, match="network: stored .*linear"):
    other(network="mlp")(*given)
