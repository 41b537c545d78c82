"""Scores by kronfluence 1.0.1: influence functions with EK-FAC (arXiv:2308.03296)."""

import copy
import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import ScoreArguments
from kronfluence.task import Task

from experiments.bench.peers.torch_models import Examples, log_odds

_BATCH = 100


class _Classification(Task):
  """Cross-entropy in training; the log-odds are what is explained."""

  def compute_train_loss(
    self, batch: Any, model: torch.nn.Module, sample: bool = False
  ) -> torch.Tensor:
    images, labels = batch
    logits = model(images)
    if sample:
      labels = torch.multinomial(logits.detach().softmax(dim=-1), 1).flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

  def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
    images, labels = batch
    # The package's influences are of upweighting an example on minus the measurement.
    return -log_odds(model(images), labels).sum()


def scores(
  nets: Sequence[torch.nn.Module], train: Examples, targets: Examples, **options: Any
) -> np.ndarray:
  """The mean over models on all data, with the package's defaults.

  Args:
    nets: for evaluation.
    train: the training examples.
    targets: the targets.
    **options: of `ScoreArguments`, such as damping_factor.

  Returns:
    float32[t, n].
  """
  total = np.zeros((len(targets.labels), len(train.labels)), np.float32)
  task = _Classification()
  for net in nets:
    with tempfile.TemporaryDirectory() as folder:
      analyzer = Analyzer(
        analysis_name="scores",
        model=prepare_model(copy.deepcopy(net), task),
        task=task,
        cpu=True,
        output_dir=folder,
        disable_tqdm=True,
        log_level=logging.ERROR,
        disable_model_save=True,
      )
      analyzer.fit_all_factors(
        factors_name="f",
        dataset=train.dataset(),
        per_device_batch_size=_BATCH,
      )
      analyzer.compute_pairwise_scores(
        scores_name="s",
        factors_name="f",
        query_dataset=targets.dataset(),
        train_dataset=train.dataset(),
        per_device_query_batch_size=_BATCH,
        per_device_train_batch_size=_BATCH,
        score_args=ScoreArguments(**options),
      )
      pairwise = analyzer.load_pairwise_scores("s")
      total += pairwise["all_modules"].float().numpy()
  return total / len(nets)
