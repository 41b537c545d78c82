import numpy as np

from jaxdm import margins


def test_margins_equal_a_loop() -> None:
  rng = np.random.default_rng(0)
  logits, labels = (
    rng.normal(size=(3, 5, 4)).astype(np.float32),
    np.array([0, 3, 1, 2, 2]),
  )
  expected = np.empty((3, 5), np.float32)
  for m in range(3):
    for t in range(5):
      others = [logits[m, t, k] for k in range(4) if k != labels[t]]
      expected[m, t] = logits[m, t, labels[t]] - max(others)
  np.testing.assert_array_equal(margins.correct_class_margins(logits, labels), expected)


def test_nan_logits_give_nan_margins() -> None:
  logits = np.zeros((2, 3, 2), np.float32)
  logits[1] = np.nan
  result = np.asarray(margins.correct_class_margins(logits, np.zeros(3, int)))
  assert np.isfinite(result[0]).all() and np.isnan(result[1]).all()


def test_usable_models_and_targets_have_every_margin(monkeypatch) -> None:
  """By hand, and in blocks that end anywhere."""
  nan = np.nan
  table = np.array(
    [
      [1.0, nan, 2.0, 3.0],
      [nan, nan, nan, nan],  # Diverged: it says nothing against a target.
      [4.0, nan, 5.0, np.inf],
      [6.0, 7.0, 8.0, 9.0],
      [1.0, nan, 1.0, 1.0],
    ]
  )
  for rows in (1, 2, 3, 4096):
    monkeypatch.setattr(margins, "_BLOCK_ROWS", rows)
    models, targets = margins.usable(table)
    assert models.tolist() == [0, 3, 4] and targets.tolist() == [0, 2, 3]
    models, targets = margins.usable(table[:, [0, 2]])
    assert models.tolist() == [0, 2, 3, 4] and targets.tolist() == [0, 1]
    models, targets = margins.usable(np.full((3, 2), nan))
    assert not models.size and not targets.size
  # Half of the models are too few.
  models, targets = margins.usable(np.array([[1.0, 2.0], [3.0, nan]]))
  assert models.tolist() == [0, 1] and targets.tolist() == [0]
