"""Each side of the benchmark on a tiny row, and the table made of it."""

import dataclasses

import pytest

from experiments.bench import sides, trainer
from jaxdm.training import fleet

ROW = sides.Row("fashion", 4, 8, 1, 16, 32, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["fleet", "vmap"])
def test_a_side_reports_its_speed(side) -> None:
  row = dataclasses.replace(ROW, epochs=32.0) if side == "vmap" else ROW
  measured = sides.SIDES[side](row, 0.01, fleet.Speed(chunk=1))
  assert measured["samples_per_second"] > 0
  assert measured["memory_bytes"] > 1e6


@pytest.mark.slow
def test_pytorch_reports_its_speed() -> None:
  pytest.importorskip("torch")
  measured = sides.SIDES["torch"](ROW, 0.01, fleet.Speed())
  assert measured["samples_per_second"] > 0


@pytest.mark.slow
def test_removals_are_timed_beside_collection() -> None:
  [found] = trainer.scale([3])["scaling"]
  assert found["models_per_second"] > 0 and found["models_per_second_on_removals"] > 0


def test_the_table_compares_sides_at_the_median_round() -> None:
  run = {"compile_seconds": 1.0, "memory_bytes": 1e6}
  ours = [{**run, "samples_per_second": s} for s in (300.0, 100.0, 200.0)]
  theirs = [{**run, "samples_per_second": 50.0}]
  results = [
    trainer.summary(ROW, "fleet", ours, peak=1e9),
    trainer.summary(ROW, "torch", theirs, peak=1e9),
  ]
  fleet_line, torch_line = trainer.table(results).splitlines()[2:]
  assert "| 200 |" in fleet_line and "| 4.00 |" in torch_line
  # The preset's 20 epochs of 100 images, in batches of 32.
  assert results[0]["models_per_hour"] == pytest.approx(3600 * 200 / (63 * 32))
  share = 200 * results[0]["flops_per_sample"] / 1e9
  assert results[0]["share_of_peak"] == pytest.approx(share)
