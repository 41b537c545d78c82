"""What is to be trained, and how long that takes here: timed on the first steps."""

from collections.abc import Callable

from experiments.config.settings import CollectConfig
from experiments.runtime import progress_bar
from jaxdm import training_sets

_LEAST_STEPS = 8
_LEAST_SECONDS = 2.0
# Models on subsets for each training example, below which datamodels are poor.
ENOUGH_MODELS = 6


class StepTimer:
  """Says once how long something takes, as soon as enough steps have been timed."""

  def __init__(self) -> None:
    """Says nothing until `announce`."""
    self._text: Callable[[float], str] | None = None
    self._steps, self._times = 0, list[float]()

  def announce(self, text: Callable[[float], str]) -> None:
    """Sets what to say, of the seconds of a step."""
    self._text, self._steps, self._times = text, 0, []

  def observe(self, steps: int, seconds: float) -> None:
    """Takes note of how long some steps have taken."""
    if self._text is None:
      return
    self._steps += steps
    self._times.append(seconds / steps)
    enough = self._steps >= _LEAST_STEPS or seconds >= _LEAST_SECONDS
    if enough and len(self._times) > 1:
      # The least: what follows the first step may be compiled as well.
      progress_bar.say(self._text(min(self._times)))
      self._text = None


def describe(collect: CollectConfig, num_train: int, num_targets: int) -> list[str]:
  """What an experiment trains, and a warning if it is little.

  Args:
    collect: how many models.
    num_train: training examples.
    num_targets: targets.
  """
  held_out = collect.num_held_out * collect.held_out_seeds
  size = training_sets.subset_size(num_train, collect.alpha)
  lines = [
    f"{num_train:,} training examples, {num_targets:,} targets. Models: "
    f"{collect.num_base:,} on all examples, {collect.num_models:,} on random {size:,} of "
    f"them, and {held_out:,} more to judge the fit"
  ]
  if collect.num_models < ENOUGH_MODELS * num_train:
    ratio = collect.num_models / num_train
    lines.append(
      f"note: {ratio:.1f} models on subsets for each training example; below about "
      f"{ENOUGH_MODELS} datamodels predict poorly. --num_models="
      f"{ENOUGH_MODELS * num_train} trains as many, now or later"
    )
  return lines


def costs(num_models: int, missing: int, processes: int, model_seconds: float) -> str:
  """How long the missing models take, and what smaller and larger numbers would cost.

  Args:
    num_models: on subsets, to which datamodels are fitted.
    missing: models on subsets that this process still has to train.
    processes: that share the work.
    model_seconds: of one model.
  """
  others = []
  for count in (-(-num_models // 2), 2 * num_models):
    models = max(missing + (count - num_models) / processes, 0)
    others.append(f"--num_models={count}: {duration(models * model_seconds)}")
  return (
    f"{model_seconds:.2g} s a model here: {missing:,} models on subsets take about "
    f"{duration(missing * model_seconds)} ({', '.join(others)}), after those on all "
    "examples and their scores"
  )


def duration(seconds: float) -> str:
  """A time in the unit that suits it."""
  for unit, size in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 120)):
    if seconds >= size:
      return f"{2 * seconds / size:.1f} {unit}"
  return f"{seconds:.0f} s"
