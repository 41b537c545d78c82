"""Records what a PyTorch ResNet-9 computes, for `training/test_torch.py` to compare with.

  PYTHONPATH=.:tests python tests/support/record_torch.py        (needs the extra `bench`)

Ten steps on random images: first logits, loss and gradients; last weights and running
statistics. Weights travel under Flax's names and in its layouts.
"""

import numpy as np
import torch
from torch import nn

from experiments.bench.peers import torch_resnet9
from support.torch_problem import (
  CONFIG,
  IMAGE_SHAPE,
  NUM_CLASSES,
  RATES,
  WHERE,
  normalised,
)


def as_flax(net: nn.Module, values: dict[nn.Parameter, torch.Tensor]) -> dict:
  """Values by parameter, under Flax's names."""
  named = {}
  blocks = [m for m in net.modules() if isinstance(m, torch_resnet9.ConvBlock)]
  for i, block in enumerate(blocks):
    conv, norm = block[0], block[1]
    kernel = values[conv.weight].permute(2, 3, 1, 0)
    named[f"params/ConvBlock_{i}/Conv_0/kernel"] = kernel
    named[f"params/ConvBlock_{i}/BatchNorm_0/scale"] = values[norm.weight]
    named[f"params/ConvBlock_{i}/BatchNorm_0/bias"] = values[norm.bias]
  named["params/Dense_0/kernel"] = values[net.head.weight].T
  return {name: value.detach().numpy().copy() for name, value in named.items()}


def statistics(net: nn.Module) -> dict:
  """Running statistics under Flax's names."""
  named = {}
  norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
  for i, norm in enumerate(norms):
    named[f"batch_stats/ConvBlock_{i}/BatchNorm_0/mean"] = norm.running_mean
    named[f"batch_stats/ConvBlock_{i}/BatchNorm_0/var"] = norm.running_var
  return {name: value.numpy().copy() for name, value in named.items()}


def main() -> None:
  """Trains and writes the file."""
  torch.manual_seed(0)
  net = torch_resnet9.ResNet9(IMAGE_SHAPE, NUM_CLASSES, CONFIG.width)
  rng = np.random.default_rng(0)
  shape = (len(RATES), CONFIG.batch_size, *IMAGE_SHAPE)
  pixels = rng.integers(0, 256, shape, np.uint8)
  labels = rng.integers(0, NUM_CLASSES, shape[:2])
  params = list(net.parameters())
  start = as_flax(net, {p: p for p in params}) | statistics(net)
  optimiser = torch.optim.SGD(
    params, lr=1.0, momentum=CONFIG.momentum, weight_decay=CONFIG.weight_decay
  )
  loss_of = nn.CrossEntropyLoss(label_smoothing=CONFIG.label_smoothing)
  losses, record = [], {}
  for i, rate in enumerate(RATES):
    optimiser.param_groups[0]["lr"] = float(rate)
    logits = net(torch.tensor(normalised(pixels[i])).permute(0, 3, 1, 2))
    loss = loss_of(logits, torch.tensor(labels[i]))
    optimiser.zero_grad()
    loss.backward()
    losses.append(loss.item())
    if i == 0:
      record["logits"] = logits.detach().numpy()
      grads = as_flax(net, {p: p.grad for p in params})
      record |= {f"grad/{name}": value for name, value in grads.items()}
    optimiser.step()
  record |= {f"start/{name}": value for name, value in start.items()}
  end = as_flax(net, {p: p for p in params}) | statistics(net)
  record |= {f"end/{name}": value for name, value in end.items()}
  np.savez_compressed(WHERE, pixels=pixels, labels=labels, losses=losses, **record)


if __name__ == "__main__":
  main()
