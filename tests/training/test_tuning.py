import dataclasses
import logging
import math

import jax
import numpy as np
import pytest
from support.rounding import tolerance

from jaxdm import devices, identity, prng, training_sets
from jaxdm.errors import UserError
from jaxdm.training import fleet, recipe, tuning
from jaxdm.training.tuning import Choice

BOTH = ("im2col", "lax")


@pytest.mark.parametrize(
  "cost,width,most,best",
  [
    # The more the better, up to a width of 256, where a model takes 1 ms.
    (lambda w: max(256 / w, 1), 16, 1024, 256),
    (lambda w: max(256 / w, 1), 16, 64, 64),  # No wider than allowed.
    (lambda w: w, 16, 1024, 1),  # Alone is best.
    (lambda w: 1 - 1e-6 * w, 16, 1024, 16),  # A gain that is none.
    (lambda w: 1 / w if w < 200 else math.inf, 1024, 1024, 64),  # Too little memory.
  ],
)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_fastest_width_and_backend_are_found(cost, width, most, best, factor) -> None:
  tried = []

  def seconds(choice: Choice) -> float:
    tried.append(choice)
    return cost(choice.vmap_width) * (factor if choice.conv_backend == "lax" else 1.0)

  found = tuning.fastest(seconds, BOTH, width, most=most)
  backend = "lax" if factor < 1 else "im2col"
  if math.isinf(cost(width)):  # Both cost the same where they begin.
    backend = "im2col"
  assert found == Choice(best, backend)
  assert len(tried) == len(set(tried))


def test_a_width_that_is_given_stays() -> None:
  found = tuning.fastest(lambda c: len(c.conv_backend), BOTH, 8, most=None)
  assert found == Choice(8, "lax")


def test_no_candidate_is_begun_after_a_minute(monkeypatch) -> None:
  clock = iter(range(0, 10_000, 20))
  monkeypatch.setattr(tuning.time, "monotonic", lambda: next(clock))
  tried = []

  def seconds(choice: Choice) -> float:
    tried.append(choice)
    return 1 / choice.vmap_width

  tuning.fastest(seconds, BOTH, 1, most=1024)
  assert len(tried) == 3


def forget(folder) -> None:
  for file in folder.rglob("*.json"):
    file.unlink()


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_choice_is_made_once_and_the_first_one_written_counts(
  empty_cache, tmp_path
) -> None:
  made = []

  def choose(choice: Choice):
    def chosen() -> Choice:
      made.append(choice)
      return choice

    return chosen

  first, other = Choice(4, "lax"), Choice(16, "im2col")
  assert tuning.remember("h100", choose(first), None) == first
  assert tuning.remember("h100", choose(other), None) == first
  assert tuning.remember("h200", choose(other), None) == other
  # A job's folder takes over what the cache holds, and goes before it.
  job = tmp_path / "job"
  assert tuning.remember("h100", choose(other), job) == first
  forget(tmp_path / "cache")
  assert tuning.remember("h100", choose(other), job) == first
  assert made == [first, other]


def test_processes_of_a_job_that_choose_at_once_agree(empty_cache, tmp_path) -> None:
  first, other = Choice(4, "lax"), Choice(16, "im2col")

  def late() -> Choice:
    tuning.remember("h100", lambda: first, tmp_path / "job")
    forget(tmp_path / "cache")
    return other

  assert tuning.remember("h100", late, tmp_path / "job") == first


def test_a_choice_that_is_damaged_is_made_again(empty_cache, tmp_path) -> None:
  first, other = Choice(4, "lax"), Choice(16, "im2col")
  tuning.remember("h100", lambda: first, None)
  [file] = (tmp_path / "cache").rglob("*.json")
  file.write_text("{")
  assert tuning.remember("h100", lambda: other, None) == other


def test_what_cannot_be_read_or_removed_ends_nothing(empty_cache, tmp_path) -> None:
  tuning.remember("h100", lambda: Choice(4, "lax"), None)
  [file] = (tmp_path / "cache").rglob("*.json")
  file.unlink()
  file.mkdir()
  (file / "other").touch()
  other = Choice(16, "im2col")
  assert tuning.remember("h100", lambda: other, None) == other
  assert tuning.remember("h100", lambda: other, tmp_path / "job") == other


@pytest.mark.device
def test_auto_measures_once_and_changes_rounding_alone(
  tiny_config, tiny_images, empty_cache, tmp_path, caplog
) -> None:
  images, labels = tiny_images
  short = dataclasses.replace(tiny_config, epochs=2)  # Rounding grows with every step.
  speed = fleet.Speed(vmap_width="auto", conv_backend="auto", chunk=4)
  masks = np.random.default_rng(0).random((5, len(labels))) < 0.7
  sets = training_sets.from_masks(masks, labels)

  def trained(speed: fleet.Speed) -> tuple[fleet.Fleet, np.ndarray]:
    models = fleet.Fleet(short, images, 2, speed, tuning_folder=tmp_path / "job")
    keys = prng.keys_for(0, [prng.Stream("bench", i) for i in range(models.rows)])
    parts = models.train_models([(sets, keys)], images)
    return models, np.concatenate([p.on_host().logits for p in parts])

  with caplog.at_level(logging.INFO, logger="jaxdm"):
    auto, logits = trained(speed)
    again, _ = trained(speed)
  [line] = [r.getMessage() for r in caplog.records if r.name == "jaxdm"]
  width, backend = auto.choice
  assert f"vmap_width={width} and conv_backend={backend} are fastest" in line
  assert auto.provenance == {"conv_backend": backend, "vmap_width": str(width)}
  assert again.choice == auto.choice and 1 <= width <= 4
  _, plain = trained(fleet.Speed(chunk=4))
  np.testing.assert_allclose(logits, plain, atol=tolerance(1e-4))


def test_large_networks_begin_narrower_than_small_ones(tiny_config) -> None:
  def first(size: int, width: int, batch_size: int) -> int:
    config = dataclasses.replace(tiny_config, width=width, batch_size=batch_size)
    shape = (size, size, 3)
    made = recipe.make(config, num_classes=10, input_shape=shape)
    return tuning.first_width(made, shape)

  assert first(32, 64, 512) == 1
  assert first(8, 8, 32) > first(32, 16, 64) > 1


def test_a_minute_without_a_candidate_that_fits_is_not_the_end(monkeypatch) -> None:
  clock = iter(range(0, 100_000, 70))
  monkeypatch.setattr(tuning.time, "monotonic", lambda: next(clock))

  def seconds(choice: Choice) -> float:
    return 1.0 if choice == Choice(4, "im2col") else math.inf

  assert tuning.fastest(seconds, BOTH, 256, most=1024) == Choice(4, "im2col")


@pytest.mark.parametrize(
  "text,error,match",
  [
    ("RESOURCE_EXHAUSTED: 9 GB", UserError, "does not hold one model at a time"),
    ("FAILED_PRECONDITION: DNN library", jax.errors.JaxRuntimeError, "DNN library"),
  ],
)
def test_a_device_that_cannot_train_says_why(text, error, match) -> None:
  def seconds(choice: Choice) -> float:
    raise jax.errors.JaxRuntimeError(text)

  with pytest.raises(error, match=match):
    tuning.fastest(seconds, BOTH, 256, most=1024)


def test_a_cache_that_cannot_be_written_ends_nothing(monkeypatch, tmp_path) -> None:
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  choice = Choice(4, "lax")
  assert tuning.remember("h100", lambda: choice, None) == choice
  assert tuning.remember("h100", lambda: choice, tmp_path / "job") == choice
  other = tuning.remember("h100", lambda: Choice(1, "lax"), tmp_path / "job")
  assert other == choice


def test_a_width_that_is_asked_for_is_taken(tiny_config, tiny_images) -> None:
  speed = fleet.Speed(vmap_width=4096, conv_backend="im2col")
  assert fleet.Fleet(tiny_config, tiny_images[0], 2, speed).choice.vmap_width == 4096


def test_other_software_and_devices_choose_again(
  empty_cache, tiny_config, monkeypatch
) -> None:
  shape, timed = (8, 8, 1), []
  made = recipe.make(tiny_config, num_classes=2, input_shape=shape)
  speed = fleet.Speed(vmap_width="auto", conv_backend="auto", chunk=4)

  def seconds(choice: Choice) -> float:
    timed.append(choice)
    return 1 / choice.vmap_width

  def count() -> int:
    timed.clear()
    tuning.choose(speed, tiny_config, made, shape, 2, seconds, None)
    return len(timed)

  assert count() > 0 and count() == 0
  monkeypatch.setattr(devices, "describe", lambda: "another device")
  assert count() > 0 and count() == 0
  monkeypatch.setattr(identity, "made_by", lambda: {"jax": "0.0.1"})
  assert count() > 0 and count() == 0
