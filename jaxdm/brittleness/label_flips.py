"""Label flips: which label to flip to; the search is the one for removals."""

import numpy as np

from jaxdm.errors import UserError


def runner_up_class(base_logits_rtk: np.ndarray, target_labels: np.ndarray) -> np.ndarray:
  """The class, other than its own, that full-data models give a target most.

  Args:
    base_logits_rtk: float, logits of r models trained on all data.
    target_labels: int[t].

  Returns:
    int32[t], by mean logit.
  """
  mean_tk = base_logits_rtk.mean(axis=0)
  mean_tk[np.arange(len(target_labels)), target_labels] = -np.inf
  return mean_tk.argmax(axis=1).astype(np.int32)


def given_class(label: int, target_labels: np.ndarray) -> np.ndarray:
  """One class for every target, as int32[t].

  Raises:
    ValueError: if it is the class of some target.
  """
  same = np.flatnonzero(np.asarray(target_labels) == label)
  if same.size:
    raise UserError(
      f"flip_to must not be the class of a target; it is that of {same.size} "
      f"of {len(target_labels)}"
    )
  return np.full(len(target_labels), label, np.int32)


def best_class(relabel_tnk: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """For each target and example the new label that takes most from the target.

  Args:
    relabel_tnk: float, what each new label takes (`attribution.gradient`).
    labels: int[n], those that the examples have; never chosen.

  Returns:
    int32[t, n].
  """
  own_nk = np.asarray(labels)[:, None] == np.arange(relabel_tnk.shape[-1])
  return np.where(own_nk, -np.inf, relabel_tnk).argmax(axis=-1).astype(np.int32)
