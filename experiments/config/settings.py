"""The settings of an experiment; their docstrings are the help of the flags."""

import dataclasses
from typing import Literal

import numpy as np

from jaxdm.attribution import registry
from jaxdm.brittleness.config import SearchConfig
from jaxdm.datamodels.path import FitConfig
from jaxdm.errors import UserError
from jaxdm.training.recipe import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which images.

  Attributes:
    dataset: Source of the data: 'fashion' (ships with the package), 'folder' (image
      files, see --data_dir), 'arrays' (see --arrays), or the name of a prepared TFDS
      image classification set such as cifar10.
    classes: Names of the classes to use, comma-separated; empty for all.
    train_per_class: Training examples to keep of each class, the first ones; 0 for all.
    test_per_class: Targets to keep of each class, the first test examples; 0 for all.
    downscale: Side, in pixels, of the blocks over which images are averaged before
      training; 1 keeps their size.
    background: Colour behind transparent parts of image files, as white or #808080.
  """

  dataset: str = "fashion"
  classes: str = ""
  train_per_class: int = 0
  test_per_class: int = 0
  downscale: int = 1
  background: str = "white"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectConfig:
  """Which models.

  Attributes:
    alpha: Share of the training set in each random subset.
    num_models: Models on random subsets to which datamodels are fitted.
    num_held_out: Further subsets, whose models judge the datamodels and are never fitted
      to.
    held_out_from: Number of the first held-out subset; default: num_models. It stays the
      same when a workdir gets more models later.
    held_out_seeds: Models trained on each held-out subset. Two or more also give the
      noise ceiling, an upper bound of the LDS of any method.
    num_base: Models trained on the full training set. They tell which targets are right,
      and make the scores of influence functions and similar methods.
    equal_steps: Train every model for the number of steps that a model on a random subset
      takes, instead of in proportion to its set (as published).
    margin_dtype: Type of stored margins. float16 halves the store; a model with a margin
      above 65,504 counts as diverged.
    keep_logits: Store every logit beside the margins, in the same type.
    seed: Root seed of everything random in the experiment, in [0, 2**32).
  """

  alpha: float = 0.5
  num_models: int = 1000
  num_held_out: int = 200
  held_out_from: int | None = None
  held_out_seeds: int = 2
  num_base: int = 32
  equal_steps: bool = False
  margin_dtype: Literal["float32", "float16"] = "float32"
  keep_logits: bool = False
  seed: int = 0

  def __post_init__(self) -> None:
    if not 0 < self.alpha < 1:
      raise UserError(f"alpha must be in (0, 1), got {self.alpha}")
    for name in ("num_models", "num_held_out", "num_base"):
      if getattr(self, name) < 2:
        raise UserError(f"{name} must be at least 2, got {getattr(self, name)}")
    if self.held_out_from is not None and self.held_out_from < 0:
      raise UserError(f"held_out_from must be >= 0, got {self.held_out_from}")
    if self.held_out_seeds < 1:
      raise UserError(f"held_out_seeds must be >= 1, got {self.held_out_seeds}")
    if not 0 <= self.seed < 2**32:
      raise UserError(f"seed must be in [0, 2**32), got {self.seed}")

  @property
  def held_out_numbers(self) -> np.ndarray:
    """The held-out subsets, as int[...]."""
    first = self.num_models if self.held_out_from is None else self.held_out_from
    return first + np.arange(self.num_held_out)

  @property
  def fitted_numbers(self) -> np.ndarray:
    """The subsets whose models are fitted to, as int[...]: the first others."""
    numbers = np.arange(self.num_models + self.num_held_out)
    return np.setdiff1d(numbers, self.held_out_numbers)[: self.num_models]


# Fields of CollectConfig that may change while models are there: those that they ask for
# beside them are trained.
GROWING = ("num_models", "num_held_out", "held_out_from", "held_out_seeds", "num_base")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientConfig:
  """How TracIn, TRAK and influence functions look at the models on all data.

  Attributes:
    damping: Multiple of an average example's part that is added to the matrices of TRAK
      and of influence functions.
    gradient_dim: Dimension to which the gradient of an example is projected.
  """

  damping: float = 0.5
  gradient_dim: int = 1024

  def __post_init__(self) -> None:
    if not self.damping > 0:
      raise UserError(f"damping must be positive, got {self.damping}")
    if self.gradient_dim < 1:
      raise UserError(f"gradient_dim must be >= 1, got {self.gradient_dim}")


PRIORS = ("none", "class", "similar", "tracin", "trak", "influence", "influence+size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorConfig:
  """What is believed of the weights before fitting.

  Attributes:
    priors: Candidate priors of the weights, comma-separated; validation chooses one.
      none: the published method. class, similar: penalty factors by class or similarity.
      tracin, trak, influence: weights are shrunk to these scores. influence+size: and
      penalised less where the scores are large.
  """

  priors: str = "none,influence+size"

  def __post_init__(self) -> None:
    names = self.priors.split(",")
    if set(names) - set(PRIORS) or len(set(names)) < len(names):
      raise UserError(f"priors must be some of {', '.join(PRIORS)}, got {self.priors!r}")


# Relabel scores are of another change than removal.
METHODS = tuple(name for name in registry.METHODS if name != "relabel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
  """Which ways of choosing training examples are compared.

  Attributes:
    methods: Methods to compare, comma-separated: {methods}.
    search_targets: Indices of the targets to search, comma-separated, such as 3,14;
      default: a random sample.
  """

  methods: str = "datamodel,influence,similar,random"
  search_targets: str = ""

  def __post_init__(self) -> None:
    if set(self.names) - set(METHODS) or len(set(self.names)) < len(self.names):
      raise UserError(
        f"methods must be some of {', '.join(METHODS)}, got {self.methods!r}"
      )
    texts = self.search_targets.split(",") if self.search_targets else []
    if not all(text.isdecimal() for text in texts) or len(set(texts)) < len(texts):
      raise UserError(
        f"search_targets must be indices such as 3,14,15, got {self.search_targets!r}"
      )

  @property
  def names(self) -> tuple[str, ...]:
    """The methods one by one."""
    return tuple(self.methods.split(","))

  @property
  def target_list(self) -> tuple[int, ...]:
    """The targets asked for one by one; none: a sample."""
    return tuple(int(text) for text in self.search_targets.split(",") if text)


# Flags take their help from the docstring.
CompareConfig.__doc__ = (CompareConfig.__doc__ or "").format(
  methods=", ".join(f"{name} ({registry.METHODS[name].source})" for name in METHODS)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipConfig:
  """Which labels flipped examples get.

  Attributes:
    flip_to: New label of flipped examples: runner-up (the most likely class for the
      target, other than its own, under models on all data), best (for each example the
      class with the largest relabel score), or the name of a class, with --search_targets
      of other classes.
  """

  flip_to: str = "runner-up"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
  """Which network is trained.

  Attributes:
    network: Network to train: resnet9; mlp (one hidden layer of --width units) or linear,
      which also take feature vectors; or package.module:factory, a function from the
      number of classes to a Flax module.
  """

  network: str = "resnet9"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """Everything that a result depends on, group by group."""

  data: DataConfig
  collect: CollectConfig
  network: NetworkConfig
  train: TrainConfig
  gradient: GradientConfig
  prior: PriorConfig
  fit: FitConfig
  search: SearchConfig
  compare: CompareConfig
  flip: FlipConfig
