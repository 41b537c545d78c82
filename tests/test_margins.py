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
