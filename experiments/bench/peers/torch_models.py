"""PyTorch networks that hold the weights of our models on all data.

Needs the extra `bench`. Peers are compared on the same trained models as our methods.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import torch
from flax import traverse_util

from experiments.bench.peers.torch_resnet9 import ConvBlock, ResNet9
from jaxdm import devices, training_sets
from jaxdm.attribution import full_data
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.training.trainer import Trainer

Weights = dict[str, np.ndarray]


class Examples(NamedTuple):
  """Normalised inputs and labels.

  Attributes:
    images: float32[b, c, h, w].
    labels: int64[b].
  """

  images: torch.Tensor
  labels: torch.Tensor

  def dataset(self) -> torch.utils.data.TensorDataset:
    """As PyTorch's loaders take them."""
    return torch.utils.data.TensorDataset(*self)


def weights_on_all_data(trainer: Trainer, count: int) -> list[Weights]:
  """Trains models on all data; their variables by name.

  They are the models on all data of `attribution_scores`.
  """
  fleet, labels, weights = trainer.fleet, trainer.labels, list[Weights]()
  for start in range(0, count, fleet.rows):
    size = min(fleet.rows, count - start)
    sets = training_sets.from_masks(np.ones((size, len(labels)), bool), labels)
    keys = full_data.keys(trainer, start, size)
    [variables] = fleet.train_through(sets, keys, [1.0])
    for row in fleet.places[:size]:
      one = jax.tree.map(lambda leaf, i=row: np.asarray(devices.row(leaf, i)), variables)
      weights.append(traverse_util.flatten_dict(one, sep="/"))
  fleet.settle()
  return weights


def network(dataset: Dataset, weights: Mapping[str, np.ndarray]) -> ResNet9:
  """The network with the weights of one model, for evaluation.

  Raises:
    UserError: if the weights are not those of ResNet-9.
  """
  if "params/ConvBlock_0/Conv_0/kernel" not in weights:
    raise UserError("problem", ": peers are compared on ResNet-9 only")
  width = weights["params/ConvBlock_0/Conv_0/kernel"].shape[-1]
  net = ResNet9(dataset.train_images.shape[1:], dataset.num_classes, width)
  values = {"head.weight": weights["params/Dense_0/kernel"].T}
  blocks = [name for name, one in net.named_modules() if isinstance(one, ConvBlock)]
  for i, block in enumerate(blocks):
    kernel = weights[f"params/ConvBlock_{i}/Conv_0/kernel"]
    values[f"{block}.0.weight"] = kernel.transpose(3, 2, 0, 1)
    norm = f"ConvBlock_{i}/BatchNorm_0"
    values[f"{block}.1.weight"] = weights[f"params/{norm}/scale"]
    values[f"{block}.1.bias"] = weights[f"params/{norm}/bias"]
    values[f"{block}.1.running_mean"] = weights[f"batch_stats/{norm}/mean"]
    values[f"{block}.1.running_var"] = weights[f"batch_stats/{norm}/var"]
    values[f"{block}.1.num_batches_tracked"] = np.zeros((), np.int64)
  net.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
  return not_in_place(net.eval())


def not_in_place(net: ResNet9) -> ResNet9:
  """The network with ReLUs that leave their input, which hooks and `vmap` need."""
  for module in net.modules():
    if isinstance(module, torch.nn.ReLU):
      module.inplace = False
  return net


def examples(dataset: Dataset) -> tuple[Examples, Examples]:
  """Training examples and targets, normalised as our models see them."""
  pixels = dataset.train_images.astype(np.float64)
  mean, variance = pixels.mean(axis=(0, 1, 2)), pixels.var(axis=(0, 1, 2))

  def of(images: np.ndarray, labels: np.ndarray) -> Examples:
    normalised = (images - mean) / np.sqrt(np.maximum(variance, 1))
    channels_first = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)
    return Examples(torch.tensor(channels_first), torch.tensor(labels).long())

  return (
    of(dataset.train_images, dataset.train_labels),
    of(dataset.test_images, dataset.test_labels),
  )


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  """log(p / (1 - p)) of the correct class, [b]."""
  is_label = labels[..., None] == torch.arange(logits.shape[-1])
  correct = torch.where(is_label, logits, 0).sum(dim=-1)
  return correct - torch.where(is_label, -torch.inf, logits).logsumexp(dim=-1)
