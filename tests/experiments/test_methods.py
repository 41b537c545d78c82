"""Rival classes and priors, by which scores rank examples."""

import types

import numpy as np

import jaxdm
from experiments.runtime import datamodels, methods


def test_repairs_change_the_class_that_models_mistake_a_target_for() -> None:
  labels = np.arange(12, dtype=np.int32) % 3
  x = np.zeros((12, 2), np.float32)
  data = jaxdm.Dataset("m", x, labels, x[:3], labels[:3], ("a", "b", "c"))
  logits = np.array([[[0.0, 1, 5], [4, 0, 1], [2, 3, 9]]])
  rivals = methods.rival_classes(types.SimpleNamespace(dataset=data), logits)
  assert rivals.tolist() == [2, 0, 1]
  scores = np.random.default_rng(0).normal(size=(3, 12))
  found = methods.for_repairs({"similar": scores, "datamodel": scores}, data, rivals)
  np.testing.assert_array_equal(found["datamodel"], scores)
  for target, row in enumerate(found["similar"][:]):
    third = 3 - target - rivals[target]
    assert (row[labels == third] == np.float32(scores[target].min())).all()
    others = labels != third
    np.testing.assert_array_equal(row[others], scores[target, others].astype(np.float32))


def test_a_prior_is_made_of_the_scores_that_it_names() -> None:
  labels, targets = np.array([0, 1, 0, 1]), np.array([1, 0])
  scores = {
    "influence": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32),
    "similar": np.array([[0.9, 0.1, 0.5, -0.5], [0.2, 0.8, 0.0, 0.4]]),
  }
  whole = slice(0, 2), (2, 4)

  def made(name: str) -> jaxdm.Prior:
    return datamodels.prior_of(name, labels, targets, scores)

  assert made("none").factors_of(*whole) is made("influence").factors_of(*whole) is None
  by_class = np.where(targets[:, None] == labels, 1, np.sqrt(10))
  np.testing.assert_allclose(made("class").factors_of(*whole), by_class, rtol=1e-6)
  near = {"similar": scores["similar"], "influence+size": np.abs(scores["influence"])}
  for name, expected in near.items():  # The nearer, the smaller its penalty.
    order = np.argsort(made(name).factors_of(*whole), axis=1)
    np.testing.assert_array_equal(order, np.argsort(-expected, axis=1))
  for name in ("influence", "influence+size", "influence+covariance"):
    np.testing.assert_array_equal(made(name).offset_of(*whole), scores["influence"])
  joint = made("influence+covariance")
  assert joint.factors is None and joint.covariance_scores is scores["influence"]
