"""Influence functions taken again after every part of a removal.

What an example does depends on what else is gone: its likes take over from a removed
image. So a quarter of the largest removal is chosen, models are trained without it, the
next quarter is chosen by their influence functions, and so on.
"""

import numpy as np

from experiments import base_models, hosts, lab
from jaxdm import brittleness, kept, prng, training_sets
from jaxdm.baselines import gradient


def scores(opened: lab.Lab, targets: np.ndarray) -> np.ndarray:
  """Scores float32[t, n] that rank so; those of other targets are influence functions'.

  Args:
    opened: the experiment.
    targets: int, those wanted. What has been trained for one is kept in the workdir.
  """
  found = base_models.load(opened).scores["influence"].copy()
  share, config = opened.experiment.search.max_share, opened.experiment.compare
  folder = opened.workdir.path / "stepwise.parts"
  asked = {"max_share": share, "models": config.stepwise_models}
  made = kept.Kept(folder, asked | {"steps": config.stepwise_steps})
  bar = opened.bar("stepwise", unit="target")
  index, processes = hosts.mine()
  mine = targets[index::processes]
  for done, target in enumerate(mine, start=1):
    label = int(opened.target_labels[target])
    most = brittleness.largest_change(opened.labels, label, share)
    sizes = np.linspace(0, most, config.stepwise_steps + 1).round().astype(int)[1:]

    def make(
      target: int = int(target), sizes: np.ndarray = sizes
    ) -> dict[str, np.ndarray]:
      return {"scores": _scores_of(opened, target, found[target], np.unique(sizes))}

    made(f"target-{target}", make)
    opened.fleet.settle()
    bar(done, len(mine))
  for target in targets:
    found[target] = made.wait_for(f"target-{target}")["scores"]
  return found


def _scores_of(
  opened: lab.Lab, target: int, scores_n: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
  """One target's, from the scores that choose the first part."""
  removed = np.argsort(-scores_n, kind="stable")[: sizes[0]]
  for size in sizes[1:]:
    scores_n = _local_influence(opened, target, removed)
    order = np.argsort(-scores_n, kind="stable")
    removed = np.concatenate([removed, order[: size - len(removed)]])
  # The removed ones in front, in their order; the rest as the last models have them.
  scores_n = np.where(np.isfinite(scores_n), scores_n, 0)
  scores_n[removed] = scores_n.max() + np.arange(len(removed), 0, -1)
  return scores_n.astype(np.float32)


def _local_influence(opened: lab.Lab, target: int, removed: np.ndarray) -> np.ndarray:
  """Influence on one target of what is left, float[n]; -inf for what is removed."""
  n, damping = len(opened.labels), opened.experiment.gradient.damping
  [mask] = training_sets.removal_masks(n, [removed])
  total, count = np.zeros(n), opened.experiment.compare.stepwise_models
  for start in range(0, count, opened.fleet.rows):
    size = min(opened.fleet.rows, count - start)
    seeds = [prng.Seed("stepwise", start + i) for i in range(size)]
    keys = prng.keys_for(opened.seed, seeds)
    masks_mn = np.tile(mask, (size, 1))
    _, models = base_models.gradients_of(opened, masks_mn, keys, np.array([target]))
    for model in models:
      # Removed examples take no part in the curvature.
      left = model._replace(train_nd=model.train_nd * mask[:, None])
      rows_nd = gradient.influence(left, damping)
      total += np.nan_to_num(np.asarray(gradient.scores(rows_nd, left.target_td))[0])
  return np.where(mask, total, -np.inf)
