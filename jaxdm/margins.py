"""From logits to what datamodels predict."""

import jax
import jax.numpy as jnp

from jaxdm import Array, numerics


@numerics.pinned()
def correct_class_margins(logits: Array, labels: Array) -> Array:
  """Correct-class logit minus the largest other one; positive = correct.

  Section 3.3 of Ilyas et al., 'Datamodels', arXiv:2202.00622.

  Args:
    logits: float[..., t, k].
    labels: int[t].

  Returns:
    float32[..., t], in logits; NaN where a logit is NaN.
  """
  logits = jnp.asarray(logits, jnp.float32)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  correct = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
  other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
  return correct - other
