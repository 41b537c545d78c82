"""The same bits whatever JAX was told."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdm import devices, fit_lasso, identity, margins, numerics, prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.attribution.label_flip_scores import changes
from jaxdm.attribution.similarity import closeness, similarity
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.training import fleet

SWITCHES = {
  "jax_enable_x64": True,
  "jax_default_prng_impl": "rbg",
  "jax_threefry_partitionable": False,
  "jax_default_matmul_precision": "bfloat16",
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
  "jax_random_seed_offset": 7,
  "jax_softmax_custom_jvp": True,
}


def computed(models: fleet.Fleet, images, labels) -> dict[str, np.ndarray]:
  """What a tiny fleet, scores and fits make."""
  n = len(labels)
  masks = training_sets.random_masks(0, n, 0.5, np.arange(models.rows))
  keys = prng.keys_for(2**32 - 1, [prng.Stream("x", i) for i in range(models.rows)])
  sets = training_sets.from_masks(masks, labels)
  variables = models.train(sets, keys)
  logits, features = models.predict(variables, images)
  odds, rows = models.gradients(variables, images, labels, keys)
  classes = models.class_gradients(variables, images, keys)
  one = gradient.Gradients(*(devices.row(x, 0) for x in (rows, rows, odds)))
  margins_mt = margins.correct_class_margins(logits, labels)
  rng = np.random.default_rng(0)
  design, outcomes = rng.random((60, 9)) < 0.5, rng.normal(size=(60, 4))
  config = FitConfig(num_lambdas=3)
  fit = fit_datamodels(design, outcomes, config=config)
  weighted = fit_datamodels(design, outcomes, config=config, sample_weight=rng.random(60))
  lasso = fit_lasso(design, outcomes, 0.1)
  found = {
    "keys": jax.random.key_data(keys),
    "logits": logits,
    "features": features,
    "gradients": rows,
    "margins": margins_mt,
    "changes": changes(devices.row(classes, 0), labels),
    "newton targets": gradient.newton_targets(one, 0.5),
    "influence": gradient.influence(one, 0.5),
    "trak": gradient.trak(one, 0.5),
    "similar": similarity(features[0], features[0]),
    "close": closeness(features[0], features[0]),
    "fit": fit.weights_tn,
    "weighted": weighted.weights_tn,
    "predictions": fit.predict(design),
    "lasso": lasso.weights,
  }
  return {name: np.asarray(array) for name, array in found.items()}


@pytest.mark.slow
def test_jaxs_options_change_no_bit(tiny_config, tiny_images) -> None:
  config = dataclasses.replace(tiny_config, epochs=1)
  models = fleet.Fleet(config, tiny_images[0], 2, fleet.Speed(chunk=1), gradient_dim=16)
  expected = computed(models, *tiny_images)
  for name, value in SWITCHES.items():
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
      found = computed(models, *tiny_images)
    finally:
      jax.config.update(name, before)
    for what, array in expected.items():
      assert found[what].dtype == array.dtype, (name, what)
      np.testing.assert_array_equal(found[what], array, err_msg=f"{name}: {what}")


def test_the_root_key_is_jaxs_own() -> None:
  for seed in (0, 5, 2**31 + 7, 2**32 - 1):
    found = jax.random.key_data(prng.root_key(seed))
    np.testing.assert_array_equal(found, jax.random.key_data(jax.random.key(seed)))
  for seed in (-1, 2**32):
    with pytest.raises(ValueError, match=r"seed must be .*in \[0, 2\*\*32\)"):
      prng.root_key(seed)


def test_pinned_options_are_part_of_the_identity_of_models(
  tiny_config, tiny_images, monkeypatch
) -> None:
  images, _ = tiny_images
  expected = fleet.Fleet(tiny_config, images, 2).identity()
  for name in numerics.PINNED:
    with monkeypatch.context() as patch:
      patch.setitem(numerics.PINNED, name, "another")
      assert fleet.Fleet(tiny_config, images, 2).identity() != expected


@pytest.mark.parametrize(
  "name,value",
  [
    ("jax_allow_f16_reductions", False),
    ("jax_disable_most_optimizations", True),
    ("jax_exec_time_optimization_effort", 0.5),
    ("jax_memory_fitting_effort", 0.5),
    ("jax_optimization_level", "O1"),
    ("jax_use_direct_linearize", False),
  ],
)
def test_options_that_change_rounding_are_noted(name, value) -> None:
  before = jax.config.values[name]
  assert name not in identity.made_by.__wrapped__()
  jax.config.update(name, value)
  try:
    assert identity.made_by.__wrapped__()[name] == str(value)
  finally:
    jax.config.update(name, before)
  assert name not in identity.made_by.__wrapped__()


def test_an_option_that_jax_no_longer_has_is_not_noted(monkeypatch) -> None:
  monkeypatch.setitem(numerics.UNPINNED, "jax_no_longer_there", False)
  assert "jax_no_longer_there" not in identity.made_by.__wrapped__()
