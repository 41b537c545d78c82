"""What a search says and writes at its end."""

import csv

import numpy as np
from absl.testing import flagsaver
from etils import epath
from support import pages

import jaxdm
from experiments.runtime import searches, stages


def test_the_end_of_a_search_counts_wrong_targets_and_unfinished_cases(
  tmp_path, capsys
) -> None:
  vectors, labels = np.zeros((8, 2), np.float32), np.arange(8, dtype=np.int32) % 2
  data = jaxdm.Dataset("m", vectors, labels, vectors[:4], labels[:4], ("no", "yes"))
  margins = np.array([[1.0, -1, -2, -3], [2.0, -1, 0.5, -2]])
  verdicts = [pages.verdict(target, "mine", k) for target, k in ((0, 2), (2, 1))]
  verdicts.append(pages.verdict(3, "mine", -1, finished=False))
  with flagsaver.flagsaver(budget_models=7):
    found = searches.report_search(
      epath.Path(tmp_path) / "removals.csv", verdicts, data, margins
    )
  assert found["targets_wrong_on_all_data"] == 3 and found[stages.UNFINISHED] == 1
  assert found["methods"]["mine"]["class_sizes"] == [4, 4]
  said = capsys.readouterr().out
  assert "--budget_models=7 is used up: 1 of 3 cases are not finished; what " in said
  assert "is claimed in removals.csv holds" in said
  assert said.index("target 2 (no, m:test[2]): 1 changed") < said.index("target 0 (no")
  with open(tmp_path / "removals.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [(row["target"], row["k"]) for row in rows] == [
    ("0", "2"),
    ("2", "1"),
    ("3", "-1"),
  ]
