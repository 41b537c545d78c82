"""Each side of the benchmark on a tiny row, and the table made of it."""

import dataclasses

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import bench_trainer

flags.FLAGS.mark_as_parsed()
ROW = bench_trainer.Row("fashion", 4, 8, 1, 16, 32, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["fleet", "vmap"])
def test_a_side_reports_its_speed(side) -> None:
  row = dataclasses.replace(ROW, epochs=32.0) if side == "vmap" else ROW
  with flagsaver.as_parsed(seconds="0.01", chunk="1"):
    measured = bench_trainer.SIDES_BY_NAME[side](row)
  assert measured["samples_per_second"] > 0
  assert measured["memory_bytes"] > 1e6


@pytest.mark.slow
def test_pytorch_reports_its_speed() -> None:
  pytest.importorskip("torch")
  with flagsaver.as_parsed(seconds="0.01"):
    assert bench_trainer.SIDES_BY_NAME["torch"](ROW)["samples_per_second"] > 0


def test_the_table_compares_sides_at_the_median_round() -> None:
  run = {"compile_seconds": 1.0, "memory_bytes": 1e6}
  ours = [{**run, "samples_per_second": s} for s in (300.0, 100.0, 200.0)]
  theirs = [{**run, "samples_per_second": 50.0}]
  results = [
    bench_trainer.summary(ROW, "fleet", ours, peak=1e9),
    bench_trainer.summary(ROW, "torch", theirs, peak=1e9),
  ]
  fleet_line, torch_line = bench_trainer.table(results).splitlines()[2:]
  assert "| 200 |" in fleet_line and "| 4.00 |" in torch_line
  # The preset's 20 epochs of 100 images, in batches of 32.
  assert results[0]["models_per_hour"] == pytest.approx(3600 * 200 / (63 * 32))
  share = 200 * results[0]["flops_per_sample"] / 1e9
  assert results[0]["share_of_peak"] == pytest.approx(share)
