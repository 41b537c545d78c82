"""Scores and metrics of other packages; each test needs its package, of extra `bench`."""

import importlib

import numpy as np
import pytest

import jaxdm
from experiments.bench import attribution
from experiments.bench.peers import lds

torch = pytest.importorskip("torch")
models = importlib.import_module("experiments.bench.peers.torch_models")

# Package, side, and options that suit the embedded images.
PEERS = [
  ("trak", "traker", {"lambda_reg": 1e-2, "proj_dim": 256, "use_half_precision": False}),
  ("dattri", "dattri", {"regularization": 1e-2, "proj_dim": 256}),
  ("kronfluence", "kronfluence", {}),
  ("quanda", "quanda", {"lambda_reg": 1e-2, "proj_dim": 256}),
]


@pytest.fixture(scope="module")
def problem() -> jaxdm.Problem:
  return jaxdm.load_problem("fashion")


@pytest.fixture(scope="module")
def weights(problem) -> list[dict[str, np.ndarray]]:
  """Of one model on all data."""
  return models.weights_on_all_data(problem.trainer(problem.dataset()), 1)


@pytest.mark.slow
def test_networks_predict_what_our_models_do(problem, weights) -> None:
  dataset = problem.dataset()
  train, targets = models.examples(dataset)
  with torch.no_grad():
    logits = models.network(dataset, weights[0])(targets.images).numpy()
  scale = np.abs(problem.base_logits).max()
  nearest = [np.abs(logits - one).max() / scale for one in problem.base_logits]
  assert np.argmin(nearest) == 0 and nearest[0] < 0.1
  assert train.images.shape[0] == 200 and abs(train.images.mean()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("package,side,options", PEERS)
def test_peers_scores_predict_held_out_models(
  problem, weights, package, side, options
) -> None:
  pytest.importorskip(package, reason=f"{side} is not installed", exc_type=ImportError)
  module = importlib.import_module(f"experiments.bench.peers.{side}_scores")
  dataset = problem.dataset()
  train, targets = models.examples(dataset)
  few = targets._replace(images=targets.images[:30], labels=targets.labels[:30])
  scores = module.scores([models.network(dataset, weights[0])], train, few, **options)
  assert scores.shape == (30, 200) and scores.dtype == np.float32
  masks, margins = problem.held_out
  assert jaxdm.evaluate_scores(scores, masks, margins[:, :30]).lds.low > 0.05


@pytest.mark.parametrize("package", ["dattri", "quanda"])
def test_our_lds_is_that_of_their_metric(problem, package) -> None:
  pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)
  # Whole numbers, so that sums have no rounding, and some predictions are equal.
  scores = np.round(problem.margins.T.astype(float) @ (problem.masks - 0.5))
  ours = jaxdm.evaluate_scores(scores, *problem.held_out)
  theirs = getattr(lds, f"by_{package}")(problem, scores)
  np.testing.assert_allclose(theirs, ours.lds_t, atol=1e-5)
  np.testing.assert_allclose(np.mean(theirs), ours.lds.estimate, atol=1e-6)


def test_a_tuned_side_takes_the_best_options_on_models_not_held_out(problem) -> None:
  good = problem.margins[200:].T.astype(float) @ (problem.masks[200:] - 0.5)
  bad = np.random.default_rng(0).normal(size=good.shape)

  def score(count, regularization, proj_dim):
    assert count == 1
    return good if regularization == 0.01 else np.where(bad > 1, np.nan, bad)

  chosen = attribution.tune(problem, attribution.options_to_try("dattri-tuned"), score)
  assert chosen == {"regularization": 0.01, "proj_dim": 2048}


def test_subsets_are_lists_of_examples(problem) -> None:
  indices = lds.subset_indices(problem.held_out_masks)
  assert indices.shape == (200, 100)
  masks = np.zeros_like(problem.held_out_masks)
  np.put_along_axis(masks, indices, True, axis=1)
  np.testing.assert_array_equal(masks, problem.held_out_masks)
