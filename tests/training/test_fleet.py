import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.rounding import tolerance

from jaxdm import devices, prng, training_sets
from jaxdm.storage import step_checkpoints
from jaxdm.training import fleet


def problem(tiny_images, m: int = 6):
  images, labels = tiny_images
  masks = np.random.default_rng(1).random((m, 24)) < np.linspace(0.4, 1, m)[:, None]
  masks[:, :8] = True
  return (
    images,
    training_sets.from_masks(masks, labels),
    prng.keys_for(0, [prng.Stream("m", i) for i in range(m)]),
  )


def fleet_logits(config, images, sets, keys, speed) -> np.ndarray:
  models = fleet.Fleet(config, images, 2, speed)
  starts = range(0, len(sets.counts), models.rows)
  parts = [np.arange(i, min(i + models.rows, len(sets.counts))) for i in starts]
  chunks = ((sets.rows(rows), keys[rows]) for rows in parts)
  outputs = models.train_models(chunks, images)
  return np.concatenate([o.on_host().logits for o in outputs])


@pytest.mark.device
def test_a_fleet_equals_a_loop_of_train_one(
  tiny_config, tiny_images, train_alone
) -> None:
  images, sets, keys = problem(tiny_images)
  together = fleet_logits(tiny_config, images, sets, keys, fleet.Speed(chunk=2))
  for i, key in enumerate(keys):
    row = jax.tree.map(lambda a, i=i: a[i], sets)
    _, logits = train_alone(row, key, int(tiny_config.num_steps(sets.counts[i])))
    np.testing.assert_allclose(together[i], logits, atol=tolerance(1e-5))


def test_neighbours_and_place_change_no_bit(tiny_config, tiny_images) -> None:
  images, sets, keys = problem(tiny_images)
  speed = fleet.Speed(chunk=2)
  forwards = fleet_logits(tiny_config, images, sets, keys, speed)
  order = np.array([5, 0, 3, 1])
  some = fleet_logits(tiny_config, images, sets.rows(order), keys[order], speed)
  np.testing.assert_array_equal(some, forwards[order])


def test_the_first_models_are_spread_over_all_devices() -> None:
  rows = devices.deal(5 * devices.count())
  assert sorted(rows) == list(range(len(rows)))
  for m in range(1, len(rows) + 1):
    on_each = np.bincount(rows[:m] // 5, minlength=devices.count())
    assert on_each.max() - on_each.min() <= 1


def test_rows_that_only_fill_a_call_are_not_trained(tiny_config, tiny_images) -> None:
  images, sets, keys = problem(tiny_images)
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=3))
  one = sets.rows(np.arange(1)), keys[:1]
  begun, trained = models.train(*one, until=0.0), models.train(*one)
  for before, after in zip(
    *map(jax.tree.leaves, (begun["params"], trained["params"])), strict=True
  ):
    before, after = np.asarray(before), np.asarray(after)
    row, *others = models.places
    assert not np.array_equal(before[row], after[row])
    np.testing.assert_array_equal(before[others], after[others])
  assert models.runner.load(1, models.rows) == pytest.approx(1 / 3)
  assert models.runner.load(models.rows, models.rows) == 1
  side_by_side = fleet.Fleet(tiny_config, images, 2, fleet.Speed(vmap_width=3, chunk=3))
  assert side_by_side.runner.load(1, side_by_side.rows) == 1


@pytest.mark.slow
@pytest.mark.device
@pytest.mark.parametrize(
  "vmap_width,conv_backend",
  [(3, "cpu"), (1, "im2col"), (3, "im2col"), (1, "lax"), (2, "lax")],
)
def test_speed_settings_change_only_rounding(
  tiny_config, tiny_images, vmap_width, conv_backend
) -> None:
  images, sets, keys = problem(tiny_images)
  short = dataclasses.replace(tiny_config, epochs=2)  # Rounding grows with every step.
  plain = fleet_logits(short, images, sets, keys, fleet.Speed(chunk=3))
  speed = fleet.Speed(chunk=3, vmap_width=vmap_width, conv_backend=conv_backend)
  other = fleet_logits(short, images, sets, keys, speed)
  np.testing.assert_allclose(plain, other, atol=tolerance(1e-4))


@pytest.mark.slow
def test_other_subset_sizes_compile_nothing(tiny_config, tiny_images, caplog) -> None:
  images, sets, keys = problem(tiny_images)
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=1))
  first = np.arange(models.rows)
  models.predict(models.train(sets.rows(first), keys[first]), images)
  with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
    last = first[::-1] + len(sets.counts) - models.rows
    models.predict(models.train(sets.rows(last), keys[last]), images)
  assert "Compiling" not in caplog.text, caplog.text


def test_a_row_stays_on_the_device_that_made_it() -> None:
  values = np.arange(6.0 * devices.count(), dtype=np.float32).reshape(-1, 3)
  doubled = devices.shard_map(lambda factor, rows: factor * rows)(
    2.0, devices.shard_rows(values)
  )
  for i, expected in enumerate(2 * values):
    found = devices.row(doubled, i)
    np.testing.assert_array_equal(found, expected)
    assert found.devices() == {jax.local_devices()[i // 2]}
  with pytest.raises(IndexError, match="not on this process's devices"):
    devices.row(doubled, len(values))


_EIGHT = """
import sys
import numpy as np
sys.path[:0] = {tests!r}
import jax
import jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", {devices})
import test_fleet
from jaxdm.training import fleet
from jaxdm.training.config import TrainConfig
data = np.load({data!r})
config = TrainConfig(width=4, epochs=2, batch_size=8, peak_learning_rate=0.1)
images, sets, keys = test_fleet.problem((data["images"], data["labels"]), 8)
logits = test_fleet.fleet_logits(config, images, sets, keys, fleet.Speed(chunk=1))
assert len(jax.devices()) == {devices}
np.save({out!r}, logits)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tiny_images, tmp_path) -> None:
  data = tmp_path / "data.npz"
  np.savez(data, images=tiny_images[0], labels=tiny_images[1])
  results, here = [], os.path.dirname(__file__)
  for count in (1, 8):
    out = str(tmp_path / f"{count}.npy")
    code = _EIGHT.format(
      tests=[here, os.path.dirname(here)], devices=count, data=str(data), out=out
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    results.append(np.load(out))
  np.testing.assert_array_equal(*results)


def test_too_little_memory_halves_the_width_and_changes_nothing(
  tiny_config, tiny_images, monkeypatch
) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((4, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(4)])
  speed = fleet.Speed(chunk=4, vmap_width=1)
  expected = fleet.Fleet(tiny_config, images, 2, speed).train(sets, keys)

  def too_large(shared, rows):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

  compiled = fleet.Fleet._compile

  def compile_for(self, width):
    found = compiled(self, width)
    return found if width <= 1 else found._replace(advance=too_large)

  monkeypatch.setattr(fleet.Fleet, "_compile", compile_for)
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=4, vmap_width=4))
  with pytest.warns(UserWarning, match="vmap_width=1, which changes results by rounding"):
    found = models.train(sets, keys)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b)
  models.runner.programs = models.runner.programs._replace(advance=too_large)
  with pytest.raises(ValueError, match="does not hold one model at a time"):
    models.train(sets, keys)


def test_a_chunk_that_was_interrupted_goes_on_with_the_same_bits(
  tiny_config, tiny_images, tmp_path, monkeypatch
) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((2, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(2)])
  speed, ran = fleet.Speed(chunk=2), []

  def build(folder, seconds: float = 1e-9) -> fleet.Fleet:
    models = fleet.Fleet(
      tiny_config,
      images,
      2,
      speed,
      checkpoints=step_checkpoints.Checkpoints(folder, seconds),
    )
    advance = models.runner.programs.advance

    def counted(shared, rows):
      ran.append(tuple(int(step) for step in shared[1]))
      return advance(shared, rows)

    models.runner.programs = models.runner.programs._replace(advance=counted)
    return models

  whole = fleet.Fleet(tiny_config, images, 2, speed).train(sets, keys)
  last = int(tiny_config.num_steps(24))
  with monkeypatch.context() as patch:
    patch.setattr(step_checkpoints.Checkpoints, "write_state", lambda *args: None)
    build(tmp_path / "slow").train(sets, keys)
  assert ran == [(step, step + 1) for step in range(last)]
  ran.clear()
  # Nothing that takes no time is cut into many parts, or written.
  quick = build(tmp_path / "quick", 1e9)
  quick.train(sets, keys)
  quick.train(sets, keys)
  assert ran[:3] == [(0, 1), (1, 2), (2, 10)] and ran[-1] == (0, last)
  assert not (tmp_path / "quick").exists()
  ran.clear()

  def stop(self, name: str, step: int, state) -> None:
    keep(self, name, step, state)
    if step > 2:
      raise KeyboardInterrupt

  keep = step_checkpoints.Checkpoints.write_state
  monkeypatch.setattr(step_checkpoints.Checkpoints, "write_state", stop)
  with pytest.raises(KeyboardInterrupt):
    build(tmp_path / "killed").train(sets, keys)
  monkeypatch.undo()
  monkeypatch.setattr(step_checkpoints, "_DUE", 1e15)  # Only finished ones are written.
  half = ran[-1][1]
  ran.clear()
  found = build(tmp_path / "killed").train(sets, keys)
  assert ran[0][0] == half and ran[-1][1] == last
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)
  assert len(list((tmp_path / "killed").iterdir())) == 1
  # Other models do not go on from what is kept of these.
  ran.clear()
  others = prng.keys_for(1, [prng.Stream("m", i) for i in range(2)])
  build(tmp_path / "killed").train(sets, others)
  assert ran[0][0] == 0


def test_steps_are_reported_as_parts_of_models(
  tiny_config, tiny_images, tmp_path
) -> None:
  images, labels = tiny_images
  told: list[float] = []

  def build(seconds: float) -> fleet.Fleet:
    checkpoints = step_checkpoints.Checkpoints(tmp_path, seconds, report=told.append)
    speed = fleet.Speed(chunk=2)
    return fleet.Fleet(tiny_config, images, 2, speed, checkpoints=checkpoints)

  def train(models: fleet.Fleet, moments: list[float]) -> None:
    count = len(labels)
    masks = np.arange(count) < np.array([[count], [count // 2]])
    sets = training_sets.from_masks(masks, labels)
    keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(2)])
    for _ in models.train_through(sets, keys, moments):
      pass

  train(build(1e9), [0.25, 0.5, 1.0])
  assert sum(told) == pytest.approx(2)  # Both models, however many steps each takes.
  assert len([units for units in told if units]) > 4
  # What a former run has done counts, too.
  train(build(1e-9), [0.1])
  told.clear()
  train(build(1e9), [0.1, 1.0])
  assert told[0] == pytest.approx(0.2, abs=0.05) and sum(told) == pytest.approx(2)


def test_a_damaged_checkpoint_is_begun_anew(tmp_path) -> None:
  checkpoints = step_checkpoints.Checkpoints(tmp_path, 1e-9)
  state = {"a": jax.numpy.arange(3.0)}
  checkpoints.write_state("x", 5, state)
  step, found = step_checkpoints.Checkpoints(tmp_path, 1.0).read_state(
    "x", {"a": jax.numpy.zeros(3)}
  )
  assert step == 5
  np.testing.assert_array_equal(found["a"], state["a"])
  for path in (tmp_path / "x").rglob("*"):
    if path.is_file():
      path.write_bytes(b"noise")
  with pytest.warns(UserWarning, match="begun anew"):
    step, _ = checkpoints.read_state("x", state)
  assert step == 0


def test_a_call_has_models_for_all_that_are_side_by_side() -> None:
  speed = fleet.Speed()
  found = [speed.models_per_call(w, convolves=c) for w in (4, 256) for c in (True, False)]
  assert found == [8, 128, 256, 256]
  assert fleet.Speed(chunk=2).models_per_call(4, convolves=True) == 2
