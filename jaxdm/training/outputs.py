"""What trained models predict for some inputs."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Outputs(NamedTuple):
  """What models that were trained by one call predict for some inputs.

  Attributes:
    places: int[m], the row of each model; other rows only fill the call.
    logits: float32[rows, t, k], on device.
    training_logits: the same of all training examples; None: they were not requested.
  """

  places: np.ndarray
  logits: Any
  training_logits: Any = None

  def on_host(self) -> "Outputs":
    """Each model's, in order, as NumPy arrays [m, t, k]."""
    logits, training = jax.tree.map(
      lambda array: np.asarray(array)[self.places], (self.logits, self.training_logits)
    )
    return Outputs(np.arange(len(self.places)), logits, training)
