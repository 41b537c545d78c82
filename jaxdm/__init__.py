"""jaxdm: which training examples does a prediction hang on?

Axis letters, used as suffixes of array names and in einsums throughout:
m models, n training examples, t targets, b batch, k classes, s slots of a
padded training set, l lambdas of a path.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray

from jaxdm.datamodels import fit_datamodels as fit_datamodels  # noqa: E402
from jaxdm.lasso.fit import fit_lasso as fit_lasso  # noqa: E402
