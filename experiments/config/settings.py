"""The settings of an experiment; their docstrings are the help of the flags."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from jaxdm.attribution import gradient, registry
from jaxdm.brittleness.config import SearchConfig
from jaxdm.datamodels.config import FitConfig
from jaxdm.errors import UserError, check_choice, check_count, check_number, check_seed
from jaxdm.training.config import TrainConfig

MarginDtype = Literal["float32", "float16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """The dataset of an experiment.

  Attributes:
    dataset: Source of the data: 'fashion' (ships with the package), 'folder' (image
      files, see --data_dir), 'arrays' (see --arrays), or the name of a prepared TFDS
      image classification set such as cifar10.
    classes: Names of the classes to use, comma-separated; empty for all.
    train_per_class: Number of training examples to keep of each class (the first ones);
      0: all.
    test_per_class: Number of targets to keep of each class (the first test examples);
      0: all.
    downscale: Side length, in pixels, of the square blocks that are averaged before
      training; 1: the images keep their size.
    background: Colour for the transparent parts of image files, such as white or
      #808080.
  """

  dataset: str = "fashion"
  classes: str = ""
  train_per_class: int = 0
  test_per_class: int = 0
  downscale: int = 1
  background: str = "white"

  def __post_init__(self) -> None:
    for name in ("train_per_class", "test_per_class"):
      check_count(name, getattr(self, name), 0)
    check_count("downscale", self.downscale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectConfig:
  """How many models are trained, on which subsets, with which seeds.

  Attributes:
    alpha: Share of the training set in each random subset.
    num_models: Number of models on random subsets to which the datamodels are fitted.
    num_held_out: Number of additional random subsets. Their models evaluate the
      datamodels and are never used for fitting.
    held_out_from: Index of the first held-out subset; default: num_models. The index
      does not change when more models are added to the workdir later.
    held_out_seeds: Number of models trained on each held-out subset. Two or more models
      also give an estimate of the noise ceiling, an upper bound of the LDS of any
      method.
    num_base: Number of models trained on the full training set. They show which targets
      are classified correctly. The scores of influence functions and similar methods
      are computed from them.
    equal_steps: Train every model for the same number of steps as a model on a random
      subset. If off, the number of steps is proportional to the size of the training
      set (as published).
    margin_dtype: Data type of the stored margins. float16 halves the size of the store;
      a model with a margin above 65,504 then counts as diverged.
    keep_logits: Also store all logits, with the same data type as the margins.
    seed: Root seed of all random numbers of the experiment, in [0, 2**32).
  """

  alpha: float = 0.5
  num_models: int = 1000
  num_held_out: int = 200
  held_out_from: int | None = None
  held_out_seeds: int = 2
  num_base: int = 16
  equal_steps: bool = False
  margin_dtype: MarginDtype = "float32"
  keep_logits: bool = False
  seed: int = 0

  def __post_init__(self) -> None:
    check_number("alpha", self.alpha, above=0, below=1)
    for name in ("num_models", "num_held_out", "num_base"):
      check_count(name, getattr(self, name), 2)
    if self.held_out_from is not None:
      check_count("held_out_from", self.held_out_from, 0)
    check_count("held_out_seeds", self.held_out_seeds)
    check_choice("margin_dtype", self.margin_dtype, get_args(MarginDtype))
    check_seed(self.seed)

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


# Fields of CollectConfig and AuditConfig that may change while there are models: further
# ones are trained for them.
GROWING = (
  *("num_models", "num_held_out", "held_out_from", "held_out_seeds", "num_base"),
  "audit",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
  """Predictions of the training examples.

  Attributes:
    audit: Also predict every training example with every model on a random subset (of
      held-out subsets with the first model), and store margins and classes.
      experiments.audit needs them; experiments.pipeline runs it then. In a workdir that
      has models without them, these models are trained again.
  """

  audit: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientConfig:
  """Settings of TracIn, TRAK and influence functions.

  Attributes:
    damping: Damping of the matrices of TRAK and of influence functions, as a multiple
      of the average contribution of one example; in [1e-4, 1e10].
    gradient_dim: Number of dimensions to which the gradient of each example is
      projected.
    moments: Number of moments of training, evenly spread, at which TRAK, influence
      functions and relabel scores are computed. 1: at the end of training only.
  """

  damping: float = 0.2
  gradient_dim: int = 4096
  moments: int = 12

  def __post_init__(self) -> None:
    gradient.check_damping(self.damping)
    check_count("gradient_dim", self.gradient_dim)
    check_count("moments", self.moments)


PRIORS = (
  "none",
  "class",
  "similar",
  "tracin",
  "trak",
  "influence",
  "influence+size",
  "influence+covariance",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorConfig:
  """Priors of the weights, among which validation chooses.

  Attributes:
    priors: Candidate priors of the weights, comma-separated; validation chooses one.
      none: no prior, the published method. class, similar: penalty factors that depend
      on class or similarity. tracin, trak, influence: weights are shrunk to the scores
      of this method. influence+size: as influence, and weights with large scores are
      penalised less. influence+covariance: as influence, and the weights are the mean of
      a Gaussian posterior instead of a lasso, in which examples vary together as their
      scores do over the targets; it needs 48 bytes of memory for each pair of examples.
  """

  priors: str = "none,influence+covariance"

  def __post_init__(self) -> None:
    names = self.priors.split(",")
    if set(names) - set(PRIORS) or len(set(names)) < len(names):
      raise UserError(
        "priors", f"must be some of {', '.join(PRIORS)}, got {self.priors!r}"
      )


# Relabel scores are of another change than removal.
METHODS = tuple(name for name in registry.METHODS if name != "relabel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
  """Methods and targets of the searches.

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
        "methods", f"must be some of {', '.join(METHODS)}, got {self.methods!r}"
      )
    texts = self.search_targets.split(",") if self.search_targets else []
    if not all(text.isdecimal() for text in texts) or len(set(texts)) < len(texts):
      raise UserError(
        "search_targets", f"must be indices such as 3,14,15, got {self.search_targets!r}"
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
  """The new labels of flipped examples.

  Attributes:
    flip_to: New label of flipped examples: runner-up (the most likely class for the
      target, other than its own, according to models on all data; with --retrain: the
      class whose examples lower the margin most according to the datamodel), best (for
      each example, the class with the largest relabel score), or the name of a class.
      With the name of a class, --search_targets must select targets of other classes.
  """

  flip_to: str = "runner-up"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
  """The network.

  Attributes:
    network: Network to train: resnet9; mlp (one hidden layer of --width units); linear;
      or package.module:factory, a function that takes the number of classes and returns
      a Flax module. mlp and linear also accept feature vectors.
  """

  network: str = "resnet9"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrainConfig:
  """Training by a function of the user.

  Attributes:
    retrain: Your own training: package.module:factory, in the working directory or on
      the Python path. factory(dataset) gets the jaxdm.Dataset that --dataset names, and
      returns a function retrain(masks, labels, seeds). This function gets bool [m, n]
      masks (the training examples of each of m models), int [m, n] labels and int [m]
      seeds. It returns float [m, t] margins of the targets, which are positive if the
      prediction is right, and NaN if training has failed. Methods that need the
      gradients or features of networks, such as influence, are left out.
    retrain_version: With --retrain: text that stands for everything else that the
      margins depend on, such as the versions of packages. Models of another version are
      refused. The source file of the module always counts.
  """

  retrain: str = ""
  retrain_version: str = ""

  def __post_init__(self) -> None:
    if self.retrain_version and not self.retrain:
      raise UserError("retrain_version", "is for --retrain, which is not given")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """Everything that a result depends on, group by group."""

  data: DataConfig
  collect: CollectConfig
  audit: AuditConfig = AuditConfig()
  retrain: RetrainConfig = RetrainConfig()
  network: NetworkConfig
  train: TrainConfig
  gradient: GradientConfig
  prior: PriorConfig
  fit: FitConfig
  search: SearchConfig
  compare: CompareConfig
  flip: FlipConfig
