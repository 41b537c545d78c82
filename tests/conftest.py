"""Shared by all tests: every core a device, and a tiny problem."""

import numpy as np
import pytest

from jaxdm import fleet, train

fleet.use_all_devices()


@pytest.fixture(scope="session")
def tiny_config() -> train.TrainConfig:
  return train.TrainConfig(
    width=4,
    epochs=2,
    batch_size=8,
    peak_learning_rate=0.1,
    translate_pixels=1,
    cutout_pixels=2,
  )


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
  """24 images of 7x7, bright on the left (0) or on the right (1)."""
  rng = np.random.default_rng(0)
  labels = np.arange(24, dtype=np.int32) % 2
  images = rng.integers(0, 120, (24, 7, 7, 1))
  images[labels == 0, :, :3] += 120
  images[labels == 1, :, 4:] += 120
  return images.astype(np.uint8), labels
