"""The same weights and batches give the same numbers as PyTorch's ResNet-9.

`support/record_torch.py` recorded the numbers, so that these tests need no PyTorch.
"""

import jax
import numpy as np
import pytest
from flax import traverse_util
from support.torch_problem import (
  CONFIG,
  IMAGE_SHAPE,
  NUM_CLASSES,
  RATES,
  WHERE,
  normalised,
)

from jaxdm.training import recipe as recipe_lib
from jaxdm.training import train


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
  with np.load(WHERE) as arrays:
    return dict(arrays)


def group(recorded: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """The values under a name, by the rest of their path."""
  prefix = name + "/"
  return {k[len(prefix) :]: v for k, v in recorded.items() if k.startswith(prefix)}


def assert_equal(ours: dict, theirs: dict[str, np.ndarray]) -> None:
  """Compares each leaf by its own largest value."""
  flat = traverse_util.flatten_dict(ours, sep="/")
  assert flat.keys() == theirs.keys()
  for name, value in theirs.items():
    assert value.std() > 0 or value.size == 1, name
    error = np.abs(np.asarray(flat[name]) - value).max() / np.abs(value).max()
    assert error < 5e-5, (name, error)


def test_ten_steps_equal_pytorchs(recorded) -> None:
  recipe = recipe_lib.make(CONFIG, num_classes=NUM_CLASSES, input_shape=IMAGE_SHAPE)
  key = jax.random.key(0)
  start = traverse_util.unflatten_dict(group(recorded, "start"), sep="/")
  state = train.initial_state(recipe, start)
  batches = [normalised(p) for p in recorded["pixels"]], recorded["labels"]
  loss_and_grads = jax.jit(
    lambda s, x, y: jax.value_and_grad(train.loss, has_aux=True)(
      s.params, s.batch_stats, recipe, x, y, key
    )
  )
  step = jax.jit(lambda s, x, y, rate: train.step(recipe, s, x, y, rate, key))

  logits = jax.jit(
    lambda s, x: recipe.network.module.apply(
      {"params": s.params, "batch_stats": s.batch_stats}, x, True, mutable=True
    )[0][0]
  )(state, batches[0][0])
  np.testing.assert_allclose(logits, recorded["logits"], atol=1e-5)

  losses = []
  for i, (images, labels, rate) in enumerate(zip(*batches, RATES, strict=True)):
    (loss, _), grads = loss_and_grads(state, images, labels)
    losses.append(float(loss))
    if i == 0:
      assert_equal({"params": grads}, group(recorded, "grad"))
    state = step(state, images, labels, rate)
  np.testing.assert_allclose(losses, recorded["losses"], rtol=1e-5)

  theirs = group(recorded, "end")
  places = {0: 144, 1: 36, 2: 36, 3: 36, 4: 36, 5: 9, 6: 9, 7: 1}  # By block.
  for block, pixels in places.items():
    # PyTorch keeps the unbiased variance of a batch, Flax the plain one.
    name = f"batch_stats/ConvBlock_{block}/BatchNorm_0/var"
    count, first = CONFIG.batch_size * pixels, 0.9 ** len(RATES)
    theirs[name] = (theirs[name] - first) * (count - 1) / count + first
  assert_equal({"params": state.params, "batch_stats": state.batch_stats}, theirs)
