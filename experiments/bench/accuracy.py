"""Accuracy of this trainer's models beside PyTorch's, same recipe and images.

  python -m experiments.bench.accuracy --num_base=16                  (extra `bench`)

Trains `--num_base` models on all training images with each, and compares the test
accuracies: their means, and the difference with its 95 % interval (Welch's t). All
settings of the experiment are flags, as for `experiments.pipeline`.
"""

import tempfile

import numpy as np
import scipy.stats
import torch
from absl import flags, logging

from experiments.bench import measure
from experiments.bench.peers import torch_resnet9
from experiments.config import experiment_flags
from experiments.runtime import base_models, checks, data_source, program, progress_bar
from experiments.runtime import help as help_page
from experiments.runtime.run import make_run, train_config
from experiments.runtime.workdir import Workdir
from jaxdm import devices
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training.config import TrainConfig


def torch_accuracies(small: Dataset, recipe: TrainConfig, count: int) -> np.ndarray:
  """Test accuracy of `count` PyTorch models, as float[count]."""
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
  if argv[1:]:
    raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")
  measure.check()
  experiment = experiment_flags.experiment({})
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  dataset = data_source.load(experiment.data, where)
  checks.check(experiment, dataset)
  devices.check()
  with tempfile.TemporaryDirectory() as folder:
    run = make_run(Workdir(folder), experiment, dataset, experiment_flags.speed())
    ours = (base_models.train_all(run).margins_rt > 0).mean(axis=1)
  recipe = train_config(experiment, len(dataset.train_labels))
  small = dataset.downscaled(experiment.data.downscale)
  theirs = torch_accuracies(small, recipe, experiment.collect.num_base)
  for name, values in (("jaxdm", ours), ("PyTorch", theirs)):
    print(
      f"{name}: {values.mean():.2%}, sd {values.std(ddof=1):.2%}, {len(values)} models"
    )
  interval = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
  print(
    f"difference: {ours.mean() - theirs.mean():+.2%} "
    f"[{interval.low:+.2%}, {interval.high:+.2%}]"
  )
  measure.write({"jaxdm": ours.tolist(), "pytorch": theirs.tolist()})


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  devices.use_all_devices()
  help_page.print_and_exit(measure)
  program.run(main)
