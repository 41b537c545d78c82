"""Scores by a linear classifier of one target against the training examples."""

import numpy as np

from jaxdm.errors import UserError
from jaxdm.typing import Array

# As published.
_PENALTY = 0.1
_TOLERANCE = 1e-6
_MAX_STEPS = 10_000


def exemplar_scores(
  train_features: Array, target_features: Array, labels: Array, target_labels: Array
) -> np.ndarray:
  """What a linear SVM of each target says of the training examples.

  The target is the only positive example, and the training examples of its class are the
  negative ones; the two classes have equal total weights. The scores are the decision
  function (Singla et al., 'A Simple and Efficient Baseline for Data Attribution on
  Images', arXiv:2311.03386, with the settings of their code).

  >>> import numpy as np
  >>> from jaxdm.attribution.exemplar_svm import exemplar_scores
  >>> train, target = np.array([[0.0, 1], [1, 0], [1, 1]]), np.array([[0.0, 2]])
  >>> scores = exemplar_scores(train, target, np.array([0, 0, 0]), np.array([0]))
  >>> int(scores[0].argmax())
  0

  Args:
    train_features: real[n, f], of the training examples, by any network.
    target_features: real[t, f], of the targets.
    labels: int[n].
    target_labels: int[t].

  Returns:
    float32[t, n]. The classifier says nothing of examples of other classes: they have the
    lowest score of the target's class. 0 for targets of a class without examples.

  Raises:
    UserError: without scikit-learn.
  """
  try:
    from sklearn.svm import LinearSVC
  except ModuleNotFoundError as error:
    raise UserError(
      "methods", ": svm needs scikit-learn; pip install 'jaxdm[bench]' brings it"
    ) from error
  train_nf, targets_tf = np.asarray(train_features), np.asarray(target_features)
  scores_tn = np.zeros((len(targets_tf), len(train_nf)), np.float32)
  for target, (features_f, label) in enumerate(
    zip(targets_tf, target_labels, strict=True)
  ):
    is_negative_n = np.asarray(labels) == label
    negative_uf = train_nf[is_negative_n]
    if not len(negative_uf):
      continue
    svm = LinearSVC(
      C=_PENALTY,
      class_weight="balanced",
      dual="auto",
      tol=_TOLERANCE,
      max_iter=_MAX_STEPS,
      random_state=0,
    )
    svm.fit(np.vstack([features_f, negative_uf]), np.arange(1 + len(negative_uf)) == 0)
    decision_n = svm.decision_function(train_nf)
    scores_tn[target] = np.where(
      is_negative_n, decision_n, decision_n[is_negative_n].min()
    )
  return scores_tn
