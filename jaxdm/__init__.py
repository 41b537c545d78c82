"""jaxdm: which training examples does a prediction depend on?

Public names are imported when they are first used, so that `import jaxdm` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdm.attribution.attribute import attribution_scores as attribution_scores
  from jaxdm.audits.audit import Audit as Audit
  from jaxdm.audits.audit import audit as audit
  from jaxdm.brittleness.config import SearchConfig as SearchConfig
  from jaxdm.brittleness.label_flips import find_label_flips as find_label_flips
  from jaxdm.brittleness.removals import find_removals as find_removals
  from jaxdm.brittleness.repairs import find_repairs as find_repairs
  from jaxdm.brittleness.retraining import Retrain as Retrain
  from jaxdm.brittleness.summary import summarise as summarise
  from jaxdm.brittleness.verdicts import Verdict as Verdict
  from jaxdm.data.dataset import Dataset as Dataset
  from jaxdm.data.load import load_dataset as load_dataset
  from jaxdm.datamodels.config import FitConfig as FitConfig
  from jaxdm.datamodels.evaluate import evaluate_scores as evaluate_scores
  from jaxdm.datamodels.fit import fit_datamodels as fit_datamodels
  from jaxdm.datamodels.model import Datamodels as Datamodels
  from jaxdm.datamodels.priors import Prior as Prior
  from jaxdm.datamodels.quality import Quality as Quality
  from jaxdm.devices import use_all_devices as use_all_devices
  from jaxdm.errors import UserError as UserError
  from jaxdm.lasso.fit import fit_lasso as fit_lasso
  from jaxdm.lasso.result import LassoFit as LassoFit
  from jaxdm.problems.problem import Problem as Problem
  from jaxdm.problems.problem import load_problem as load_problem
  from jaxdm.report.figures import plot_share_flipped as plot_share_flipped
  from jaxdm.storage.recall import remember as remember
  from jaxdm.training.config import TrainConfig as TrainConfig
  from jaxdm.training.speed import Speed as Speed
  from jaxdm.training.trainer import Trainer as Trainer
  from jaxdm.training_sets import random_subsets as random_subsets

# Public names, and the modules that define them.
_MODULES = {
  "Audit": "audits.audit",
  "Dataset": "data.dataset",
  "Datamodels": "datamodels.model",
  "FitConfig": "datamodels.config",
  "LassoFit": "lasso.result",
  "Prior": "datamodels.priors",
  "Problem": "problems.problem",
  "Quality": "datamodels.quality",
  "Retrain": "brittleness.retraining",
  "SearchConfig": "brittleness.config",
  "Speed": "training.speed",
  "TrainConfig": "training.config",
  "Trainer": "training.trainer",
  "UserError": "errors",
  "Verdict": "brittleness.verdicts",
  "attribution_scores": "attribution.attribute",
  "audit": "audits.audit",
  "evaluate_scores": "datamodels.evaluate",
  "find_label_flips": "brittleness.label_flips",
  "find_removals": "brittleness.removals",
  "find_repairs": "brittleness.repairs",
  "fit_datamodels": "datamodels.fit",
  "fit_lasso": "lasso.fit",
  "load_dataset": "data.load",
  "load_problem": "problems.problem",
  "plot_share_flipped": "report.figures",
  "random_subsets": "training_sets",
  "remember": "storage.recall",
  "summarise": "brittleness.summary",
  "use_all_devices": "devices",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  try:
    return getattr(importlib.import_module(f"jaxdm.{_MODULES[name]}"), name)
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"jaxdm.{name} needs the package {error.name}; pip install 'jaxdm[run,data]' "
      "brings all that is optional",
      name=error.name,
    ) from error


def __dir__() -> list[str]:
  return sorted(__all__)
