"""What trained models predict for some inputs."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Outputs(NamedTuple):
  """What models that were trained by one call predict for some inputs.

  Attributes:
    num_models: m; the arrays may hold padding beyond.
    logits: float32[rows, t, k], on device.
    features: float32[rows, t, f], on device.
    training_logits: the same of all training examples; None: they were not requested.
  """

  num_models: int
  logits: Any
  features: Any
  training_logits: Any = None

  def on_host(self) -> "Outputs":
    """The logits without padding, as NumPy arrays; the features stay where they are."""
    logits, training = jax.tree.map(
      lambda array: np.asarray(array)[: self.num_models],
      (self.logits, self.training_logits),
    )
    return self._replace(logits=logits, training_logits=training)
