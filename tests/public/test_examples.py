"""The examples of the documentation do what they say, judged by other means."""

import importlib
import itertools
import pathlib

import numpy as np
import pytest

import jaxdm

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch):
  """Imports an example by its name."""
  monkeypatch.syspath_prepend(str(EXAMPLES))
  return importlib.import_module


def margins_without(retrain, removed, labels, seeds) -> np.ndarray:
  """Margins float[m, t] of models without some examples."""
  masks = np.ones((len(seeds), len(labels)), bool)
  masks[:, list(removed)] = False
  return np.asarray(retrain(masks, np.broadcast_to(labels, masks.shape), seeds))


@pytest.mark.slow
def test_scikit_learns_smallest_removals_are_those_of_brute_force(example) -> None:
  mine = example("scikit_learn")
  found = mine.main()
  assert sorted(v.target for v in found) == [0, 1, 2] and all(v.finished for v in found)
  smallest = {}
  for size in (1, 2, 3):
    for removed in itertools.combinations(range(20), size):
      margins_t = margins_without(mine.retrain, removed, mine.labels, [0])[0]
      for target in np.flatnonzero(margins_t <= 0):
        smallest.setdefault(target, size)
  for verdict in found:
    removed = verdict.examples[: verdict.k]
    after = margins_without(mine.retrain, removed, mine.labels, [0])[0]
    assert after[verdict.target] <= 0
    # Nothing smaller exists; what it finds with 4 no set of 3 or fewer does.
    assert verdict.k == smallest.get(verdict.target, 4)


@pytest.mark.slow
def test_pytorchs_removals_hold_for_further_seeds(example) -> None:
  pytest.importorskip("torch")
  mine = example("pytorch")
  found = mine.main()
  claims = [v for v in found if not v.censored]
  assert len(found) == 2 and claims
  for verdict in claims:
    removed, seeds = verdict.examples[: verdict.k], np.arange(16) + 10**9
    margins = margins_without(mine.retrain, removed, mine.labels, seeds)
    mean, error = margins[:, verdict.target].mean(), margins[:, verdict.target].std() / 4
    assert mean <= 2 * error


def test_any_flax_module_is_searched_on_feature_vectors(example) -> None:
  mine = example("flax_features")
  dataset = mine.make_dataset(num_train=120, num_targets=20, features=8, num_classes=2)
  config = jaxdm.TrainConfig(epochs=20, batch_size=20, peak_learning_rate=0.1)
  found = mine.main(300, num_searched=4, dataset=dataset, config=config)
  claims = [v for v in found if not v.censored]
  assert len(found) == 4 and claims
  trainer = jaxdm.Trainer(dataset, config, network=mine.Head(2))
  for verdict in claims:
    removed, seeds = verdict.examples[: verdict.k], np.arange(32) + 10**9
    margins = margins_without(trainer, removed, dataset.train_labels, seeds)
    mine_m = margins[:, verdict.target]
    assert mine_m.mean() <= 2 * mine_m.std() / 32**0.5


def test_scores_from_a_file_are_judged_and_searched(example, tmp_path) -> None:
  scores, masks, margins, found = example("scores_from_file").main(tmp_path)
  # By the definition: Spearman's correlation of each target, averaged.
  ranks = [
    np.argsort(np.argsort(values, axis=0), axis=0)
    for values in (masks @ scores["theirs"].T, margins)
  ]
  each = [np.corrcoef(ranks[0][:, t], ranks[1][:, t])[0, 1] for t in range(40)]
  quality = jaxdm.evaluate_scores(scores["theirs"], masks, margins)
  np.testing.assert_allclose(quality.lds.estimate, np.mean(each), atol=2e-3)
  assert {v.method for v in found} == {"theirs", "random"} and len(found) == 12
