"""What models are trained on: images or feature vectors, and how they are normalised."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdm.typing import Array

_LEAST_VARIANCE = 1e-12  # Of a feature, as a share of its mean square.


class Inputs(NamedTuple):
  """All inputs of a dataset, with what it takes to normalise by any subset of them.

  Attributes:
    values_n: uint8[n, h, w, c] images, or float32[n, d] feature vectors.
    mean_nc: float32, each image's mean pixel; [n, 0] for feature vectors.
    power_nc: float32, each image's mean squared pixel; [n, 0] for feature vectors.
  """

  values_n: Array
  mean_nc: Array
  power_nc: Array

  @classmethod
  def of(cls, values_n: np.ndarray) -> "Inputs":
    """From uint8[n, h, w, c] or float32[n, d]."""
    if values_n.ndim == 2:
      nothing = np.zeros((len(values_n), 0), np.float32)
      return cls(values_n, nothing, nothing)
    mean = values_n.mean(axis=(1, 2), dtype=np.float32)
    power = np.square(values_n, dtype=np.float32).mean(axis=(1, 2))
    return cls(values_n, mean, power)


def statistics(inputs: Inputs, indices_s: Array, count: Array) -> dict[str, Array]:
  """Mean and standard deviation over one training set, float32[c] or float32[d].

  Taken over the model's own set: a statistic of all inputs would let an excluded
  example change the model. A feature that does not vary in the set has an infinite
  standard deviation: it is 0 for the model, which could not learn what it means.

  Args:
    inputs: of the whole dataset.
    indices_s: int32, the training set, padded.
    count: int32 scalar, slots in use.
  """
  used = jnp.arange(len(indices_s)) < count
  if jnp.ndim(inputs.values_n) == 2:
    return _feature_statistics(jnp.asarray(inputs.values_n), indices_s, used, count)
  mean, power = (
    jnp.where(used[:, None], jnp.asarray(table)[indices_s], 0.0).sum(axis=0) / count
    for table in (inputs.mean_nc, inputs.power_nc)
  )
  return {"mean": mean, "std": jnp.sqrt(jnp.maximum(power - mean**2, 1.0))}


def _feature_statistics(
  values_nd: Array, indices_s: Array, used_s: Array, count: Array
) -> dict[str, Array]:
  """In two passes, since features may be small differences of large numbers."""
  weight_n = jnp.zeros(len(values_nd)).at[indices_s].add(used_s.astype(jnp.float32))
  inside = weight_n[:, None] > 0
  mean_d = jnp.where(inside, values_nd, 0.0).sum(axis=0) / count
  rest_nd = jnp.where(inside, values_nd - mean_d, 0.0)
  # In units of a power of two, which changes no bit: squares of very small or very large
  # numbers would be 0 or infinite.
  _, exponent_d = jnp.frexp(jnp.abs(rest_nd).max(axis=0))
  unit_d = jnp.ldexp(jnp.ones_like(mean_d), exponent_d - 1)
  square_d = ((rest_nd / unit_d) ** 2).sum(axis=0) / count
  constant_d = square_d <= _LEAST_VARIANCE * (mean_d / unit_d) ** 2
  std_d = unit_d * jnp.sqrt(square_d)
  return {"mean": mean_d, "std": jnp.where(constant_d, jnp.inf, std_d)}


def normalise(values: Array, stats: dict[str, Array]) -> jax.Array:
  """float32 inputs with the training set's mean at 0, in its standard deviations."""
  return (jnp.asarray(values, jnp.float32) - stats["mean"]) / stats["std"]
