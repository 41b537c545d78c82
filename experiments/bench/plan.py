"""What a bank of models will cost: hours, memory and disk, from a measured speed.

  python -m experiments.bench.plan --preset=fashion

The speed is that of some steps of training on this machine, or that of a benchmark,
which may be of another machine:

  python -m experiments.bench.trainer --json=bench_trainer.json
  python -m experiments.bench.plan --bench=bench_trainer.json --preset=cifar10 \\
      --devices=1,8,64

Settings of the experiment are flags, as for `experiments.pipeline`: --num_models,
--alpha, --width and so on.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags, logging

from experiments.bench import cost, machine_load
from experiments.config import experiment_flags
from experiments.config import settings as settings_lib
from experiments.config.number_lists import whole_numbers
from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import program
from experiments.runtime.run import train_config
from jaxdm import devices
from jaxdm.attribution.registry import from_full_data
from jaxdm.errors import UserError
from jaxdm.storage import training_predictions
from jaxdm.training.fleet import Fleet
from jaxdm.training.speed import Speed

BENCH = define_path(
  "bench",
  None,
  "JSON file that experiments.bench.trainer wrote; default: some steps of training are "
  "timed on this machine.",
)
_EXAMPLES = 1024  # How many there are changes no step's time.
DEVICES = flags.DEFINE_list(
  "devices",
  None,
  "Numbers of devices to plan for; of a CPU, every core is one. Default: those of the "
  "machine that was timed, 1 and 8.",
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a bank costs.

  Attributes:
    num_models: m.
    samples_per_model: training images, repetitions counted.
    device_hours: on the device that the bench measured.
    store_bytes: margins, logits if they are kept, bit-packed masks, and predictions of
      the training examples with --audit.
    scores_bytes: scores of the models on all data, and the datamodels' weights.
    device_bytes: peak memory of the bench on that device.
    source: the row of the bench that it follows from.
  """

  num_models: int
  samples_per_model: int
  device_hours: float
  store_bytes: int
  scores_bytes: int
  device_bytes: float
  source: str


def plan(
  bench: dict[str, Any], experiment: settings_lib.Experiment, size: cost.Size
) -> Plan:
  """Scales a measured speed to a bank.

  Args:
    bench: what bench_trainer wrote.
    experiment: what to train.
    size: of its problem.

  Returns:
    The plan. Where no row has the experiment's network and images, the nearest one is
    scaled by operations per image, of the same width if there is one: narrow networks
    reach a smaller share of a device's peak.

  Raises:
    UserError: if the bench holds no row of the trainer.
  """
  collect = experiment.collect
  held_out = collect.num_held_out * collect.held_out_seeds
  m = collect.num_models + held_out + collect.num_base
  samples = cost.samples_per_model(experiment, size.num_train)
  rows = [r for r in bench["results"] if r["side"] == "fleet"]
  if not rows:
    raise UserError("bench", "holds no row of the side fleet")
  flops = cost.flops_per_sample(experiment.train, size.image_shape, size.num_classes)
  width = f"w{experiment.train.width}-"
  same_width = [r for r in rows if r["row"].startswith(width)]
  row = min(same_width or rows, key=lambda r: abs(np.log(r["flops_per_sample"] / flops)))
  ratio = flops / row["flops_per_sample"]
  source = f"{row['row']} on {bench['machine']['device']}"
  if abs(ratio - 1) > 0.01:
    source += (
      f", scaled by {ratio:.2f} for its operations per image, which can be wrong by a "
      "factor of two"
    )
  itemsize = np.dtype(collect.margin_dtype).itemsize
  numbers = size.num_targets * (1 + size.num_classes * collect.keep_logits)
  predictions = training_predictions.bytes_per_model(size.num_train, size.num_classes)
  num_audited = (collect.num_models + collect.num_held_out) * experiment.audit.audit
  seconds = m * samples * ratio / row["samples_per_second"]
  return Plan(
    num_models=m,
    samples_per_model=samples,
    device_hours=seconds * bench["machine"]["devices"] / 3600,
    store_bytes=m * (itemsize * numbers + -(-size.num_train // 8))
    + num_audited * predictions,
    scores_bytes=4 * size.num_targets * size.num_train * (len(from_full_data()) + 1),
    device_bytes=row["memory_bytes"],
    source=source,
  )


def measure(
  experiment: settings_lib.Experiment, size: cost.Size, speed: Speed
) -> dict[str, Any]:
  """Times some steps of training here; returns what `plan` takes.

  Args:
    experiment: whose models are trained, on blank images.
    size: of its problem.
    speed: how models are trained side by side.
  """
  blank = np.zeros((min(size.num_train, _EXAMPLES), *size.image_shape), np.uint8)
  config = train_config(experiment, size.num_train)
  width, backend = Fleet(config, blank, size.num_classes, speed).choice
  once = Speed(vmap_width=width, chunk=width, conv_backend=backend)
  fleet = Fleet(config, blank, size.num_classes, once)
  seconds = fleet.seconds_per_step()
  row = {
    "side": "fleet",
    "row": f"{fleet.rows} models at a time",
    "samples_per_second": fleet.rows * config.batch_size / seconds,
    "flops_per_sample": cost.flops_per_sample(
      experiment.train, size.image_shape, size.num_classes
    ),
    "memory_bytes": devices.peak_bytes(),
  }
  machine = {"device": devices.describe(), "devices": devices.count()}
  return {"machine": machine, "results": [row]}


def _read(path: str) -> dict[str, Any]:
  """What bench_trainer wrote, or an error that says it is not that."""
  try:
    bench = json.loads(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise UserError("bench", f"={path} cannot be read: {error}") from error
  except ValueError as error:
    raise UserError("bench", f"={path} is not JSON: {error}") from error
  if not isinstance(bench, dict) or not {"machine", "results"} <= bench.keys():
    raise UserError("bench", f"={path} was not written by bench_trainer")
  return bench


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Prints the plan."""
  program.check_no_arguments(argv)
  counts = whole_numbers("devices", DEVICES.value or (), "whole numbers >= 1")
  preset = experiment_flags.preset({})
  experiment = experiment_flags.experiment({})
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  size = cost.problem_size(experiment, where)
  if BENCH.value is None:
    logging.set_verbosity(logging.WARNING)
    devices.check()
    if text := machine_load.note():
      print(text)
    bench = measure(experiment, size, experiment_flags.speed())
  else:
    bench = _read(BENCH.value)
  estimate = plan(bench, experiment, size)
  print(f"{estimate.num_models:,} models of the preset {preset}")
  print(f"  n = {size.num_train:,} examples, t = {size.num_targets:,} targets")
  print(f"  each trains on {estimate.samples_per_model:,} images")
  print(f"  speed from {estimate.source}")
  print(f"  memory of a device there: {estimate.device_bytes / 1e9:.2f} GB")
  print(
    f"  store: {estimate.store_bytes / 1e9:,.2f} GB; scores: "
    f"{estimate.scores_bytes / 1e9:,.2f} GB"
  )
  for count in counts or dict.fromkeys((bench["machine"]["devices"], 1, 8)):
    hours = estimate.device_hours / count
    days = f" ({hours / 24:,.1f} days)" if hours > 48 else ""
    print(f"  {count} device{'s' * (count > 1)}: {hours:,.2f} hours{days}")


if __name__ == "__main__":
  devices.use_all_devices()
  help_page.print_and_exit(extra=experiment_flags.SOURCES, groups=experiment_flags.GROUPS)
  program.run(main)
