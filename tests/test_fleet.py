import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdm import fleet, prng, training_sets


def problem(tiny_images, m: int = 6):
  images, labels = tiny_images
  masks = np.random.default_rng(1).random((m, 24)) < np.linspace(0.4, 1, m)[:, None]
  masks[:, :8] = True
  return (
    images,
    training_sets.from_masks(masks, labels),
    prng.keys_for(0, [prng.Seed("m", i) for i in range(m)]),
  )


def fleet_logits(config, images, sets, keys, speed) -> np.ndarray:
  models = fleet.Fleet(config, images, 2, speed)
  starts = range(0, len(sets.counts), models.rows)
  parts = [np.arange(i, min(i + models.rows, len(sets.counts))) for i in starts]
  chunks = ((sets.rows(rows), keys[rows]) for rows in parts)
  outputs = models.train_models(chunks, images)
  return np.concatenate([np.asarray(o.logits)[: o.num_models] for o in outputs])


def test_a_fleet_equals_a_loop_of_train_one(
  tiny_config, tiny_images, train_alone
) -> None:
  images, sets, keys = problem(tiny_images)
  together = fleet_logits(tiny_config, images, sets, keys, fleet.Speed(chunk=2))
  for i, key in enumerate(keys):
    row = jax.tree.map(lambda a, i=i: a[i], sets)
    _, logits = train_alone(row, key, int(tiny_config.num_steps(sets.counts[i])))
    np.testing.assert_allclose(together[i], logits, atol=1e-5)


def test_neighbours_and_place_change_no_bit(tiny_config, tiny_images) -> None:
  images, sets, keys = problem(tiny_images)
  speed = fleet.Speed(chunk=2)
  forwards = fleet_logits(tiny_config, images, sets, keys, speed)
  order = np.array([5, 0, 3, 1])
  some = fleet_logits(tiny_config, images, sets.rows(order), keys[order], speed)
  np.testing.assert_array_equal(some, forwards[order])


@pytest.mark.slow
@pytest.mark.parametrize(
  "vmap_width,conv_backend", [(3, "im2col"), (1, "lax"), (2, "lax")]
)
def test_speed_settings_change_only_rounding(
  tiny_config, tiny_images, vmap_width, conv_backend
) -> None:
  images, sets, keys = problem(tiny_images)
  short = dataclasses.replace(tiny_config, epochs=2)  # Rounding grows with every step.
  plain = fleet_logits(short, images, sets, keys, fleet.Speed(chunk=3))
  speed = fleet.Speed(chunk=3, vmap_width=vmap_width, conv_backend=conv_backend)
  other = fleet_logits(short, images, sets, keys, speed)
  np.testing.assert_allclose(plain, other, atol=1e-4)


@pytest.mark.slow
def test_other_subset_sizes_compile_nothing(tiny_config, tiny_images, caplog) -> None:
  images, sets, keys = problem(tiny_images)
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=1))
  first = np.arange(models.rows)
  models.predict_chunk(models.train_chunk(sets.rows(first), keys[first]), images)
  with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
    last = first[::-1] + len(sets.counts) - models.rows
    models.predict_chunk(models.train_chunk(sets.rows(last), keys[last]), images)
  assert "Compiling" not in caplog.text, caplog.text


_EIGHT = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
import jax
import jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", {devices})
import test_fleet
from jaxdm import fleet, train
data = np.load({data!r})
config = train.TrainConfig(width=4, epochs=2, batch_size=8, peak_learning_rate=0.1)
images, sets, keys = test_fleet.problem((data["images"], data["labels"]), 8)
logits = test_fleet.fleet_logits(config, images, sets, keys, fleet.Speed(chunk=1))
assert len(jax.devices()) == {devices}
np.save({out!r}, logits)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tiny_images, tmp_path) -> None:
  data = tmp_path / "data.npz"
  np.savez(data, images=tiny_images[0], labels=tiny_images[1])
  results = []
  for devices in (1, 8):
    out = str(tmp_path / f"{devices}.npy")
    code = _EIGHT.format(
      tests=os.path.dirname(__file__), devices=devices, data=str(data), out=out
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    results.append(np.load(out))
  np.testing.assert_array_equal(*results)


def test_too_little_memory_halves_the_width_and_changes_nothing(
  tiny_config, tiny_images, monkeypatch
) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((4, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Seed("m", i) for i in range(4)])
  speed = fleet.Speed(chunk=4, vmap_width=1)
  expected = fleet.Fleet(tiny_config, images, 2, speed).train_chunk(sets, keys)

  def too_large(shared, rows):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

  compiled = fleet.Fleet._compiled
  monkeypatch.setattr(
    fleet.Fleet,
    "_compiled",
    lambda self: compiled(self) if self._width <= 1 else {"train_row": too_large},
  )
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=4, vmap_width=4))
  with pytest.warns(UserWarning, match="--vmap_width=1, which changes no result"):
    found = models.train_chunk(sets, keys)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b)
  models._programs = {"train_row": too_large}
  with pytest.raises(ValueError, match="does not hold one model at a time"):
    models.train_chunk(sets, keys)
