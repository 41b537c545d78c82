"""Networks by name, and modules of one's own, on images and on feature vectors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn
from sklearn.linear_model import LogisticRegression

from jaxdm import prng, training_sets
from jaxdm.attribution.attribute import attribution_scores
from jaxdm.errors import UserError
from jaxdm.training import fleet, networks
from jaxdm.training.config import TrainConfig
from jaxdm.training.trainer import Trainer

CONFIG = TrainConfig(
  width=5, epochs=30, batch_size=12, peak_learning_rate=0.3, label_smoothing=0.0
)


class Normed(nn.Module):
  """With batch statistics, dropout and features, told of training by `deterministic`."""

  classes: int
  rate: float = 0.1

  @nn.compact
  def __call__(self, x, deterministic):
    x = nn.BatchNorm(use_running_average=deterministic)(
      nn.Dense(8)(x.reshape(len(x), -1))
    )
    features = nn.Dropout(self.rate, deterministic=deterministic)(nn.relu(x))
    return nn.Dense(self.classes)(features), features


class Plain(nn.Module):
  """Logits alone, the same in training."""

  scale: float = 1.0

  @nn.compact
  def __call__(self, x):
    return self.scale * nn.Dense(2)(x.reshape(len(x), -1))


def factory(num_classes: int) -> nn.Module:
  return Normed(num_classes)


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
  """Two clusters of 24, in units of their own, with a feature that does not vary."""
  rng = np.random.default_rng(0)
  labels = np.arange(48, dtype=np.int32) % 2
  x = rng.normal(size=(48, 4)) + 1.5 * labels[:, None]
  x = x * [1e-3, 1, 1e3, 1] + [0, 5, 1e4, 0]
  x[:, 3] = 7.0
  return x.astype(np.float32), labels


def trained(values, labels, network, masks=None, config=CONFIG, **speed):
  """Logits float[m, n, k] and features of a few models."""
  models = fleet.Fleet(config, values, 2, fleet.Speed(**speed), network=network)
  masks = np.ones((3, len(labels)), bool) if masks is None else masks
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(len(masks))])
  variables = models.train(training_sets.from_masks(masks, labels), keys)
  rows = models.places[: len(masks)]
  return [np.asarray(out)[rows] for out in models.predict(variables, values)]


@pytest.mark.parametrize(
  "network", ["mlp", "linear", Normed(2), Plain(), f"{__name__}:factory"]
)
def test_every_network_learns_vectors_and_images(network, vectors, tiny_images) -> None:
  for values, labels in (vectors, tiny_images):
    logits, features = trained(values, labels, network)
    assert logits.shape == (3, len(labels), 2) and features.shape[:2] == logits.shape[:2]
    right = (logits.argmax(axis=-1) == labels).mean()
    assert right > 0.85
    # Heads that start from 0 differ by the order of their batches alone.
    assert not np.array_equal(logits[0], logits[1])


def test_a_linear_head_ends_where_scikit_learns_does(vectors) -> None:
  x, labels = vectors
  decay = 0.02
  config = dataclasses.replace(
    CONFIG, epochs=3000, batch_size=48, peak_learning_rate=0.5, weight_decay=decay
  )
  logits, _ = trained(x, labels, "linear", config=config)
  unit = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
  # Two logits of half the size each have half the penalty of one; the bias has it, too.
  padded = np.concatenate([unit, np.ones((48, 1))], axis=1)
  peer = LogisticRegression(
    C=2 / (decay * 48), fit_intercept=False, tol=1e-10, max_iter=10_000
  )
  expected = peer.fit(padded, labels).decision_function(padded)
  np.testing.assert_allclose(logits[0, :, 1] - logits[0, :, 0], expected, atol=2e-3)


def test_an_excluded_vector_changes_no_bit(vectors) -> None:
  x, labels = vectors
  masks = np.ones((2, 48), bool)
  masks[:, 5] = False
  first = trained(x, labels, "mlp", masks)
  spoilt = x.copy()
  spoilt[5] = 1e30
  again = trained(spoilt, labels, "mlp", masks)
  rest = np.arange(48) != 5
  np.testing.assert_array_equal(first[0][:, rest], again[0][:, rest])


@pytest.mark.parametrize("network", ["mlp", Normed(2)])
def test_the_number_of_models_side_by_side_changes_rounding_alone(
  network, vectors
) -> None:
  alone = trained(*vectors, network, vmap_width=1, chunk=4)
  together = trained(*vectors, network, vmap_width=4, chunk=4)
  for a, b in zip(alone, together, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def identity_of(network, shape=(3,), **changes) -> object:
  """What tells a network's models from others."""
  options = {"num_classes": 2, "input_shape": shape, "width": 5} | changes
  return networks.make(network, **options).identity


def test_networks_are_told_apart_by_what_they_compute() -> None:
  assert identity_of("resnet9", (8, 8, 1)) is None
  assert identity_of("mlp") != identity_of("linear")
  assert identity_of(Plain()) == identity_of(Plain(scale=1.0))
  assert identity_of(Plain()) != identity_of(Plain(scale=2.0))

  def defined(factor: float) -> nn.Module:
    class Same(nn.Module):
      @nn.compact
      def __call__(self, x):
        return factor * nn.Dense(2)(x)

    return Same()

  one, same, other = (identity_of(defined(factor)) for factor in (1.5, 1.5, 2.5))
  assert one == same and one["module"] == other["module"] and one != other


@pytest.mark.parametrize(
  "network",
  [
    nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]),
    nn.Sequential([nn.Dense(2), functools.partial(nn.leaky_relu, negative_slope=0.2)]),
  ],
)
def test_an_identity_has_no_place_in_memory(network) -> None:
  text = str(identity_of(network))
  assert "0x" not in text and "Dense" in text


@pytest.mark.parametrize(
  "option,value",
  [
    ("jax_enable_x64", True),
    ("jax_default_prng_impl", "rbg"),
    ("jax_threefry_partitionable", False),
    ("jax_default_matmul_precision", "highest"),
  ],
)
def test_an_identity_does_not_depend_on_options_of_jax(option, value) -> None:
  expected, before = identity_of(Plain()), getattr(jax.config, option)
  jax.config.update(option, value)
  try:
    assert identity_of(Plain()) == expected
  finally:
    jax.config.update(option, before)


class Wrong(nn.Module):
  """Returns too few logits."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(1)(x)


class Broken(nn.Module):
  def __call__(self, x):
    raise RuntimeError("out of order")


class Counting(nn.Module):
  @nn.compact
  def __call__(self, x):
    self.variable("counts", "calls", lambda: jnp.zeros(()))
    return nn.Dense(2)(x)


class Fixed(nn.Module):
  def __call__(self, x):
    return x[:, :2]


@pytest.mark.parametrize(
  "network,message",
  [
    ("resnet9", "needs images"),
    ("resnet10", "must be resnet9, mlp, linear or package.module:factory"),
    ("no.such.module:make", "cannot be imported"),
    (f"{__name__}:nothing", "cannot be imported"),
    (Wrong(), r"must return logits \[b, k\] with k = 2, got \[2, 1\]"),
    (Broken(), "cannot be applied .*out of order"),
    (Counting(), "has variables in counts"),
    (Fixed(), "has no parameters"),
    (lambda x: x, "must be a name or a flax.linen.Module"),
    (Plain, "must be a name or a flax.linen.Module"),
  ],
)
def test_networks_that_cannot_be_trained_are_refused(network, message) -> None:
  with pytest.raises(UserError, match=message):
    identity_of(network)


def test_settings_of_convolutions_need_convolutions(vectors) -> None:
  config = dataclasses.replace(CONFIG, muon_rate=0.05)
  with pytest.raises(UserError, match="muon_rate must be 0"):
    fleet.Fleet(config, vectors[0], 2, network="mlp")


def test_vectors_are_standardised_over_the_models_own_set(vectors) -> None:
  x, labels = vectors
  masks = np.arange(48)[None] < 20
  models = fleet.Fleet(CONFIG, x, 2, network="linear")
  keys = prng.keys_for(0, [prng.Stream("m", 0)])
  found = models.train(training_sets.from_masks(masks, labels), keys)
  mean, std = (np.asarray(found["statistics"][name])[0] for name in ("mean", "std"))
  own = x[:20].astype(float)
  np.testing.assert_allclose(mean, own.mean(0), rtol=1e-5)
  expected = own.std(0)
  expected[3] = np.inf
  np.testing.assert_allclose(std, expected, rtol=1e-3)


@pytest.mark.parametrize("exponent", [-100, -60, 0, 60, 100])
def test_the_unit_of_a_feature_changes_no_bit(vectors, exponent) -> None:
  x, labels = vectors
  scaled = x.copy()
  scaled[:, 0] *= np.float32(2.0**exponent)
  for network in ("linear", "mlp"):
    one, other = (trained(values, labels, network)[0] for values in (x, scaled))
    np.testing.assert_array_equal(one, other)


def test_a_feature_that_a_model_could_not_learn_does_not_move_its_predictions() -> None:
  rng = np.random.default_rng(0)
  x, labels = rng.normal(size=(24, 6)).astype(np.float32), np.arange(24) % 2
  x[:, 5] = 0.0
  changed = x.copy()
  changed[0, 5] = 1e4  # Of no training example below.
  masks = np.tile(np.arange(24) > 0, (3, 1))
  for network in ("mlp", "linear", Plain()):
    one, other = (trained(values, labels, network, masks)[0] for values in (x, changed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_influence_on_a_linear_head_is_exact_leave_one_out(vectors) -> None:
  """To first order, in which an example's own leverage, some 4 / n, is left out."""
  rng = np.random.default_rng(1)
  n, t = 120, 10
  labels = np.arange(n, dtype=np.int32) % 2
  x = (rng.normal(size=(n, 3)) + 0.7 * labels[:, None]).astype(np.float32)
  targets = rng.normal(size=(t, 3)).astype(np.float32) + 0.35
  target_labels = np.arange(t, dtype=np.int32) % 2
  decay = 0.02
  config = TrainConfig(
    epochs=600,
    epoch_examples=n,
    batch_size=n,
    peak_learning_rate=0.5,
    label_smoothing=0.0,
    weight_decay=decay,
  )
  models = fleet.Fleet(config, x, 2, network="linear")
  trainer = Trainer.of(models, None, labels, targets, target_labels, seed=0)
  masks = np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)])
  margins = trainer(masks, labels, np.zeros(n + 1, int))
  exact_tn = (margins[0] - margins[1:]).T
  # The Hessian of the penalty, n * decay / 2 in the direction of the log-odds, in the
  # unit of damping: the mean over examples of p (1 - p) |phi|^2.
  unit = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((n, 1))], axis=1)
  peer = LogisticRegression(C=2 / (decay * n), fit_intercept=False, tol=1e-10)
  p = scipy.special.expit(peer.fit(unit, labels).decision_function(unit))
  power = np.mean(p * (1 - p) * 2 * (unit**2).sum(axis=1))
  scores = attribution_scores(trainer, ["influence"], 2, damping=n * decay / power)[
    "influence"
  ]
  slope = np.sum(scores * exact_tn) / np.sum(scores**2)
  correlation = np.corrcoef(scores.ravel(), exact_tn.ravel())[0, 1]
  assert correlation > 0.98, correlation
  assert abs(slope - 1) < 0.1, slope


def test_dropout_changes_models(vectors) -> None:
  plain, dropped = (trained(*vectors, Normed(2, rate))[0] for rate in (0.0, 0.5))
  assert np.abs(plain - dropped).max() > 1e-2
  assert np.isfinite(dropped).all()
