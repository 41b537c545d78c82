"""Accuracy of this trainer's models beside others of the same recipe and images.

  python -m experiments.bench.accuracy --num_base=16                  (extra `bench`)
  python -m experiments.bench.accuracy --num_base=256 --against=bfloat16

Trains `--num_base` models on all training images with each, and compares the test
accuracies: their means, and the difference with its 95 % interval (Welch's t). All
settings of the experiment are flags, as for `experiments.pipeline`. The others are
PyTorch's models, or this trainer's with activations and products in bfloat16.
"""

import dataclasses
import importlib.util
import tempfile

import numpy as np
import scipy.stats
from absl import flags, logging

from experiments.bench import measure
from experiments.config import experiment_flags, settings
from experiments.runtime import checks, data_source, program, progress_bar
from experiments.runtime import help as help_page
from experiments.runtime.run import make_run, train_config
from experiments.runtime.workdir import Workdir
from jaxdm import devices
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training.config import TrainConfig

AGAINST = flags.DEFINE_enum(
  "against", "PyTorch", ["PyTorch", "bfloat16"], "What to compare with."
)


def our_accuracies(experiment: settings.Experiment, dataset: Dataset) -> np.ndarray:
  """Test accuracy of each of this trainer's models, as float[count]."""
  with tempfile.TemporaryDirectory() as folder:
    run = make_run(Workdir(folder), experiment, dataset, experiment_flags.speed())
    count, num_train = experiment.collect.num_base, len(run.trainer.labels)
    margins = run.trainer(
      np.ones((count, num_train), bool),
      run.trainer.labels,
      np.arange(count),
      progress=progress_bar.make("models on all data"),
    )
  return (margins > 0).mean(axis=1)


def torch_accuracies(small: Dataset, recipe: TrainConfig, count: int) -> np.ndarray:
  """Test accuracy of `count` PyTorch models, as float[count]."""
  import torch

  from experiments.bench.peers import torch_resnet9

  accuracies = []
  bar = progress_bar.make("PyTorch")
  for seed in range(count):
    torch.manual_seed(seed)
    trainer = torch_resnet9.Trainer(
      recipe, small.train_images, small.train_labels, small.num_classes
    )
    trainer.run(int(recipe.num_steps(np.array(len(small.train_labels)))))
    predicted = trainer.predict(small.test_images).argmax(axis=1)
    accuracies.append((predicted == small.test_labels).mean())
    bar(seed + 1, count)
  return np.array(accuracies)


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Trains both, and prints one line each and the difference."""
  logging.set_verbosity(logging.WARNING)
  program.check_no_arguments(argv)
  measure.check()
  if AGAINST.value == "PyTorch" and not importlib.util.find_spec("torch"):
    raise UserError("against", "=PyTorch needs torch: pip install -e '.[run,bench]'")
  experiment = experiment_flags.experiment({})
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  dataset = data_source.load(experiment.data, where)
  checks.check(experiment, dataset)
  devices.check()
  ours = our_accuracies(experiment, dataset)
  if AGAINST.value == "PyTorch":
    recipe = train_config(experiment, len(dataset.train_labels))
    small = dataset.downscaled(experiment.data.downscale)
    theirs = torch_accuracies(small, recipe, experiment.collect.num_base)
  else:
    half = dataclasses.replace(experiment.train, compute_dtype=AGAINST.value)
    theirs = our_accuracies(dataclasses.replace(experiment, train=half), dataset)
  for name, values in (("jaxdm", ours), (AGAINST.value, theirs)):
    print(
      f"{name}: {values.mean():.2%}, sd {values.std(ddof=1):.2%}, {len(values)} models"
    )
  interval = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
  print(
    f"difference: {ours.mean() - theirs.mean():+.2%} "
    f"[{interval.low:+.2%}, {interval.high:+.2%}]"
  )
  measure.write({"jaxdm": ours.tolist(), AGAINST.value.lower(): theirs.tolist()})


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  devices.use_all_devices()
  help_page.print_and_exit(
    measure, extra=experiment_flags.SOURCES, groups=experiment_flags.GROUPS
  )
  program.run(main)
