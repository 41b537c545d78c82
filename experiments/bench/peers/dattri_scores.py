"""Scores by dattri 0.3.0: its TRAK (Deng et al., arXiv:2410.04555)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask

from experiments.bench.peers.torch_models import Examples, log_odds

_BATCH = 100
# Those of the package, which forgets them where others are given once.
_PROJECTION = {
  "proj_dim": 512,
  "proj_max_batch_size": 32,
  "proj_seed": 0,
  "device": "cpu",
}


def scores(
  nets: Sequence[torch.nn.Module],
  train: Examples,
  targets: Examples,
  *,
  regularization: float = 0.0,
  **projection: Any,
) -> np.ndarray:
  """TRAK over models on all data, with the package's defaults.

  Args:
    nets: of one architecture, for evaluation.
    train: the training examples.
    targets: the targets.
    regularization: added to the diagonal of the kernel.
    **projection: other values of the projector's, such as proj_dim.

  Returns:
    float32[t, n].
  """
  net = nets[0]

  def odds(params: Any, pair: Any) -> torch.Tensor:
    image, label = pair
    logits = torch.func.functional_call(net, params, (image[None],))
    return log_odds(logits, label[None])[0]

  def probability(params: Any, pair: Any) -> torch.Tensor:
    return torch.sigmoid(odds(params, pair))

  attributor = TRAKAttributor(
    task=AttributionTask(
      loss_func=odds,
      model=net,
      checkpoints=[{k: v.clone() for k, v in n.state_dict().items()} for n in nets],
    ),
    correct_probability_func=probability,
    projector_kwargs=_PROJECTION | projection,
    regularization=regularization,
  )
  loaders = [
    torch.utils.data.DataLoader(part.dataset(), batch_size=_BATCH)
    for part in (train, targets)
  ]
  with torch.no_grad():
    attributor.cache(loaders[0])
    return attributor.attribute(loaders[1]).numpy().T.astype(np.float32)
