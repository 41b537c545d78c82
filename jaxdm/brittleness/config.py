"""The settings of a search."""

import dataclasses
from typing import Literal, get_args

from jaxdm.brittleness.verification import MOST_SKEWNESS, SequentialTest
from jaxdm.errors import (
  check_choice,
  check_count,
  check_number,
  check_seed,
  use_python_numbers,
)

SizeLaw = Literal["grid", "surrogate"]
# The levels of a test are simulated for as many models as may verify one size.
_MOST_VERIFY_SEEDS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """Settings of a search and its verification.

  >>> import jaxdm
  >>> jaxdm.SearchConfig(max_share=0.1, num_targets=50).verify_seeds
  16

  Attributes:
    max_share: The largest number of examples to change, as a share of the target's
      class.
    size_law: How the sizes to try are chosen. grid: geometrically spaced from 1.
      surrogate: for datamodels, the sizes at which the predicted margins are 0 and
      below, in equal steps of the margin.
    num_sizes: Number of sizes to try.
    search_models: Largest number of models that are trained to choose the first size to
      verify, for each target and method.
    verify_seeds: Largest number of new models that are trained to verify one size, up to
      1000. Verification stops earlier if the result is clear
      (`verification.SequentialTest`).
    max_verifications: Largest number of sizes to verify for each target and method. Each
      size is smaller than the one before, and chosen from the margins of all models
      trained so far.
    confidence: Confidence level of each claim about one target and one method, such as
      0.95.
    num_targets: Number of targets to search. They are sampled from the targets that
      models on all data classify correctly.
    seed: Seed of the sample of targets.
  """

  max_share: float = 0.25
  size_law: SizeLaw = "grid"
  num_sizes: int = 40
  search_models: int = 8
  verify_seeds: int = 16
  max_verifications: int = 8
  confidence: float = 0.95
  num_targets: int = 24
  seed: int = 0

  def __post_init__(self) -> None:
    use_python_numbers(self)
    check_number("max_share", self.max_share, above=0, below=1)
    check_number("confidence", self.confidence)  # Its range: `test` below.
    check_choice("size_law", self.size_law, get_args(SizeLaw))
    for name in ("num_sizes", "search_models", "max_verifications", "num_targets"):
      check_count(name, getattr(self, name))
    check_count("verify_seeds", self.verify_seeds, 2, _MOST_VERIFY_SEEDS)
    check_seed(self.seed)
    _ = self.test()  # Checks the range of the confidence.

  @property
  def most_models(self) -> int:
    """Largest number of models that one target and one method can need."""
    return self.search_models + self.max_verifications * self.verify_seeds

  def test(self, skewness: float = MOST_SKEWNESS) -> SequentialTest:
    """What a verification must pass, for margins of such a skewness at most."""
    return SequentialTest(
      most=self.verify_seeds, confidence=self.confidence, skewness=skewness
    )
