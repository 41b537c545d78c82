"""Datamodels' removals, each choice given that those before it are gone.

The models on all data are trained again for it, since they are not kept; no other model
is trained.
"""

import numpy as np

from experiments import base_models, fit_datamodels, hosts, lab
from jaxdm import brittleness, greedy, kept

# Those with the largest weights: so many times the largest removal, at most so many.
_CANDIDATES = 4
_MOST_CANDIDATES = 512


def scores(opened: lab.Lab, targets: np.ndarray) -> np.ndarray:
  """Scores float32[t, n] that rank so; those of other targets are datamodels' weights.

  Args:
    opened: the experiment.
    targets: int[u], those wanted. What is found is kept in the workdir.
  """
  weights_tn = fit_datamodels.fitted(opened.workdir).weights_tn.copy()
  share = opened.experiment.search.max_share
  asked = {"targets": targets.tolist(), "max_share": share}
  folder = opened.workdir.path / "greedy.parts"
  parts = kept.Kept(folder, opened.settings("gradient", "prior", "fit") | asked)
  if hosts.follows():
    orders = parts.wait_for("orders")
  else:
    orders = parts("orders", lambda: _orders(opened, targets, weights_tn, parts))
  for target, order in zip(targets, orders["examples"], strict=True):
    weights_tn[target] = brittleness.in_front(weights_tn[target], order)
  return weights_tn


def _orders(
  opened: lab.Lab, targets: np.ndarray, weights_tn: np.ndarray, parts: kept.Kept
) -> dict[str, np.ndarray]:
  """Every target's first examples, int[u, s]: as many as the largest removal needs."""
  share, labels = opened.experiment.search.max_share, opened.target_labels
  most = max(
    brittleness.largest_change(opened.labels, int(labels[t]), share) for t in targets
  )
  count = min(_CANDIDATES * most, _MOST_CANDIDATES, len(opened.labels))
  candidates_uc = np.argsort(-weights_tn[targets], axis=1, kind="stable")[:, :count]

  def make(start: int, size: int) -> dict[str, np.ndarray]:
    return _chunk(opened, targets, candidates_uc, start, size)

  found = list(base_models.in_chunks(opened, parts, "greedy removals", make))
  orders = []
  for row, target in enumerate(targets):
    fields = [[part[name][row] for part in found] for name in greedy.Linearised._fields]
    models = greedy.Linearised(*(np.concatenate(field) for field in fields))
    weights_c = weights_tn[target, candidates_uc[row]]
    order = np.asarray(greedy.order(models, weights_c, most=min(most, count)))
    orders.append(candidates_uc[row, order])
  return {"examples": np.array(orders)}


def _chunk(
  opened: lab.Lab, targets: np.ndarray, candidates_uc: np.ndarray, start: int, size: int
) -> dict[str, np.ndarray]:
  """The fields of `greedy.Linearised`, [u, models, ...], without models that diverged."""
  (u, c), damping = candidates_uc.shape, opened.experiment.gradient.damping
  _, models = base_models.trained_again(opened, targets, start, size)
  whole = [model for model in models if np.isfinite(model.odds_n).all()]
  found = greedy.Linearised(
    *(np.zeros((u, len(whole), *shape), np.float32) for shape in ((c, c), (c,), (c,)))
  )
  for i, model in enumerate(whole):
    for field, part in zip(
      found, greedy.linearise(model, candidates_uc, damping), strict=True
    ):
      field[:, i] = part
  return dict(found._asdict())
