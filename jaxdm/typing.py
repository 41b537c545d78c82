"""The type of arrays, and the letters that name their axes.

Axis letters are suffixes of array names and stand in einsums, as in `weights_tn`:
m models, n training examples, t targets, b batch, k classes, s slots of a padded training
set, l lambdas of a path, r models trained on all data, d dimensions of a gradient.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
