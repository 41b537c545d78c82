"""Baselines and priors."""

import math

import numpy as np
import pytest
from sklearn.metrics import pairwise

from jaxdm import prng
from jaxdm.attribution import scores as scores_lib
from jaxdm.attribution import similarity as similarity_lib
from jaxdm.attribution.random_scores import random_rows
from jaxdm.attribution.scores import Term, add_scores
from jaxdm.attribution.similarity import closeness, pixel_rows, similarity
from jaxdm.datamodels import priors


def test_similarities_are_those_of_scikit_learn() -> None:
  rng = np.random.default_rng(0)
  train, targets = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
  for scores, expected in (
    (similarity, pairwise.cosine_similarity(targets, train)),
    (closeness, -pairwise.euclidean_distances(targets, train)),
  ):
    np.testing.assert_allclose(scores(train, targets), expected, rtol=1e-5, atol=1e-6)


def test_near_neighbours_keep_their_order() -> None:
  rng = np.random.default_rng(0)
  target = rng.integers(0, 256, 3072).astype(np.float32)
  steps = np.arange(1, 9)
  train = np.tile(target, (8, 1))
  train[np.arange(8), np.arange(8)] += steps
  found = np.asarray(closeness(train, target[None]))[0]
  np.testing.assert_allclose(found, -steps, rtol=1e-6)


def test_tiles_of_targets_are_joined(monkeypatch) -> None:
  rng = np.random.default_rng(0)
  train, targets = rng.normal(size=(7, 5)), rng.normal(size=(10, 5))
  whole = similarity(train, targets)
  monkeypatch.setattr(scores_lib, "_TILE_TARGETS", 4)
  sizes = []

  def score(train_rows, rows):
    sizes.append(len(rows))
    return similarity(train_rows, rows)

  found = np.zeros((10, 7), np.float32)
  add_scores(found, [Term(score, train, targets)])
  np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-7)
  assert sizes == [4, 4, 2]


def test_terms_are_added_in_their_order_whatever_the_tile(tmp_path, monkeypatch) -> None:
  rng = np.random.default_rng(0)
  train, targets = rng.normal(size=(7, 5)), rng.normal(size=(10, 5))
  pairs = [
    (similarity, -targets),
    (closeness, targets),
    (similarity, 1e6 * targets),
  ]
  terms = [Term(score, train, rows) for score, rows in pairs]
  expected = np.ones((10, 7), np.float32)
  for score, rows in pairs:
    expected = expected + np.asarray(score(train, rows))
  for tile in (3, 1024):
    monkeypatch.setattr(scores_lib, "_TILE_TARGETS", tile)
    path = tmp_path / f"{tile}.npy"
    total = np.lib.format.open_memmap(path, "w+", np.float32, (10, 7))
    total[:] = 1
    add_scores(total, terms)
    total.flush()
    np.testing.assert_allclose(np.load(path), expected, rtol=1e-6)


def test_dead_features_do_not_make_nan() -> None:
  scores = similarity(np.zeros((3, 2)), np.ones((2, 2)))
  np.testing.assert_array_equal(scores, np.zeros((2, 3)))


def test_random_scores_replay_and_differ_between_targets_and_seeds() -> None:
  a = random_rows(3, 50, seed=1)[:]
  np.testing.assert_array_equal(a, random_rows(3, 50, seed=1)[:])
  assert not np.array_equal(a, random_rows(3, 50, seed=2)[:])
  assert not np.array_equal(a[0].argsort(), a[1].argsort())


@pytest.mark.parametrize("num_train", [1, 5, 8, 13])
def test_rows_of_random_scores_are_those_of_the_whole(num_train) -> None:
  whole = prng.generator_for(3, "random-scores").random((11, num_train), np.float32)
  rows = random_rows(11, num_train, seed=3)
  assert rows.shape == whole.shape
  for some in (slice(None), slice(2, 7), np.array([9, 0, 3]), whole[:, 0] > 0.5):
    np.testing.assert_array_equal(rows[some], whole[some])


def test_distances_of_pixels_are_exact_and_ties_are_ties(monkeypatch) -> None:
  rng = np.random.default_rng(0)
  train = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
  train[4], train[5] = 0, 255
  targets = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
  targets[1] = 0
  near = rng.integers(200, 255, (32, 32, 3), np.uint8)
  targets[0] = near
  train[:4] = near + rng.integers(-1, 2, (4, 32, 32, 3))  # Large terms, small distances.
  train[7] = train[2].swapaxes(0, 1)
  targets[2] = np.minimum(targets[2], targets[2].swapaxes(0, 1))  # As far from 7 as 2.
  monkeypatch.setattr(similarity_lib, "_BLOCK_EXAMPLES", 4)
  found = pixel_rows(train, targets)
  order = np.array([2, 0, 1])
  for target, row in zip(order, found[order], strict=True):
    squares = [
      sum(
        (int(a) - int(b)) ** 2 for a, b in zip(x.flat, targets[target].flat, strict=True)
      )
      for x in train
    ]
    np.testing.assert_array_equal(row, [-np.float32(math.sqrt(s)) for s in squares])
  assert found[:][2, 7] == found[:][2, 2] and found[:][1, 4] == 0 > found[:][0, 0]


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
