"""What memorised examples are worth, by retraining."""

import json

import numpy as np
import pytest
from support.programs import TOY_OF_STUDIES, start

from experiments import audit, train_subsets
from experiments.studies import memorisation

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
