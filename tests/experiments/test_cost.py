"""Counted costs against the published network's, and plans from a made-up bench."""

import dataclasses
import json
import re

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.bench import cost, plan
from experiments.config import presets
from experiments.config import settings as settings_lib
from jaxdm import devices
from jaxdm.attribution.registry import METHODS
from jaxdm.data.load import load_fashion
from jaxdm.training.config import TrainConfig
from jaxdm.training.fleet import Fleet


def test_the_published_networks_operations_are_the_known_number() -> None:
  # Multiplications forward, layer by layer: places * taps * in * out.
  layers = [1024 * 9 * 3 * 64, 256 * 25 * 64 * 128, 2 * 256 * 9 * 128 * 128]
  layers += [256 * 9 * 128 * 256, 2 * 64 * 9 * 256 * 256, 36 * 9 * 256 * 128, 1280]
  expected = 2 * (3 * sum(layers) - layers[0])
  assert cost.flops_per_sample(TrainConfig(), (32, 32, 3), 10) == expected


CIFAR10 = cost.Size(50_000, 10_000, (32, 32, 3), 10)
NOWHERE = {"data_dir": None, "arrays": None}
PER_CLASS = {
  "fashion": (2, 100, 60, (7, 7, 1)),
  "fashion-all": (2, 100, 60, (7, 7, 1)),
  "cifar10-two": (2, 250, 100, (16, 16, 3)),
  "cifar10": (10, 5000, 1000, (32, 32, 3)),
  "cifar10-fast": (10, 5000, 1000, (32, 32, 3)),
}


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_size_of_a_preset_is_its_classes_times_their_examples(preset) -> None:
  classes, train_each, test_each, shape = PER_CLASS[preset]
  expected = (classes * train_each, classes * test_each, shape, classes)
  assert cost.problem_size(presets.PRESETS[preset]()) == expected


@pytest.mark.parametrize(
  "changes",
  [
    {"downscale": 1},
    {"classes": "", "train_per_class": 40, "test_per_class": 0},
    {"classes": "pullover,shirt,T-shirt", "train_per_class": 0, "downscale": 2},
  ],
)
def test_a_size_is_that_of_the_data_that_is_loaded(changes) -> None:
  experiment = presets.PRESETS["fashion"]()
  config = dataclasses.replace(experiment.data, **changes)
  dataset = load_fashion()
  names = config.classes.split(",") if config.classes else dataset.class_names
  k = [dataset.class_names.index(name) for name in names]
  counts = [
    min(np.isin(labels, k).sum(), (each or len(labels)) * len(k))
    for labels, each in (
      (dataset.train_labels, config.train_per_class),
      (dataset.test_labels, config.test_per_class),
    )
  ]
  side = dataset.train_images.shape[1] // config.downscale
  found = cost.problem_size(dataclasses.replace(experiment, data=config))
  assert found == (*counts, (side, side, 1), len(names))


def test_the_size_of_ones_own_data_is_found_by_loading_it(tmp_path) -> None:
  rng = np.random.default_rng(0)
  arrays = {"train_labels": np.arange(90) % 3, "test_labels": np.arange(12) % 3}
  for name, labels in list(arrays.items()):
    images = rng.integers(0, 256, (len(labels), 8, 6, 3), np.uint8)
    arrays[name.replace("labels", "images")] = images
  np.savez(tmp_path / "own.npz", **arrays)
  experiment = presets.PRESETS["fashion"]()
  own = settings_lib.DataConfig(dataset="arrays", downscale=2)
  experiment = dataclasses.replace(experiment, data=own)
  where = NOWHERE | {"arrays": str(tmp_path / "own.npz")}
  assert cost.problem_size(experiment, where) == (90, 12, (4, 3, 3), 3)


def test_the_description_of_cifar10_is_that_of_tfds() -> None:
  tfds = pytest.importorskip("tensorflow_datasets")
  builder = tfds.builder("cifar10", file_format="array_record")
  features = builder.info.features
  found = cost.load_blank(presets.PRESETS["cifar10"]().data, NOWHERE)
  assert found.train_images.shape == (50_000, *features["image"].shape)
  assert found.num_classes == features["label"].num_classes
  assert (np.bincount(found.train_labels) == 5000).all()
  assert (np.bincount(found.test_labels) == 1000).all()
  if builder.data_path.exists():  # Only a prepared set has names and numbers.
    assert found.class_names == tuple(features["label"].names)
    assert builder.info.splits["train"].num_examples == len(found.train_labels)
    assert builder.info.splits["test"].num_examples == len(found.test_labels)


def test_what_a_run_would_refuse_has_no_size() -> None:
  experiment = presets.PRESETS["cifar10"]()
  for changes, message in (
    ({"train_per_class": 5001}, r"train_per_class must be in \[1, 5000\]"),
    ({"classes": "airplane,shirt"}, "classes must be two or more of airplane"),
    ({"downscale": 5}, "downscale must divide the image size 32x32"),
    ({"train_per_class": 50}, "batch_size must be at most alpha"),
  ):
    config = dataclasses.replace(experiment.data, **changes)
    with pytest.raises(ValueError, match=message):
      cost.problem_size(dataclasses.replace(experiment, data=config))


@pytest.fixture
def bench() -> dict:
  """A device that trains 1,000 images a second of the network of `cifar10`."""
  flops = cost.flops_per_sample(TrainConfig(), (32, 32, 3), 10)
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
  return plan.plan(bench, experiment, CIFAR10)


def test_a_plan_is_models_times_images_over_speed(bench) -> None:
  made = cifar10_plan(bench, 36_000)
  assert made.num_models == 36_000
  assert made.samples_per_model == 1172 * 512
  assert made.device_hours == pytest.approx(10 * 1172 * 512 / 1000)
  assert made.store_bytes == 36_000 * (40_000 + 6250)
  assert "scaled" not in made.source


def test_a_store_is_as_large_as_its_types(bench) -> None:
  experiment = presets.PRESETS["cifar10"]()
  collect = experiment.collect
  size, models = CIFAR10, 300_000 + 2 * 10_000 + 64
  for changes, numbers_bytes in (
    ({}, 4 * 10_000),
    ({"margin_dtype": "float16"}, 2 * 10_000),
    ({"margin_dtype": "float16", "keep_logits": True}, 2 * 10_000 * 11),
  ):
    changed = dataclasses.replace(collect, **changes)
    made = plan.plan(bench, dataclasses.replace(experiment, collect=changed), size)
    assert made.store_bytes == models * (numbers_bytes + 6250)
    assert made.scores_bytes == 6 * 10_000 * 50_000 * 4


def test_another_network_is_scaled_by_its_operations(bench) -> None:
  small = dataclasses.replace(TrainConfig(), width=32)
  flops = cost.flops_per_sample(small, (32, 32, 3), 10)
  bench["results"][0]["flops_per_sample"] = flops
  made = cifar10_plan(bench, 36_000)
  scale = cost.flops_per_sample(TrainConfig(), (32, 32, 3), 10) / flops
  assert 3.5 < scale < 4.0
  assert made.device_hours == pytest.approx(10 * 1172 * 512 * scale / 1000)
  assert "scaled" in made.source


def test_a_row_of_the_same_width_goes_before_one_with_as_many_operations(bench) -> None:
  [row] = bench["results"]
  flops = cost.flops_per_sample(TrainConfig(), (32, 32, 3), 10)
  slow = {"row": "w64-16x16-b512", "flops_per_sample": flops / 4}
  fast = {"row": "w128-16x16-b512", "flops_per_sample": flops}
  bench["results"] = [row | fast, row | slow]
  made = cifar10_plan(bench, 36_000)
  assert made.source.startswith("w64-16x16-b512 on toy, scaled by 4.00 ")
  assert made.device_hours == pytest.approx(4 * 10 * 1172 * 512 / 1000)


def test_two_devices_in_the_bench_are_two_device_hours(bench) -> None:
  one = cifar10_plan(bench, 36_000).device_hours
  bench["machine"]["devices"] = 2
  assert cifar10_plan(bench, 36_000).device_hours == pytest.approx(2 * one)


@pytest.mark.parametrize(
  "given,message",
  [
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
  assert "n = 50,000 examples, t = 10,000 targets" in printed
  assert "1 device: 6,000.64 hours (250.0 days)" in printed
  assert "100 devices: 60.01 hours (2.5 days)" in printed


def test_the_plan_follows_the_flags_of_the_data(bench, tmp_path, capsys) -> None:
  path = tmp_path / "bench.json"
  path.write_text(json.dumps(bench))
  given = {"preset": "cifar10-two", "train_per_class": "300", "test_per_class": "7"}
  with flagsaver.as_parsed(bench=str(path), **given):
    plan.main(["prog"])
  assert "n = 600 examples, t = 14 targets" in capsys.readouterr().out


def test_without_a_benchmark_steps_are_timed_here(monkeypatch, capsys) -> None:
  monkeypatch.setattr(Fleet, "seconds_per_step", lambda self: 0.5 * self.rows)
  given = {"width": "4", "batch_size": "8", "epochs": "2", "num_models": "900"}
  with flagsaver.as_parsed(preset="fashion", devices="1,2", **given):
    plan.main(["prog"])
  # 100 examples, 2 epochs in batches of 8: 25 steps of half a second for each of
  # 900 + 2 * 200 + 16 models, on as many devices as there are.
  hours = 25 * 0.5 * 1316 / 3600 * devices.count()
  printed = capsys.readouterr().out
  assert f"1 device: {hours:,.2f} hours" in printed
  assert f"2 devices: {hours / 2:,.2f} hours" in printed
  assert devices.describe() in printed


def test_presets_search_and_compare_what_their_names_and_help_say() -> None:
  every = presets.PRESETS["fashion-all"]()
  assert every.search.num_targets == cost.problem_size(every).num_targets == 120
  asked = presets.PRESETS["cifar10"]().compare.names
  slow = {name for name, method in METHODS.items() if method.on_request}
  assert slow and not slow & set(asked) and {"datamodel", "random"} <= set(asked)
