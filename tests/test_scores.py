"""Baselines and priors."""

import numpy as np
from sklearn.metrics import pairwise

from jaxdm import baselines, priors


def test_similarities_are_those_of_scikit_learn() -> None:
  rng = np.random.default_rng(0)
  train, targets = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
  for scores, expected in (
    (baselines.representation_similarity, pairwise.cosine_similarity(targets, train)),
    (baselines.closeness, -pairwise.euclidean_distances(targets, train)),
  ):
    np.testing.assert_allclose(scores(train, targets), expected, atol=1e-6)


def test_dead_features_do_not_make_nan() -> None:
  scores = baselines.representation_similarity(np.zeros((3, 2)), np.ones((2, 2)))
  np.testing.assert_array_equal(scores, np.zeros((2, 3)))


def test_random_scores_replay_and_differ_between_targets_and_seeds() -> None:
  a = baselines.random(3, 50, seed=1)
  np.testing.assert_array_equal(a, baselines.random(3, 50, seed=1))
  assert not np.array_equal(a, baselines.random(3, 50, seed=2))
  assert not np.array_equal(a[0].argsort(), a[1].argsort())


def test_factors_are_small_where_weights_are_expected() -> None:
  by_class = priors.by_class(np.array([0, 1]), np.array([1, 0, 1]), other=3.0)
  np.testing.assert_array_equal(by_class, [[3, 1], [1, 3], [3, 1]])
  cosine = np.array([[0.9, 0.5, 0.0], [1.0, -1.0, 0.0]])
  factors = priors.by_similarity(cosine, power=1.0)
  np.testing.assert_allclose(factors, [[0.2, 1, 2], [0.05, 2, 1]], rtol=1e-5)
  np.testing.assert_array_equal(priors.by_similarity(cosine, power=0.0), np.ones((2, 3)))
  scores = np.array([[-9.0, 1, 0, 1], [0, 0, 0, 0]])
  factors = priors.by_size(scores)
  assert factors[0, 0] < factors[0, 1] == factors[0, 3] < factors[0, 2]
  np.testing.assert_array_equal(factors[1], 1)
