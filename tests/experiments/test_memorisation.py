"""What memorised examples are worth, by retraining."""

import json
import types

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import TOY_OF_STUDIES, start

from experiments import audit, train_subsets
from experiments.studies import memorisation
from jaxdm.errors import UserError

TINY = {
  **TOY_OF_STUDIES,
  "train_per_class": "20",
  "test_per_class": "10",
  "num_models": "40",
  "num_held_out": "8",
  "num_base": "2",
}
SIZES = {
  "memorised_models": "8",
  "memorised_shares": "0.1,0.3",
  "left_out_examples": "3",
  "left_out_models": "8",
}


def test_as_many_examples_are_removed_each_time() -> None:
  ranking = np.random.default_rng(0).permutation(20)
  masks = memorisation.masks_without(ranking, 5, 6, seed=0)
  assert all(((~one).sum(axis=1) == 5).all() for one in masks.values())
  assert not masks["memorised"][:, ranking[:5]].any()
  assert len(np.unique(masks["random"], axis=0)) == 6


@pytest.mark.slow
def test_utility_and_direct_memorisation_are_printed(tmp_path, capsys) -> None:
  folder = tmp_path / "run"
  with pytest.raises(SystemExit, match="lacks a finished audit; run python -m exp"):
    start(memorisation.PROGRAM, folder, toy=TINY | SIZES)
  start(train_subsets.PROGRAM, folder, toy=TINY, audit="true")
  start(audit.PROGRAM, folder, toy={})
  capsys.readouterr()
  start(memorisation.PROGRAM, folder, toy=SIZES)
  told = capsys.readouterr().out
  assert "| 10% (4) |" in told and "| 30% (12) |" in told and "rank correlation" in told
  record = json.loads((folder / "stages" / "memorisation.json").read_text())
  found = record["summary"]["curves"]
  assert [row["removed"] for row in found["utility"]] == [0, 4, 12]
  for row in found["utility"][1:]:
    gap = row["random"][0] - row["memorised"][0]
    assert row["difference"][0] == pytest.approx(gap)
    assert row["difference"][1] <= gap <= row["difference"][2]
  assert len(found["left_out"]["examples"]) == 3
  assert all(-1 <= value <= 1 for value in found["left_out"]["direct"][0])


class Toy:
  """A data set of 20 examples, at any size."""

  train_labels = np.arange(20) % 2

  def downscaled(self, factor: int) -> "Toy":
    return self


def opened() -> types.SimpleNamespace:
  settings = types.SimpleNamespace(
    data=types.SimpleNamespace(downscale=1), collect=types.SimpleNamespace(seed=0)
  )
  return types.SimpleNamespace(
    dataset=Toy(), experiment=settings, bar=lambda name: None, workdir=None
  )


def test_memorised_is_what_models_know_only_of_their_own_examples(monkeypatch) -> None:
  """Examples 3 and 7 are; 5 is known to all, and 9 is known where it is left out."""

  def train(fleet, data, masks, labels, seed, family, bar):
    right = masks.copy()
    right[:, 5] = True
    right[:, 9] = ~masks[:, 9]
    return types.SimpleNamespace(margins_mn=np.where(right, 0.5, -0.5))

  monkeypatch.setattr(memorisation.noisy_labels, "train", train)
  monkeypatch.setattr(memorisation.label_errors, "fleet_of", lambda run: None)
  with flagsaver.flagsaver(left_out_models=6):
    found = memorisation.direct(opened(), np.array([3, 5, 7, 9]))
  assert found.value.tolist() == [1, 0, 1, -1]


def test_the_most_memorised_come_first() -> None:
  audited = np.array([0.1, -0.5, 0.9, np.nan, -0.2, 0.5])
  assert memorisation.ranking_of(audited).tolist() == [2, 5, 0, 4, 1, 3]
  with pytest.raises(UserError, match="^num_models is too small"):
    memorisation.ranking_of(audited * np.nan)


@pytest.mark.filterwarnings("error")
def test_examples_are_compared_where_the_audit_knows_them(monkeypatch, capsys) -> None:
  audited = np.array([0.1, -0.5, 0.9, np.nan, 0.5])

  def direct(run, examples):
    value = audited[examples] - 0.25
    return memorisation.estimates.Estimate(value, value - 0.1, value + 0.1)

  monkeypatch.setattr(memorisation, "direct", direct)
  with flagsaver.flagsaver(left_out_examples=3):
    found = memorisation.compare(opened(), audited, memorisation.ranking_of(audited))
  assert found["examples"] == [2, 0, 1] and found["rank_correlation"] == 1
  assert found["mean_difference"] == pytest.approx(0.25)
  assert "| 2 | +0.90 | +0.65 [+0.55, +0.75] |" in capsys.readouterr().out
