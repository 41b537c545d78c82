"""Scores by traker 0.3.2, the package of TRAK's authors (arXiv:2303.14186)."""

import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from trak import TRAKer

from experiments.bench.peers.torch_models import Examples

_BATCH = 1000  # Each batch draws the matrix of projection anew.


def scores(
  nets: Sequence[torch.nn.Module], train: Examples, targets: Examples, **options: Any
) -> np.ndarray:
  """TRAK over models on all data, with the package's defaults.

  Args:
    nets: of one architecture, for evaluation.
    train: the training examples.
    targets: the targets.
    **options: of `TRAKer`, such as lambda_reg and proj_dim.

  Returns:
    float32[t, n].
  """
  with tempfile.TemporaryDirectory() as folder:
    traker = TRAKer(
      model=nets[0],
      task="image_classification",
      train_set_size=len(train.labels),
      save_dir=folder,
      device="cpu",
      logging_level=logging.WARNING,
      **options,
    )
    checkpoints = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    for i, checkpoint in enumerate(checkpoints):
      traker.load_checkpoint(checkpoint, model_id=i)
      for batch in zip(*(part.split(_BATCH) for part in train), strict=True):
        traker.featurize(batch=batch, num_samples=len(batch[0]))
    traker.finalize_features()
    for i, checkpoint in enumerate(checkpoints):
      traker.start_scoring_checkpoint("t", checkpoint, i, len(targets.labels))
      for batch in zip(*(part.split(_BATCH) for part in targets), strict=True):
        traker.score(batch=batch, num_samples=len(batch[0]))
    scores_nt = traker.finalize_scores(exp_name="t")
    return np.array(scores_nt, np.float32).T
