"""What models say of noisy labels, from stand-ins for their training."""

import sys
import types

import numpy as np
import pytest

from experiments.studies import label_errors, noisy_labels

M, N, T, K = 5, 6, 4, 3


@pytest.fixture
def streams(monkeypatch) -> None:
  """Keys of models are what they are made from."""
  monkeypatch.setattr(noisy_labels.prng, "keys_for", lambda seed, streams: list(streams))


class Fleet:
  """Two models a call, of which the logits are known."""

  rows = 2

  def __init__(self, logits_mik: np.ndarray):
    self.values, self.logits, self.asked = np.zeros((N, 2)), logits_mik, []

  def train_models(self, calls, values):
    assert len(values) == N + T
    done = 0
    for sets, keys in calls:
      count = len(sets.counts)
      self.asked += keys[:count]
      logits = self.logits[done : done + count]
      done += count
      yield types.SimpleNamespace(
        on_host=lambda x=logits: types.SimpleNamespace(logits=x)
      )


def test_every_model_has_its_own_key_and_predicts_both_splits(streams) -> None:
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(M, N + T, K)).astype(np.float32)
  labels, test_labels = rng.integers(0, K, N), rng.integers(0, K, T)
  data = types.SimpleNamespace(test_images=np.zeros((T, 2)), test_labels=test_labels)
  fleet = Fleet(logits)
  masks = rng.random((M, N)) < 0.5
  found = noisy_labels.train(fleet, data, masks, labels, 0, "family")
  assert fleet.asked == [("family", model) for model in range(M)]
  for m in range(M):
    for i in range(N):
      one = logits[m, i]
      odds = np.exp(one.astype(float))
      np.testing.assert_allclose(found.training_mnk[m, i], odds / odds.sum(), rtol=1e-5)
      margin = one[labels[i]] - max(np.delete(one, labels[i]))
      assert found.margins_mn[m, i] == pytest.approx(margin, abs=1e-6)
    right = [int(np.argmax(logits[m, N + t])) == test_labels[t] for t in range(T)]
    assert found.accuracy_m[m] == pytest.approx(np.mean(right))


def test_self_influence_is_the_mean_squared_gradient_of_the_loss(streams) -> None:
  """In calls of six models, whose rows the fleet deals to other places."""
  rng, n = np.random.default_rng(0), 130  # More than one part of examples.
  odds, gradients = rng.normal(size=(16, n)), rng.normal(size=(16, n, 3))
  places = np.array([4, 2, 0, 5, 1, 3])

  def gradients_of(models, examples, labels, keys):
    assert (labels == examples % 2).all()
    odds_rb = np.full((6, len(examples)), 9.0)
    gradients_rbd = np.full((6, len(examples), 3), 9.0)
    for place, (_, model) in zip(places, models, strict=False):
      odds_rb[place], gradients_rbd[place] = (
        x[model, examples] for x in (odds, gradients)
      )
    return odds_rb, gradients_rbd

  fleet = types.SimpleNamespace(
    rows=6,
    values=np.arange(n),
    places=places,
    train=lambda sets, keys: keys,
    gradients=gradients_of,
  )
  found = noisy_labels.self_influence(fleet, np.arange(n) % 2, 0)
  loss_gradients = (1 - 1 / (1 + np.exp(-odds)))[..., None] * gradients
  expected = (np.linalg.norm(loss_gradients, axis=-1) ** 2).mean(axis=0)
  np.testing.assert_allclose(found, expected)


def test_issues_come_before_all_others_and_less_sure_labels_first(monkeypatch) -> None:
  is_issue = np.array([False, True, False, True, False])
  quality = np.array([0.1, 0.9, 0.6, 0.2, 1.0])
  package = types.SimpleNamespace(
    filter=types.SimpleNamespace(find_label_issues=lambda *_, n_jobs: is_issue),
    rank=types.SimpleNamespace(get_label_quality_scores=lambda *_: quality),
  )
  monkeypatch.setitem(sys.modules, "cleanlab", package)
  doubt = label_errors.cleanlab_doubt(np.zeros(5, int), np.zeros((5, 2)))
  assert np.argsort(-doubt).tolist() == [3, 1, 0, 2, 4]


def test_the_table_of_label_errors_has_means_and_totals_over_seeds() -> None:
  def case(kind: str, precision: float, auroc: float, counts: tuple[int, ...], right):
    sums = dict(zip(("relabelled", "relabelled_right", "wrong"), counts, strict=True))
    methods = {"average_precision": {"audit": precision}, "auroc": {"audit": auroc}}
    accuracy = {"relabelled": right, "right": (0.9, 0.85, 0.95)}
    return {"kind": kind, "rate": 0.1, **methods, **sums, "accuracy": accuracy}

  cases = [
    case("symmetric", 0.5, 0.75, (5, 4, 10), (0.7, 0.65, 0.75)),
    case("symmetric", 0.6, 0.95, (9, 6, 11), (0.8, 0.75, 0.85)),
    case("confused", 0.25, 0.5, (1, 0, 10), (0.5, 0.4, 0.6)),
  ]
  lines = label_errors.table(cases).splitlines()
  assert "| symmetric 0.1 | audit | 0.550 | 0.850 |" in lines
  assert "| confused 0.1 | audit | 0.250 | 0.500 |" in lines
  row = "| symmetric 0.1 | 14 (10) of 21 | relabelled | 75.0% [70.0%, 80.0%] |"
  assert row in lines
  assert "| confused 0.1 | 1 (0) of 10 | relabelled | 50.0% [40.0%, 60.0%] |" in lines
  assert "| symmetric 0.1 |  | right | 90.0% [85.0%, 95.0%] |" in lines
