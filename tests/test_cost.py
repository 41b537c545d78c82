"""Counted costs against the published network's, and plans from a made-up bench."""

import dataclasses
import json
import re

import pytest
from absl.testing import flagsaver

from experiments import cost, lab, plan, presets
from jaxdm import train


def test_the_published_networks_operations_are_the_known_number() -> None:
  # Multiplications forward, layer by layer: places * taps * in * out.
  layers = [1024 * 9 * 3 * 64, 256 * 25 * 64 * 128, 2 * 256 * 9 * 128 * 128]
  layers += [256 * 9 * 128 * 256, 2 * 64 * 9 * 256 * 256, 36 * 9 * 256 * 128, 1280]
  expected = 2 * (3 * sum(layers) - layers[0])
  assert cost.flops_per_sample(train.TrainConfig(), (32, 32, 3), 10) == expected


def test_a_presets_stated_size_is_that_of_its_data() -> None:
  config = presets.PRESETS["fashion"]().data
  dataset = lab.load_dataset(config, {"data_dir": None, "arrays": None})
  small = dataset.downscaled(config.downscale)
  assert cost.SIZES["fashion"] == (
    len(small.train_labels),
    len(small.test_labels),
    small.train_images.shape[1:],
    small.num_classes,
  )


@pytest.fixture
def bench() -> dict:
  """A device that trains 1,000 images a second of the network of `cifar10`."""
  flops = cost.flops_per_sample(train.TrainConfig(), (32, 32, 3), 10)
  row = {
    "row": "w64-32x32-b512",
    "side": "fleet",
    "flops_per_sample": flops,
    "samples_per_second": 1000.0,
    "memory_bytes": 2e9,
  }
  return {"machine": {"device": "toy", "devices": 1}, "results": [row]}


def cifar10_plan(bench: dict, num_models: int) -> plan.Plan:
  """Of the preset with so many models in all."""
  experiment = presets.PRESETS["cifar10"]()
  collect = dataclasses.replace(experiment.collect, num_models=num_models - 64 - 20_000)
  experiment = dataclasses.replace(experiment, collect=collect)
  return plan.plan(bench, experiment, cost.SIZES["cifar10"])


def test_a_plan_is_models_times_images_over_speed(bench) -> None:
  made = cifar10_plan(bench, 36_000)
  assert made.num_models == 36_000
  assert made.samples_per_model == 1172 * 512
  assert made.device_hours == pytest.approx(10 * 1172 * 512 / 1000)
  assert made.store_bytes == 36_000 * (40_000 + 6250)
  assert "scaled" not in made.source


def test_another_network_is_scaled_by_its_operations(bench) -> None:
  small = dataclasses.replace(train.TrainConfig(), width=32)
  flops = cost.flops_per_sample(small, (32, 32, 3), 10)
  bench["results"][0]["flops_per_sample"] = flops
  made = cifar10_plan(bench, 36_000)
  scale = cost.flops_per_sample(train.TrainConfig(), (32, 32, 3), 10) / flops
  assert 3.5 < scale < 4.0
  assert made.device_hours == pytest.approx(10 * 1172 * 512 * scale / 1000)
  assert "scaled" in made.source


def test_two_devices_in_the_bench_are_two_device_hours(bench) -> None:
  one = cifar10_plan(bench, 36_000).device_hours
  bench["machine"]["devices"] = 2
  assert cifar10_plan(bench, 36_000).device_hours == pytest.approx(2 * one)


@pytest.mark.parametrize(
  "given,message",
  [
    ({}, "--bench must name"),
    ({"bench": "none.json"}, "none.json"),
    ({"bench": "ok.json", "alpha": "1.5"}, "alpha must be in (0, 1), got 1.5"),
    ({"bench": "ok.json", "devices": "0"}, "--devices must be whole numbers"),
    ({"bench": "ok.json", "devices": "two"}, "--devices must be whole numbers"),
    ({"bench": "other.json"}, "--bench=other.json was not written by bench_trainer"),
    ({"bench": "text.json"}, "--bench=text.json is not JSON"),
    ({"bench": "torch.json"}, "no row of the side fleet"),
  ],
)
def test_bad_input_gets_one_line(given, message, bench, tmp_path, monkeypatch) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / "ok.json").write_text(json.dumps(bench))
  (tmp_path / "other.json").write_text("[1]")
  (tmp_path / "text.json").write_text("fast")
  (tmp_path / "torch.json").write_text(json.dumps({"machine": {}, "results": []}))
  with flagsaver.as_parsed(**given), pytest.raises(SystemExit, match=re.escape(message)):
    plan.main(["prog"])


def test_the_printed_plan_names_every_number_of_devices(bench, tmp_path, capsys) -> None:
  path = tmp_path / "bench.json"
  path.write_text(json.dumps(bench))
  given = {"preset": "cifar10", "num_models": "15936", "devices": "1,100"}
  with flagsaver.as_parsed(bench=str(path), **given):
    plan.main(["prog"])
  printed = capsys.readouterr().out
  assert "1 device: 6,000.64 hours (250.0 days)" in printed
  assert "100 devices: 60.01 hours (2.5 days)" in printed
