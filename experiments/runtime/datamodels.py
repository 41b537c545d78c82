"""The datamodels of a workdir, and what they are shrunk to."""

from collections.abc import Mapping

import numpy as np

from experiments.runtime import stages
from experiments.runtime.workdir import Workdir
from jaxdm import identity
from jaxdm.datamodels import priors
from jaxdm.datamodels.model import Datamodels
from jaxdm.storage import tensorstore_errors
from jaxdm.storage.checksummed_json import DamageError

STAGE = "fit_datamodels"
OUTPUT = "datamodels"


def load(workdir: Workdir) -> Datamodels:
  """The datamodels that the fit wrote.

  Raises:
    WorkdirError: if the stage is not finished.
    DamageError: if what it wrote has changed.
  """
  expected = stages.outputs_of(workdir, STAGE)[OUTPUT]
  path, models, why = workdir.path / OUTPUT, None, "its digest is another one"
  try:
    models = Datamodels.load(path)
  except Exception as error:  # Orbax raises many kinds.
    if os_error := tensorstore_errors.unreadable(error, path):
      raise os_error from error
    why = tensorstore_errors.reason(error)
  if models is None or identity.digest(models) != expected:
    raise DamageError(path, f"is not what {STAGE} wrote: {why}")
  return models


def prior_of(
  name: str,
  labels: np.ndarray,
  target_labels: np.ndarray,
  scores: Mapping[str, np.ndarray],
) -> priors.Prior:
  """One of `settings_lib.PRIORS`; reads what it needs a tile of targets at a time."""
  if name == "none":
    return priors.Prior()
  if name == "class":
    return priors.Prior(lambda part: priors.by_class(labels, target_labels[part]))
  if name == "similar":
    return priors.Prior(lambda part: priors.by_similarity(scores["similar"][part]))
  method, _, more = name.partition("+")
  offset = scores[method]
  if more == "covariance":
    return priors.Prior(offset=offset, covariance_scores=offset)
  by_size = (lambda part: priors.by_size(offset[part])) if more == "size" else None
  return priors.Prior(by_size, offset)
