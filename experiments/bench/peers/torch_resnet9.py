"""The same network and recipe in PyTorch: what the trainer is compared with.

Needs the extra `bench`. Written from the published description and not from
`jaxdm.training.resnet9`, so that a mistake there is not repeated here.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from jaxdm.training.config import TrainConfig


class ConvBlock(nn.Sequential):
  """Convolution without bias, batch norm, ReLU."""

  def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, pad: int = 1):
    super().__init__(
      nn.Conv2d(cin, cout, kernel, stride, pad, bias=False),
      nn.BatchNorm2d(cout),
      nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
  """x + f(x)."""

  def __init__(self, features: int):
    super().__init__()
    self.body = nn.Sequential(
      ConvBlock(features, features), ConvBlock(features, features)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return x + self.body(x)


class ResNet9(nn.Module):
  """conv64 - conv128/2 - Res - conv256 - pool - Res - conv128 - max - linear x 0.2."""

  def __init__(self, image_shape: tuple[int, ...], num_classes: int, width: int):
    super().__init__()
    height, _, channels = image_shape
    last_pad = 0 if (height + 1) // 2 // 2 >= 3 else 1
    self.body = nn.Sequential(
      ConvBlock(channels, width),
      ConvBlock(width, 2 * width, 5, 2, 2),
      Residual(2 * width),
      ConvBlock(2 * width, 4 * width),
      nn.MaxPool2d(2),
      Residual(4 * width),
      ConvBlock(4 * width, 2 * width, pad=last_pad),
    )
    self.head = nn.Linear(2 * width, num_classes, bias=False)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Logits of normalised images [b, c, h, w]."""
    return 0.2 * self.head(self.body(images).amax(dim=(2, 3)))


def _augment(images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
  """Flip, translate and cutout of images [b, c, h, w], each image on its own."""
  batch, _, height, width = images.shape
  device = images.device
  if config.flip:
    heads = torch.rand(batch, 1, 1, 1, device=device) < 0.5
    images = torch.where(heads, images.flip(3), images)
  if pixels := config.translate_pixels:
    shifts = torch.randint(-pixels, pixels + 1, (2, batch, 1), device=device)
    rows = (torch.arange(height, device=device) + shifts[0]).clamp(0, height - 1)
    cols = (torch.arange(width, device=device) + shifts[1]).clamp(0, width - 1)
    one = torch.arange(batch, device=device)[:, None, None]
    images = images.permute(0, 2, 3, 1)[one, rows[:, :, None], cols[:, None, :]]
    images = images.permute(0, 3, 1, 2)
  if pixels := config.cutout_pixels:
    tops = torch.randint(0, height - pixels + 1, (batch, 1), device=device)
    lefts = torch.randint(0, width - pixels + 1, (batch, 1), device=device)
    rows = torch.arange(height, device=device) - tops
    cols = torch.arange(width, device=device) - lefts
    hole = ((rows >= 0) & (rows < pixels))[:, None, :, None]
    hole = hole & ((cols >= 0) & (cols < pixels))[:, None, None, :]
    images = images.masked_fill(hole, 0.0)
  return images


def learning_rate(config: TrainConfig, progress: float) -> float:
  """The triangular schedule at `progress` in [0, 1)."""
  rise, fall = progress / config.peak_at, (1 - progress) / (1 - config.peak_at)
  return config.peak_learning_rate * min(rise, fall)


class Trainer:
  """One model, its images and its optimiser; `run` takes the steps."""

  def __init__(
    self,
    config: TrainConfig,
    pixels_n: np.ndarray,
    labels_n: np.ndarray,
    num_classes: int,
    *,
    compiled: bool = False,
  ):
    """Puts images and a fresh model on the GPU if there is one, else on the CPU."""
    self.config, self.compiled = config, compiled
    self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.tensor(pixels_n, device=self.device).float()
    self.mean = images.mean(dim=(0, 1, 2))
    self.std = images.std(dim=(0, 1, 2), correction=0).clamp_min(1.0)
    self.images = self._normalise(pixels_n)
    self.labels = torch.tensor(labels_n, device=self.device).long()
    net: Any = ResNet9(pixels_n.shape[1:], num_classes, config.width)
    self.net = net.to(self.device, memory_format=torch.channels_last)

  def _normalise(self, pixels: np.ndarray) -> torch.Tensor:
    images = (torch.tensor(pixels, device=self.device).float() - self.mean) / self.std
    return images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

  def _autocast(self) -> torch.autocast:
    half = self.config.compute_dtype == "bfloat16"
    return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

  def run(self, num_steps: int) -> None:
    """Trains for `num_steps`, over which the schedule goes from start to end."""
    config, count = self.config, len(self.images)
    epochs = -(-num_steps * config.batch_size // count)
    order = torch.cat([torch.randperm(count, device=self.device) for _ in range(epochs)])
    optimiser = torch.optim.SGD(
      self.net.parameters(),
      lr=config.peak_learning_rate,
      momentum=config.momentum,
      weight_decay=config.weight_decay,
      fused=True,
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    forward = torch.compile(self.net) if self.compiled else self.net
    self.net.train()
    for i in range(num_steps):
      batch = order[i * config.batch_size : (i + 1) * config.batch_size]
      optimiser.param_groups[0]["lr"] = learning_rate(config, (i + 0.5) / num_steps)
      images = _augment(self.images[batch], config)
      with self._autocast():
        loss = loss_of(forward(images), self.labels[batch])
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()
    if self.device.type == "cuda":
      torch.cuda.synchronize()

  @torch.no_grad()
  def predict(self, pixels: np.ndarray) -> np.ndarray:
    """Logits [t, k], averaged with the mirrored image's where the recipe mirrors."""
    self.net.eval()
    images = self._normalise(pixels)
    views = [images, images.flip(3)] if self.config.flip else [images]
    with self._autocast():
      logits = torch.stack([self.net(view).float() for view in views]).mean(dim=0)
    return logits.cpu().numpy()
