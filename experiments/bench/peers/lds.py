"""The LDS of scores on an included problem, by other packages' own code.

Each function also shows the form in which the package takes our masks and margins.
"""

import numpy as np

from jaxdm.problems.problem import Problem


def subset_indices(masks_mn: np.ndarray) -> np.ndarray:
  """The examples of subsets of one size, int[m, size], ascending."""
  return np.nonzero(masks_mn)[1].reshape(len(masks_mn), -1)


def by_dattri(problem: Problem, scores_tn: np.ndarray) -> np.ndarray:
  """float64[t], by `dattri.metric.lds`, which takes scores as [n, t]."""
  import torch
  from dattri.metric import lds

  masks_mn, margins_mt = problem.held_out
  truth = torch.tensor(margins_mt), torch.tensor(subset_indices(masks_mn))
  values, _ = lds(torch.tensor(np.asarray(scores_tn, np.float64).T), truth)
  return values.numpy()


def by_quanda(problem: Problem, scores_tn: np.ndarray) -> np.ndarray:
  """float[t], by quanda's `LinearDatamodelingMetric`.

  It asks models for their outputs; margins take the place of these, a column for each
  model, so that it needs no model.
  """
  import torch
  from quanda.metrics.ground_truth import LinearDatamodelingMetric

  masks_mn, margins_mt = problem.held_out
  labels = torch.tensor(problem.labels)
  metric = LinearDatamodelingMetric(
    model=torch.nn.Identity(),
    train_dataset=torch.utils.data.TensorDataset(labels),
    checkpoints_load_func=lambda model, path: None,
    m=len(masks_mn),
    subset_ids=subset_indices(masks_mn).tolist(),
    subset_ckpt_filenames=[""] * len(masks_mn),
  )
  target_labels = torch.tensor(problem.target_labels)
  metric.update(
    explanations=torch.tensor(np.asarray(scores_tn, np.float64)),
    test_targets=target_labels,
    test_data=target_labels,
    subset_logits={
      i: torch.tensor(row, dtype=torch.float64) for i, row in enumerate(margins_mt)
    },
  )
  return torch.cat(metric.results["scores"]).numpy()
