"""What PyTorch's numbers were recorded for."""

import pathlib

import numpy as np

from jaxdm.training.config import TrainConfig

WHERE = pathlib.Path(__file__).with_name("torch_resnet9.npz")
CONFIG = TrainConfig(width=4, batch_size=16)
IMAGE_SHAPE, NUM_CLASSES = (12, 12, 3), 4
RATES = np.linspace(0.02, 0.2, 10, dtype=np.float32)  # One a step.


def normalised(pixels: np.ndarray) -> np.ndarray:
  """float32 images."""
  return (pixels.astype(np.float32) - 128) / 64
