"""Anybody's training: the removals that flip a logistic regression of scikit-learn.

python docs/examples/scikit_learn.py          (needs scikit-learn)
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

import jaxdm

rng = np.random.default_rng(0)
labels = np.arange(20) % 2
x = rng.normal(size=(20, 2)) + 1.5 * labels[:, None]
target_labels = np.array([0, 1, 1])
x_target = np.array([[0.4, 0.3], [1.0, 1.2], [1.5, 0.4]])


def retrain(masks, labels, seeds):
  """Margins [m, t]: log-odds of the targets' classes; the fit uses no randomness."""
  margins = []
  for mask, label in zip(masks, labels, strict=True):
    model = LogisticRegression().fit(x[mask], label[mask])
    margins.append(model.decision_function(x_target) * (2 * target_labels - 1))
  return np.array(margins)


def main():
  """Searches all targets."""
  masks = jaxdm.random_subsets(num_models=400, num_train=20, alpha=0.8, seed=0)
  margins = retrain(masks, np.broadcast_to(labels, masks.shape), np.arange(400))
  models = jaxdm.fit_datamodels(masks, margins)
  config = jaxdm.SearchConfig(max_share=0.5)
  found = jaxdm.find_removals(models, retrain, labels, target_labels, config=config)
  for verdict in found:
    print(f"target {verdict.target}: wrong without {verdict.examples[: verdict.k]}")
  return found


if __name__ == "__main__":
  main()
