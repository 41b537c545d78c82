"""The settings of a fit of datamodels."""

import dataclasses

from jaxdm.errors import check_count, check_number, check_seed, use_python_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """Settings of a fit of datamodels.

  lambda_min_ratio, patience, tol, path_tol and max_steps have an effect on lassos only.

  >>> import jaxdm
  >>> jaxdm.FitConfig(folds=5).num_lambdas
  20

  Attributes:
    num_lambdas: Number of penalties on the regularisation path of each target.
    lambda_min_ratio: Smallest penalty of a path, as a share of the target's lambda_max.
    validation_share: Share of the models that is used to choose the penalty and the
      prior. The final fit uses these models too. No effect if folds > 1.
    folds: Number of cross-validation folds; 1: a single split.
    patience: The path of a target ends after this number of consecutive penalties
      without a smaller validation error.
    tol: Relative duality gap to reach in the final fit.
    path_tol: Relative duality gap to reach along the path. The path is used only to
      choose the penalty.
    max_steps: Largest number of proximal-gradient steps for each penalty.
    seed: Seed of the validation split.
  """

  num_lambdas: int = 20
  lambda_min_ratio: float = 0.02
  validation_share: float = 0.2
  folds: int = 1
  patience: int = 5
  tol: float = 1e-4
  path_tol: float = 1e-3
  max_steps: int = 5_000
  seed: int = 0

  def __post_init__(self) -> None:
    use_python_numbers(self)
    for name in ("num_lambdas", "folds", "patience", "max_steps"):
      check_count(name, getattr(self, name))
    for name in ("lambda_min_ratio", "validation_share"):
      check_number(name, getattr(self, name), above=0, below=1)
    for name in ("tol", "path_tol"):
      check_number(name, getattr(self, name), above=0)
    check_seed(self.seed)
