"""Our side of the comparison of attribution methods, and how it resumes."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

import jaxdm
from experiments.bench import attribution, measure


@pytest.fixture(scope="module")
def trainer() -> jaxdm.Trainer:
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 20, 10)
  config = jaxdm.TrainConfig(epochs=4, batch_size=10)
  return jaxdm.Trainer(dataset.downscaled(4), config, network="linear")


@pytest.mark.slow
@pytest.mark.parametrize("moments", [1, 2])
def test_our_scores_are_those_of_the_library(trainer, moments) -> None:
  found = attribution.our_scores(trainer, moments, 3)
  made = jaxdm.attribution_scores(trainer, ["influence"], num_models=3, moments=moments)
  ratio = found / made["influence"]
  np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)


@pytest.mark.slow
def test_at_no_moment_models_are_trained_only(trainer) -> None:
  assert not attribution.our_scores(trainer, 0, 2).any()
  points = list(attribution.our_side(trainer, 1, [1, 2]))
  assert [count for count, *_ in points] == [1, 2]


def result(side: str) -> dict:
  """What a child process might print."""
  lds = {"estimate": 0.5, "low": 0.4, "high": 0.6}
  rows = [{"models": 1, "lds": lds, "cpu_seconds": 2.0}]
  about = {"side": side, "options": {"a": 1}, "tuning_cpu_seconds": 0.0}
  return about | {"memory_bytes": 3_000_000, "rows": rows}


def test_finished_sides_are_not_measured_again(tmp_path, monkeypatch, capsys) -> None:
  asked, fails = [], {"influence-end"}

  def run_child(module, side):
    asked.append(side)
    return {} if side in fails else result(side)

  monkeypatch.setattr(measure, "run_child", run_child)
  given = {"bench_dir": str(tmp_path), "sides": ["influence", "influence-end"]}
  given |= {"json": str(tmp_path / "all.json")}
  for counts in (["1"], ["1"], ["1", "2"]):
    with flagsaver.as_parsed(score_models=counts, **given):
      attribution.main(["prog"])
    fails.clear()
  assert asked == ["influence", "influence-end", "influence-end", *given["sides"]]
  row = "| influence | 1 | 0.500 [0.400, 0.600] | 2.0 | 3 | a=1 |"
  assert row in capsys.readouterr().out
  written = json.loads((tmp_path / "all.json").read_text())
  assert [one["side"] for one in written["sides"]] == given["sides"]
