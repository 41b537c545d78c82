"""What is to be trained, and how long that takes here: timed on the first steps."""

from collections.abc import Callable

from experiments.config.settings import CollectConfig
from experiments.runtime import progress_bar
from jaxdm import training_sets

_LEAST_STEPS = 3
_LEAST_SECONDS = 2.0
# Models on subsets for each training example, below which datamodels are poor.
ENOUGH_MODELS = 6


class StepTimer:
  """Says how long things take, as soon as enough steps of training have been timed."""

  def __init__(self) -> None:
    """Says nothing until `announce`."""
    self._texts: list[Callable[[float], str]] = []
    self._steps, self._times = 0, list[float]()

  def announce(self, text: Callable[[float], str]) -> None:
    """Adds to what is said once, of the seconds of a step."""
    self._texts.append(text)
    self._steps, self._times = 0, []

  def forget(self) -> None:
    """Drops what was announced of work that is over, and trained nothing."""
    self._texts = []

  def observe(self, steps: int, seconds: float) -> None:
    """Takes note of how long some steps have taken."""
    if not self._texts:
      return
    self._steps += steps
    self._times.append(seconds / steps)
    enough = self._steps >= _LEAST_STEPS or seconds >= _LEAST_SECONDS
    if enough and len(self._times) > 1:
      # The least: what follows the first step may be compiled as well.
      step_seconds = min(self._times)
      progress_bar.say("\n".join(text(step_seconds) for text in self._texts))
      self._texts = []


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
      f"note: {ratio:.1f} models on subsets for each training example; datamodels need "
      f"about {ENOUGH_MODELS}, and below 1 they are hardly better than influence "
      f"functions. --num_models={ENOUGH_MODELS * num_train} trains as many, now or later"
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
    f"{duration(missing * model_seconds)} ({', '.join(others)})"
  )


def base_costs(
  models: int, moments: int, examples: int, model_seconds: float, unit: int
) -> str:
  """How long the models on all examples take.

  Args:
    models: how many.
    moments: of the training of each, at which gradients are computed; 0: at none.
    examples: whose gradients these are.
    model_seconds: of one model.
    unit: models that take as long as one.
  """
  seconds = -(-models // unit) * unit * model_seconds
  text = f"{models:,} models on all examples take about {duration(seconds)}"
  if not moments:
    return text
  return (
    f"{text}; gradients of {examples:,} examples at {moments} moments of their training "
    "take more, which is not timed yet"
  )


def search_costs(
  name: str, cases: int, most_models: int, budget: int | None, model_seconds: float
) -> str:
  """How many models a search trains, which only the search will tell, and how long.

  Args:
    name: of the search.
    cases: targets times methods.
    most_models: that a case can need.
    budget: of models, all cases together; None: there is none.
    model_seconds: of one model.
  """
  high = cases * most_models
  limit = high if budget is None else min(high, budget)
  low = min(cases, limit)
  times = " to ".join(duration(models * model_seconds) for models in (low, limit))
  return (
    f"{name} trains between {low:,} and {limit:,} models for {cases:,} pairs of target "
    f"and method, {times}; most pairs need few"
  )


def duration(seconds: float) -> str:
  """A time in the unit that suits it."""
  for unit, size in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 120)):
    if seconds >= size:
      return f"{2 * seconds / size:.1f} {unit}"
  return "1 s" if 0 < seconds < 1 else f"{seconds:.0f} s"
