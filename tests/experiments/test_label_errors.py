"""Planted label errors, and how rankings find them."""

import json

import numpy as np
import pytest
import scipy.special
from sklearn import metrics
from support.programs import TOY_OF_STUDIES, start

from experiments.studies import label_errors, noisy_labels

TINY = {
  **TOY_OF_STUDIES,
  "classes": "",
  "train_per_class": "15",
  "test_per_class": "10",
  "noise_models": "30",
  "noise_fresh_models": "6",
  "noise_seeds": "1",
  "noise_rates": "0.1",
}


def test_rankings_are_judged_as_scikit_learn_does() -> None:
  rng = np.random.default_rng(0)
  for doubt in (rng.normal(size=50), rng.integers(0, 6, 50), np.zeros(50)):
    is_wrong = rng.random(50) < 0.2
    expected = metrics.average_precision_score(is_wrong, doubt)
    assert noisy_labels.average_precision(is_wrong, doubt) == pytest.approx(expected)
    expected = metrics.roc_auc_score(is_wrong, doubt)
    assert noisy_labels.auroc(is_wrong, doubt) == pytest.approx(expected)


def test_errors_are_as_many_as_asked_for_and_of_the_class_that_is_named() -> None:
  labels, none = np.arange(60) % 4, np.zeros(0, int)
  noisy = noisy_labels.plant_errors(labels, 0.2, 0, 4, none)
  assert (noisy != labels).sum() == 12 and set(noisy) <= set(range(4))
  assert (noisy_labels.plant_errors(labels, 0.2, 1, 4, none) != noisy).any()
  confused = np.array([3, 2, 1, 0])
  found = noisy_labels.plant_errors(labels, 0.2, 0, 4, confused)
  np.testing.assert_array_equal(found != labels, noisy != labels)
  np.testing.assert_array_equal(found[found != labels], 3 - labels[found != labels])


def test_the_most_confused_class_is_counted_without_the_example() -> None:
  labels = np.array([0, 1, 2])
  masks = np.array([[False, False, True], [False, True, False], [True, False, False]])
  predicted = np.array([[2, 0, 0], [2, 2, 1], [1, 0, 1]])
  found = noisy_labels.most_confused(predicted, masks, labels)
  assert found.tolist() == [2, 0, 1]


def test_a_class_that_models_mostly_get_right_is_confused_with_another() -> None:
  labels, masks = np.array([0, 1, 2]), np.zeros((4, 3), bool)
  predicted = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 0], [1, 2, 2]])
  found = noisy_labels.most_confused(predicted, masks, labels)
  assert found.tolist() == [1, 2, 0]


def test_folds_leave_every_example_out_once_a_repeat() -> None:
  masks = noisy_labels.fold_masks(10, 23, 5, seed=0)
  for part in (masks[:5], masks[5:]):
    np.testing.assert_array_equal((~part).sum(axis=0), 1)
    assert set((~part).sum(axis=1)) <= {4, 5}
  assert (masks[0] != masks[5]).any()


def test_probabilities_are_those_of_models_without_the_example() -> None:
  rng = np.random.default_rng(0)
  softmax = scipy.special.softmax(rng.normal(size=(20, 6, 3)), axis=-1)
  masks = rng.random((20, 6)) < 0.5
  predictions = noisy_labels.Predictions(softmax.astype(np.float32), softmax, softmax)
  found = noisy_labels.out_of_sample(predictions, masks)
  for i in range(6):
    np.testing.assert_allclose(found[i], softmax[~masks[:, i], i].mean(axis=0), rtol=1e-5)


@pytest.mark.slow
def test_the_study_runs_and_continues(tmp_path, capsys, monkeypatch) -> None:
  folder = tmp_path / "run"
  start(label_errors.PROGRAM, folder, toy=TINY)
  told = capsys.readouterr().out
  cases = json.loads((folder / "label_errors.json").read_text())
  assert [case["kind"] for case in cases] == ["symmetric", "confused"]
  for case in cases:
    assert case["wrong"] == 6
    assert case["auroc"]["audit"] > 0.6 and case["auroc"]["self-influence"] > 0.5
    assert 0 <= case["relabelled_right"] <= case["relabelled"]
    assert case["accuracy"].keys() == {"with errors", "relabelled", "right"}
  assert "| symmetric 0.1 | audit |" in told and "| right |" in told
  done = []

  def counted(run, case, confused_k):
    done.append(case)
    return cases[0] | case._asdict()

  monkeypatch.setattr(label_errors, "study_case", counted)
  start(label_errors.PROGRAM, folder, toy=TINY | {"noise_seeds": "2"})
  assert [(case.kind, case.seed) for case in done] == [("symmetric", 1), ("confused", 1)]


@pytest.mark.parametrize("rates", ["", "0.7", "many"])
def test_bad_rates_are_one_line(tmp_path, rates) -> None:
  with pytest.raises(SystemExit, match="error: --noise_rates must be numbers in"):
    start(label_errors.PROGRAM, tmp_path / "run", toy=TINY | {"noise_rates": rates})


def test_the_length_of_training_is_part_of_what_is_recorded(
  tmp_path, monkeypatch
) -> None:
  """Models on all data take other numbers of steps with --equal_steps."""
  records = []
  monkeypatch.setattr(
    label_errors.stages, "run", lambda *args, **_: records.append(args[2])
  )
  for value in ("true", "false", "true"):
    start(label_errors.PROGRAM, tmp_path / value, toy=TINY | {"equal_steps": value})
  assert records[0] == records[2] != records[1]
