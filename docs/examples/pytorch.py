"""Anybody's training: the removals that flip a network of PyTorch.

python docs/examples/pytorch.py               (needs torch)
"""

import numpy as np
import torch

import jaxdm

torch.set_num_threads(1)  # The network is small.

rng = np.random.default_rng(0)
labels = np.arange(40) % 2
x = torch.tensor(rng.normal(size=(40, 5)) + labels[:, None], dtype=torch.float32)
target_labels = np.array([0, 1, 0, 1])
x_target = torch.tensor(
  rng.normal(size=(4, 5)) + target_labels[:, None], dtype=torch.float32
)


def train(mask, label, seed):
  """One network, trained on some examples with some labels."""
  torch.manual_seed(int(seed))
  net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
  optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
  examples = torch.tensor(np.flatnonzero(mask))
  goal = torch.tensor(label[mask])
  for _ in range(40):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(net(x[examples]), goal).backward()
    optimiser.step()
  return net


def retrain(masks, labels, seeds):
  """Margins [m, t]: the logit of each target's class minus the other one."""
  margins = []
  for mask, label, seed in zip(masks, labels, seeds, strict=True):
    logits = train(mask, label, seed)(x_target).detach().numpy()
    margins.append((logits[:, 1] - logits[:, 0]) * (2 * target_labels - 1))
  return np.array(margins)


def main():
  """Searches two targets."""
  masks = jaxdm.random_subsets(num_models=200, num_train=40, alpha=0.5, seed=0)
  margins = retrain(masks, np.broadcast_to(labels, masks.shape), np.arange(200))
  models = jaxdm.fit_datamodels(masks, margins)
  config = jaxdm.SearchConfig(max_share=0.8, num_targets=2, verify_seeds=8)
  found = jaxdm.find_removals(models, retrain, labels, target_labels, config=config)
  for verdict in found:
    print(f"target {verdict.target}: k = {verdict.k}, {verdict.models_used} models")
  return found


if __name__ == "__main__":
  main()
