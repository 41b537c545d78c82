"""Repairs of wrong predictions, where some labels are wrong."""

import csv
import json

import numpy as np
import pytest
from support.programs import TOY_OF_STUDIES, contents, start

import jaxdm
from experiments import train_subsets
from experiments.studies import planted_repairs
from jaxdm.brittleness.verdicts import Verdict

TINY = {
  **TOY_OF_STUDIES,
  "train_per_class": "20",
  "test_per_class": "15",
  "num_models": "60",
  "num_held_out": "8",
  "num_base": "4",
  "num_targets": "4",
  "verify_seeds": "4",
  "methods": "datamodel,random",
  "planted_rates": "0.2",
  "planted_seeds": "1",
}


def repaired(target: int, examples: tuple[int, ...], k: int) -> Verdict:
  """A repair by the first k of the examples; -1: there is none."""
  margins = {"mean_margin": 1.0, "margin_low": 0.5, "margin_high": 1.5}
  counts = {"k": k, "k_tried": abs(k), "models": 5, "largest": 4, "models_used": 9}
  return Verdict(
    target=target,
    method="mine",
    censored=k < 0,
    accuracy=0.9,
    largest_margin=1.0,
    finished=True,
    examples=examples,
    is_repair=True,
    **margins,
    **counts,
  )


VERDICTS = [
  repaired(0, (3, 5, 4), 2),
  repaired(0, (4, 5), 1),
  repaired(1, (0, 1), 1),
  repaired(1, (1, 2), -1),
]


def test_named_errors_are_counted() -> None:
  labels, target_labels = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1])
  is_error = np.array([False, True, False, True, True, False])
  found = planted_repairs.count(VERDICTS, is_error, labels, target_labels)
  assert found == {
    "targets": 4,
    "repaired": 3,
    "named": 4,  # Examples 3 and 5, and 4, for target 0, and 0 for target 1.
    "named_errors": 2,
    "by_chance": pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3),
    "repairs_with_errors": 2,
    "found": 2,
    "planted": 3,
  }
  nothing = planted_repairs.count(VERDICTS[-1:], is_error, labels, target_labels)
  assert nothing["repaired"] == nothing["named"] == nothing["found"] == 0
  assert np.isnan(nothing["by_chance"])


@pytest.mark.slow
def test_the_study_counts_what_its_repairs_name(tmp_path, capsys, monkeypatch) -> None:
  folder = tmp_path / "run"
  start(planted_repairs.PROGRAM, folder, toy=TINY)
  told = capsys.readouterr().out
  case = folder / "planted_repairs" / "0.2-0"
  with open(case / "examples.csv", encoding="utf-8") as file:
    planted = [row for row in csv.DictReader(file) if row["split"] == "train"]
  right = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 20, 15)
  assert [row["source"] for row in planted] == list(right.train_sources)
  is_error = np.array([int(row["label"]) for row in planted]) != right.train_labels
  assert is_error.sum() == 8
  with open(case / "repair.csv", encoding="utf-8") as file:
    repairs = [row for row in csv.DictReader(file) if row["censored"] == "False"]
  with open(folder / "planted_repairs.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert {row["method"] for row in rows} >= {"datamodel", "random", "relabel"}
  for row in rows:
    own = [r for r in repairs if all(r[x] == row[x] for x in ("change", "method"))]
    named = [i for r in own for i in json.loads(r["changed"])]
    assert (int(row["repaired"]), int(row["named"])) == (len(own), len(named))
    assert int(row["named_errors"]) == is_error[named].sum()
    assert int(row["found"]) == is_error[list(set(named))].sum()
    assert int(row["planted"]) == 8
    assert f"| 20% | {row['change']} | {row['method']} | {len(own)} of " in told
  before = contents(case)
  (folder / "stages" / "planted_repairs.json").unlink()
  monkeypatch.setattr(train_subsets, "open_stores", None)  # Nothing is trained again.
  start(planted_repairs.PROGRAM, folder, toy=TINY)
  assert contents(case) == before


def test_models_and_rules_are_inputs(tmp_path, monkeypatch) -> None:
  """Such as the source of a function of one's own, which no setting holds."""
  inputs = []
  monkeypatch.setattr(
    planted_repairs.stages, "run", lambda *args, **_: inputs.append(args[4])
  )
  for version in (1, 2):
    monkeypatch.setattr(planted_repairs.verification, "RULES_VERSION", version)
    monkeypatch.setattr(
      planted_repairs.identity, "digest", lambda value, seed=version: f"{seed}"
    )
    start(planted_repairs.PROGRAM, tmp_path / str(version), toy=TINY)
  assert [*map(set, inputs)] == [{"models", "verification rules"}] * 2
  assert all(inputs[0][name] != inputs[1][name] for name in inputs[0])


def test_the_table_sums_over_seeds_and_weighs_chance_by_repairs() -> None:
  rows = [
    planted_repairs.Row(0.05, 0, "removal", "mine", 9, 3, 8, 6, 0.1, 3, 5, 20),
    planted_repairs.Row(0.05, 1, "removal", "mine", 8, 1, 2, 1, 0.5, 1, 1, 21),
    planted_repairs.Row(0.05, 2, "removal", "mine", 7, 0, 0, 0, np.nan, 0, 0, 22),
    planted_repairs.Row(0.1, 0, "flip", "mine", 4, 0, 0, 0, np.nan, 0, 0, 30),
  ]
  assert planted_repairs.table(rows).splitlines()[2:] == [
    "| 5% | removal | mine | 4 of 24 | 0.70 of 10 | 0.20 | 4 | 6 of 63 |",
    "| 10% | flip | mine | 0 of 4 |  |  | 0 | 0 of 30 |",
  ]
