"""Which half-trained models a fleet goes on with, and until when it keeps them."""

import dataclasses

import numpy as np
import pytest

from jaxdm import identity, prng, training_sets
from jaxdm.storage import step_checkpoints
from jaxdm.training import fleet, programs
from jaxdm.training.collection import Subsets
from jaxdm.training.config import TrainConfig
from jaxdm.training.outputs import Outputs
from jaxdm.training.trainer import Trainer


class Named(Exception):  # noqa: N818
  """Carries the name under which a chunk is looked for."""


@pytest.fixture
def name_of(tiny_images, tmp_path, monkeypatch):
  """The name of a chunk of two models, of which some parts may be others."""
  images, labels = tiny_images
  masks = np.random.default_rng(0).random((2, len(labels))) < 0.7

  def begin(self, name, *args, **more):
    raise Named(name)

  # Nothing is compiled.
  monkeypatch.setattr(step_checkpoints.Checkpoints, "read_state", begin)
  monkeypatch.setattr(programs.Runner, "run", lambda self, *args: None)

  def name(
    config: TrainConfig,
    *,
    images: np.ndarray = images,
    masks: np.ndarray = masks,
    labels: np.ndarray = labels,
    seed: int = 0,
    numbers: tuple[int, int] = (0, 1),
    classes: int = 2,
    backend: str = "im2col",
    **more: float,
  ) -> str:
    models = fleet.Fleet(
      config,
      images,
      classes,
      fleet.Speed(chunk=2, conv_backend=backend),
      checkpoints=step_checkpoints.Checkpoints(tmp_path, 1e-9),
    )
    keys = prng.keys_for(seed, [prng.Stream("verify", i) for i in numbers])
    with pytest.raises(Named) as caught:
      models.train(training_sets.from_masks(masks, labels), keys, **more)
    return str(caught.value)

  return name, images, masks, labels


def test_any_other_model_has_another_name(name_of, tiny_config) -> None:
  name, images, masks, labels = name_of
  pixel, mask, flipped = images.copy(), masks.copy(), labels.copy()
  pixel[-1, -1, -1] ^= 1
  mask[1, -1] ^= True
  flipped[np.flatnonzero(masks[0])[-1]] ^= 1
  found = {
    "the same": name(tiny_config),
    "one pixel": name(tiny_config, images=pixel),
    "one example": name(tiny_config, masks=mask),
    "the other order": name(tiny_config, masks=masks[::-1]),
    "one label": name(tiny_config, labels=flipped),
    "the seed": name(tiny_config, seed=1),
    "one number": name(tiny_config, numbers=(0, 2)),
    "classes": name(tiny_config, classes=3),
    "until": name(tiny_config, until=0.5),
  }
  for field in dataclasses.fields(tiny_config):
    value = getattr(tiny_config, field.name)
    if isinstance(value, bool):
      other = not value
    elif isinstance(value, str):
      other = "bfloat16"
    else:
      other = value * 2 if value and field.name not in ("momentum", "peak_at") else 0.5
      other = other if isinstance(value, float) else int(other + 1)
    changed = dataclasses.replace(tiny_config, **{field.name: other})
    found[field.name] = name(changed)
  assert len(set(found.values())) == len(found)
  assert name(tiny_config) == found["the same"]


class Planned:
  """A fleet of four models a chunk that trains nothing, but is asked to forget them.

  Attributes:
    rows: models a chunk.
    said: models whose logits it has given away.
    forgot: how many of them were stored each time that it was asked.
  """

  rows = 4

  num_classes, values, provenance = 2, np.zeros((6, 2), np.float32), {}

  def __init__(self):
    self.store, self.said, self.forgot = None, 0, []

  def identity(self) -> dict[str, str]:
    return {"planned": "models"}

  def train_models(self, chunks, pixels, *, predict_training):
    for sets, _ in chunks:
      self.said += len(sets.counts)
      logits = np.zeros((len(sets.counts), len(pixels), 2), np.float32)
      yield Outputs(np.arange(len(sets.counts)), logits)

  def settle(self) -> None:
    stored = sum(self.store.chunks().values())
    assert stored == self.said, f"{self.said - stored} finished models are in no store"
    self.forgot.append(stored)


def test_finished_models_are_forgotten_once_all_of_them_are_stored(tmp_path) -> None:
  """Chunks of the store, of three models, end in the middle of the fleet's, of four."""
  models = Planned()
  labels, pixels = np.arange(8) % 2, np.zeros((5, 2, 2, 1), np.uint8)
  trainer = Trainer.of(models, tmp_path, labels, pixels, labels[:5], seed=0)
  subsets = Subsets(alpha=0.5)
  collection = trainer.open_subsets("subsets", subsets, 24, rows_per_chunk=3)
  models.store = collection.store
  trainer.collect(collection)
  assert models.forgot == [12, 24]


def test_half_trained_models_of_other_software_are_others(
  name_of, tiny_config, monkeypatch
) -> None:
  """Half a model by one version and half by another would be neither's."""
  name = name_of[0]
  before = name(tiny_config)
  monkeypatch.setattr(identity, "made_by", lambda: {"jax": "0.0.1"})
  other = name(tiny_config)
  assert len({before, other, name(tiny_config, backend="lax")}) == 3
