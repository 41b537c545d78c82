"""Shared by all tests: every core a device, and a tiny problem."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from support import programs

from experiments import pipeline, train_subsets
from jaxdm import devices, training_sets
from jaxdm.training import fleet, train
from jaxdm.training import recipe as recipe_lib
from jaxdm.training.config import TrainConfig
from jaxdm.training.inputs import Inputs
from jaxdm.training.programs import Programs

devices.use_all_devices()
# Many tests compile the same small programs.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
flags.FLAGS.mark_as_parsed()

# The same examples in every run; a hunt for others: `--hypothesis-profile=random`.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def unsynced_files() -> Iterator[None]:
  """No test cuts the power, so that none waits for the disk; files must be open."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "fsync", os.fstat)
    yield


@pytest.fixture(scope="session", autouse=True)
def shared_programs() -> Iterator[None]:
  """Fleets of one recipe share their compiled programs, which takes most of the time."""
  compiled, found = fleet.Fleet._compile, {}

  def shared(self: fleet.Fleet, width: int) -> Programs:
    network = self.recipe.network
    recipe = self._config, network.module, self.values.ndim, width
    return Programs(
      **{
        name: found.setdefault(
          (name, *recipe, self._gradient_dim if "gradients" in name else None), program
        )
        for name, program in compiled(self, width)._asdict().items()
      }
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fleet.Fleet, "_compile", shared)
    yield


@pytest.fixture(scope="module", autouse=True)
def few_mappings() -> Iterator[None]:
  """Lets go of compiled programs in time: Linux allows a process 65,530 mappings.

  Each program that XLA compiles for a CPU takes several; past the limit it crashes.
  """
  yield
  mappings = pathlib.Path("/proc/self/maps")
  if mappings.exists() and len(mappings.read_bytes().splitlines()) > 20_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Iterator[pathlib.Path]:
  """A workdir with the whole pipeline finished, for tests that only read it."""
  folder = tmp_path_factory.mktemp("finished") / "fashion"
  programs.start(pipeline.PROGRAM, folder)
  before = programs.contents(folder)
  yield folder
  changed = before.items() ^ programs.contents(folder).items()
  assert not changed, f"a test changed {sorted({name for name, _ in changed})}"


@pytest.fixture
def finished_copy(finished, tmp_path) -> pathlib.Path:
  """The same, for a test that changes it."""
  return pathlib.Path(shutil.copytree(finished, tmp_path / "fashion"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
  """A workdir with the models of `programs.TOY_OF_DRILL`, for tests that only read it."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  programs.start(train_subsets.PROGRAM, folder, toy=programs.TOY_OF_DRILL)
  return folder


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
  return TrainConfig(
    width=4,
    epochs=15,
    batch_size=8,
    peak_learning_rate=0.1,
    translate_pixels=1,
    cutout_pixels=2,
  )


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
  """24 images of 7x7, bright at the top (0) or at the bottom (1)."""
  rng = np.random.default_rng(0)
  labels = np.arange(24, dtype=np.int32) % 2
  images = rng.integers(0, 120, (24, 7, 7, 1))
  images[labels == 0, :3] += 120
  images[labels == 1, 4:] += 120
  return images.astype(np.uint8), labels


@pytest.fixture(scope="session")
def train_alone(tiny_config, tiny_images) -> Callable[..., Any]:
  """`train_one` without a fleet: (a row of sets, key, steps) to variables and logits."""
  images = tiny_images[0]
  data = jax.tree.map(jnp.asarray, Inputs.of(images))
  recipe = recipe_lib.make(tiny_config, num_classes=2, input_shape=images.shape[1:])

  @jax.jit
  def run(
    row: training_sets.TrainingSets, key: jax.Array, steps: jax.Array
  ) -> tuple[Any, jax.Array]:
    variables = train.train_one(recipe, data, row, key, steps)
    return variables, train.predict(recipe, variables, images)[0]

  return run
