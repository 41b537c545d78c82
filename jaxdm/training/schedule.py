"""The schedule of the learning rate."""

import jax.numpy as jnp

from jaxdm.training.config import TrainConfig
from jaxdm.typing import Array


def learning_rate(config: TrainConfig, progress: Array) -> Array:
  """The triangular schedule at `progress` in [0, 1)."""
  rise = progress / config.peak_at
  fall = (1 - progress) / (1 - config.peak_at)
  return config.peak_learning_rate * jnp.maximum(jnp.minimum(rise, fall), 0.0)
