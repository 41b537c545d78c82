"""Label flips: which label to flip to; the search is the one for removals."""

import numpy as np


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
