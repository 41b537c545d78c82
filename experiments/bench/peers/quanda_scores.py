"""Scores by quanda 0.5.0: its wrapper of traker, as an example of its explainers."""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from quanda.explainers.wrappers import TRAK

from experiments.bench.peers.torch_models import Examples

_BATCH = 50


def scores(
  nets: Sequence[torch.nn.Module], train: Examples, targets: Examples, **options: Any
) -> np.ndarray:
  """The mean over models on all data; see `traker_scores`.

  Args:
    nets: for evaluation.
    train: the training examples.
    targets: the targets.
    **options: of the explainer, such as lambda_reg and proj_dim.

  Returns:
    float32[t, n].
  """
  total = np.zeros((len(targets.labels), len(train.labels)), np.float32)
  for i, net in enumerate(nets):
    with tempfile.TemporaryDirectory() as folder:
      explainer = TRAK(
        model=net,
        train_dataset=train.dataset(),
        model_id=str(i),
        cache_dir=folder,
        batch_size=_BATCH,
        **options,
      )
      explanations = explainer.explain(targets.images, targets.labels)
      total += np.array(explanations, np.float32)
  return total / len(nets)
