"""Removals chosen one at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from test_gradient import logistic
from test_launchers import finished  # noqa: F401

from experiments import base_models, fit_datamodels, greedy, launcher
from jaxdm import brittleness
from jaxdm import greedy as greedy_lib
from jaxdm.baselines import gradient

STRENGTH = 1.0


def damping_of(model: gradient.Gradients) -> float:
  """The same regularisation as the logistic regression's, in units of `influence`."""
  p = 1 / (1 + np.exp(-np.asarray(model.odds_n, np.float64)))
  squares = (np.asarray(model.train_nd, np.float64) ** 2).sum(axis=1)
  return STRENGTH / float(np.mean(p * (1 - p) * squares))


def by_refitting(models, t: int, weights_n: np.ndarray, most: int) -> list[int]:
  """The same order in float64, each linearised problem solved anew for every choice."""

  def influence(gone: list[int]) -> np.ndarray:
    total = 0.0
    for model in models:
      phi, target_td, odds = (np.asarray(part, np.float64) for part in model)
      p = 1 / (1 + np.exp(-odds))
      left = np.delete(np.arange(len(phi)), gone)
      hessian = (phi[left].T * (p * (1 - p))[left]) @ phi[left] + STRENGTH * np.eye(5)
      moved = -np.linalg.solve(hessian, ((1 - p)[gone, None] * phi[gone]).sum(axis=0))
      pull = (1 - p) - p * (1 - p) * (phi @ moved)
      total = total + np.linalg.solve(hessian, phi.T).T @ target_td[t] * pull
    return total / len(models)

  first, gone = influence([]), []
  for _ in range(most):
    values = weights_n + influence(gone) - first
    values[gone] = -np.inf
    gone.append(int(np.argmax(values)))
  return gone


def stacked(models, examples_uc: np.ndarray, t: int) -> greedy_lib.Linearised:
  """All models' answers for one target."""
  each = [greedy_lib.linearise(model, examples_uc, damping_of(model)) for model in models]
  return greedy_lib.Linearised(
    *(
      np.stack([np.asarray(field)[t] for field in fields])
      for fields in zip(*each, strict=True)
    )
  )


@pytest.mark.parametrize("t", range(4))
def test_orders_are_those_of_linearised_problems_solved_anew(t: int) -> None:
  models = [logistic(STRENGTH, seed=seed)[0] for seed in range(3)]
  weights_n = np.random.default_rng(t).normal(size=60) / 10
  examples_uc = np.tile(np.random.default_rng(9).permutation(60), (4, 1))
  order = greedy_lib.order(
    stacked(models, examples_uc, t), weights_n[examples_uc[t]], most=20
  )
  found = examples_uc[t][np.asarray(order)].tolist()
  expected = by_refitting(models, t, weights_n, 20)
  assert found == expected
  # The weights alone would have chosen others.
  assert set(found) != set(np.argsort(-weights_n)[:20].tolist())


def test_refitted_models_lose_more_than_by_influence_taken_once() -> None:
  gains, first = [], []
  for seed in range(5):
    model, fit, phi_td = logistic(STRENGTH, seed=seed)
    everything = np.tile(np.arange(60), (4, 1))
    rows_nd = gradient.influence(model, damping_of(model))
    scores_tn = np.asarray(gradient.scores(rows_nd, model.target_td))
    for t in range(4):
      known = stacked([model], everything, t)
      order = np.asarray(greedy_lib.order(known, scores_tn[t], most=15))
      once = np.argsort(-scores_tn[t], kind="stable")[:15]
      first.append(order[0] == once[0])
      margins = [
        phi_td[t] @ fit(np.delete(np.arange(60), gone)) for gone in (once, order)
      ]
      gains.append(margins[0] - margins[1])
  assert all(first)
  assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains)) > 0


@pytest.fixture(scope="module")
def opened(finished):  # noqa: F811
  with flagsaver.as_parsed(workdir=str(finished)):
    return launcher.open_lab()


@pytest.mark.slow
def test_the_searched_targets_get_orders_and_others_keep_their_weights(opened) -> None:
  targets = base_models.searched_targets(opened)
  weights_tn = fit_datamodels.fitted(opened.workdir).weights_tn
  found = greedy.scores(opened, targets)
  others = np.delete(np.arange(len(found)), targets)
  np.testing.assert_array_equal(found[others], weights_tn[others])
  most = brittleness.largest_change(
    opened.labels, int(opened.target_labels[targets[0]]), 0.25
  )
  models = base_models.trained_again(opened, targets, 0, 4)[1]
  examples_uc = np.argsort(-weights_tn[targets], axis=1, kind="stable")[:, : 4 * most]
  damping = opened.experiment.gradient.damping
  for row, target in enumerate(targets):
    each = [greedy_lib.linearise(model, examples_uc, damping) for model in models]
    known = greedy_lib.Linearised(
      *(jnp.stack([field[row] for field in fields]) for fields in zip(*each, strict=True))
    )
    weights_c = weights_tn[target, examples_uc[row]]
    order = greedy_lib.order(known, weights_c, most=most)
    ranking = np.argsort(-found[target], kind="stable")
    assert ranking[0] == weights_tn[target].argmax()
    np.testing.assert_array_equal(ranking[:most], examples_uc[row][np.asarray(order)])
  # Kept: the other call finds what the first one made.
  np.testing.assert_array_equal(greedy.scores(opened, targets), found)
