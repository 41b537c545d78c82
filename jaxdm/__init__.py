"""jaxdm: which training examples does a prediction depend on?

Public names are imported when they are first used, so that `import jaxdm` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxdm.datamodels.fit import fit_datamodels as fit_datamodels
  from jaxdm.lasso.fit import fit_lasso as fit_lasso

# Public names, and the modules that define them.
_MODULES = {
  "fit_datamodels": "jaxdm.datamodels.fit",
  "fit_lasso": "jaxdm.lasso.fit",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
