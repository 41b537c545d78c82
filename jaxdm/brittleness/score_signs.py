"""Whether scores have the sign that searches take them to have."""

from collections.abc import Sequence

import numpy as np
import scipy.special

from jaxdm import matrices
from jaxdm.attribution.scores import check_finite
from jaxdm.errors import UserError

_TILE_TARGETS = 1024
# The chance of calling scores without information wrong.
_WRONG_SIGN = 1e-6
# Of means of float32 scores, in their own units.
_ROUNDING = 1e-6


def check_sign(
  method: str, scores_tn: matrices.Matrix, labels: np.ndarray, target_labels: np.ndarray
) -> None:
  """Checks that scores are finite, and not clearly lower for targets' own classes.

  Every class counts alike: one that is spread out is farther from itself than from
  others, but on average over classes examples are nearer to their own (the energy
  distance of Szekely and Rizzo is never negative). How clear it is follows from how much
  targets differ, and how much examples do: scores of noise that all targets share are
  not called wrong. Degrees of freedom are Satterthwaite's.

  Args:
    method: names the scores.
    scores_tn: real, how much each example supports each target, read a tile of targets
      at a time.
    labels: int[n], of the training examples.
    target_labels: int[t].

  Raises:
    UserError: on scores that are not finite, or of the wrong sign.
  """
  targets_k = np.bincount(target_labels, minlength=int(np.max(labels)) + 1)
  classes = [k for k in np.unique(labels) if targets_k[k] > 1]
  means_tk, means_kn = _class_means(method, scores_tn, classes, labels, target_labels)
  if len(classes) < 2:
    return
  # The unit of the scores is a power of two, so that no square overflows or vanishes.
  size = max(np.abs(means_tk).max(), np.abs(means_kn).max())
  means_tk, means_kn = (np.ldexp(x, -np.frexp(size)[1]) for x in (means_tk, means_kn))
  excess, variance, spread, rounding = 0.0, 0.0, 0.0, 0.0
  for i, k in enumerate(classes):
    of_k = means_tk[target_labels == k]
    excess_t = of_k[:, i] - np.delete(of_k, i, axis=1).mean(axis=1)
    of_examples = means_kn[:, labels == k]
    excess_n = of_examples[i] - np.delete(of_examples, i, axis=0).mean(axis=0)
    excess += excess_t.mean()
    rounding += _ROUNDING * np.abs(of_k).max()
    for values in (excess_t, excess_n):
      if len(values) > 1:
        part = values.var(ddof=1) / len(values)
        variance += part
        spread += part**2 / (len(values) - 1)
  freedom = variance**2 / spread if spread else 1e9
  t = excess / np.sqrt(max(variance, 1e-300))
  # Scores that are the same for all targets have an excess of 0, but for rounding.
  if excess < -rounding and scipy.special.stdtr(freedom, t) < _WRONG_SIGN:
    raise UserError(
      "scores",
      f"of {method} have the wrong sign: on average, examples of a target's own class "
      "have lower ones than others; negate them, so that the examples that support a "
      "target most have the highest ones",
    )


def _class_means(
  method: str,
  scores_tn: matrices.Matrix,
  classes: Sequence[int],
  labels: np.ndarray,
  target_labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Means over each class's examples and targets; UserError if not finite.

  Returns:
    float64[t, k], of the scores of a class's examples, and float64[k, n], of those for a
    class's targets.
  """
  num_targets, num_train = scores_tn.shape
  means_tk = np.empty((num_targets, len(classes)))
  sums_kn = np.zeros((len(classes), num_train))
  for start in range(0, num_targets, _TILE_TARGETS):
    part = slice(start, start + _TILE_TARGETS)
    tile_un = np.asarray(scores_tn[part])
    check_finite(tile_un, start, method)
    for i, k in enumerate(classes):
      means_tk[part, i] = tile_un[:, labels == k].mean(axis=1, dtype=np.float64)
      sums_kn[i] += tile_un[target_labels[part] == k].sum(axis=0, dtype=np.float64)
  counts_k = np.bincount(target_labels, minlength=max(classes, default=0) + 1)
  return means_tk, sums_kn / counts_k[list(classes), None]
