"""jaxdm: which training examples does a prediction hang on?

Axis letters, used as suffixes of array names and in einsums throughout:
m models, n training examples, t targets, b batch, k classes, s slots of a
padded training set.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
