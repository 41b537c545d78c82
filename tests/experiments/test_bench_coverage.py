import numpy as np
import scipy.stats
from absl.testing import flagsaver

from experiments.bench import centred_margins, coverage
from jaxdm.brittleness import verification


def test_made_up_margins_have_mean_0_and_the_skewness_of_their_names() -> None:
  for i, (name, skewness) in enumerate(centred_margins.SKEWNESS.items()):
    margins = centred_margins.centred_margins(name, (20_000, 16), i).ravel()
    error = margins.std() / np.sqrt(margins.size)
    assert abs(margins.mean()) < 4 * error, name
    np.testing.assert_allclose(scipy.stats.skew(margins), skewness, atol=0.08)


def test_tests_are_counted() -> None:
  test = verification.SequentialTest(most=8, confidence=0.9, skewness=0)
  passing, failing = np.linspace(-9, -8.9, 8), np.linspace(1, 2, 8)
  found = coverage.passes(test, np.array([passing, failing, failing, failing]))
  assert found == (0.25, (5 + 3 * 3) / 4)


def test_the_full_size_is_timed(capsys) -> None:
  with flagsaver.flagsaver(full_models=40, full_targets=3):
    found = coverage.measure_full_size()
  assert 0 < found["lds"] < 1 and found["cpu_seconds"] > 0
  assert "evaluation of 40 models on 3 targets" in capsys.readouterr().out
