"""The exemplar SVM against the minimum of its objective by a general optimiser."""

import builtins

import numpy as np
import pytest
import scipy.optimize

import jaxdm
from jaxdm.attribution.exemplar_svm import exemplar_scores
from jaxdm.brittleness.score_signs import check_sign


def by_optimiser(train_nf, target_f, is_negative_n):
  """Decision values of L2-regularised squared hinge losses, both sides weighted alike."""
  x = np.vstack([target_f, train_nf[is_negative_n]])
  sign = np.where(np.arange(len(x)) == 0, 1.0, -1.0)
  weight = np.where(sign > 0, len(x) / 2, len(x) / 2 / (len(x) - 1))

  def objective(v):
    slack = np.maximum(0, 1 - sign * (x @ v[:-1] + v[-1]))
    return 0.5 * v @ v + 0.1 * weight @ slack**2

  start = np.zeros(x.shape[1] + 1)
  v = scipy.optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-8}).x
  return train_nf @ v[:-1] + v[-1]


def test_scores_minimise_the_published_objective() -> None:
  rng = np.random.default_rng(0)
  labels = np.array([0, 1] * 8)
  train, targets = rng.normal(size=(16, 3)), rng.normal(size=(4, 3))
  target_labels = np.array([1, 0, 1, 2])
  found = exemplar_scores(train, targets, labels, target_labels)
  assert found.dtype == np.float32
  for row, target, label in zip(found[:3], targets, target_labels, strict=False):
    expected = by_optimiser(train, target, labels == label)
    expected[labels != label] = expected[labels == label].min()
    np.testing.assert_allclose(row, expected, atol=2e-4)
  np.testing.assert_array_equal(found[3], 0)  # Of a class without examples.


def test_other_classes_do_not_make_searches_refuse_the_scores() -> None:
  # Far beyond the targets: to the classifier, they look more like one than its own class.
  labels = target_labels = np.repeat([0, 1], 20)
  noise = np.random.default_rng(0).normal(size=(2, 40, 1))
  x, targets = np.array([0.0, 9.0])[labels, None], np.array([2.0, 7.0])[labels, None]
  x, targets = x + 0.1 * noise[0], targets + 0.1 * noise[1]
  scores = exemplar_scores(x, targets, labels, target_labels)
  check_sign("svm", scores, labels, target_labels)


def test_the_method_uses_what_the_network_calls_features() -> None:
  vectors = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32)
  labels = np.arange(24, dtype=np.int32) % 2
  data = jaxdm.Dataset(
    "v", vectors[:20], labels[:20], vectors[20:], labels[20:], ("a", "b")
  )
  trainer = jaxdm.Trainer(
    data, jaxdm.TrainConfig(epochs=1, batch_size=5), network="linear"
  )
  found = jaxdm.attribution_scores(trainer, ["svm"], num_models=2)["svm"]
  # The linear network's features are the standardised inputs, whatever the model.
  mean, std = vectors[:20].mean(axis=0), vectors[:20].std(axis=0)
  train, targets = (vectors[:20] - mean) / std, (vectors[20:] - mean) / std
  for row, target, label in zip(found, targets, labels[20:], strict=True):
    expected = by_optimiser(train, target, labels[:20] == label)
    expected[labels[:20] != label] = expected[labels[:20] == label].min()
    np.testing.assert_allclose(row, expected, atol=2e-4)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch) -> None:
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("sklearn"):
      raise ModuleNotFoundError(name, name=name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(jaxdm.UserError, match="methods: svm needs scikit-learn"):
    exemplar_scores(np.ones((2, 1)), np.ones((1, 1)), [0, 0], [0])
