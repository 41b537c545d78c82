"""What is taken of the models on all data."""

import dataclasses

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.runtime import base_models, launcher
from experiments.runtime.run import Run, make_run, train_config
from jaxdm import training_sets
from jaxdm.attribution import full_data
from jaxdm.training import fleet as fleet_lib
from jaxdm.training.schedule import learning_rate

pytestmark = pytest.mark.slow
MODELS = 4  # TOY's.


@pytest.fixture(scope="module")
def opened(finished):
  with flagsaver.as_parsed(workdir=str(finished)):
    return launcher.open_run()


@pytest.fixture(scope="module")
def seen(opened):
  """Log-odds [m, t + n] and gradients [m, t + n, d], float64, by share of training."""
  fleet = opened.trainer.fleet
  pixels = np.concatenate([opened.trainer.target_values, fleet.values])
  labels = np.concatenate([opened.trainer.target_labels, opened.trainer.labels])
  keys = full_data.keys(opened.trainer, 0, MODELS)
  sets = training_sets.from_masks(np.ones((MODELS, 48), bool), opened.trainer.labels)
  found = {}
  for until in (1 / 6, 1 / 2, 5 / 6, 1.0):
    variables = fleet.train(sets, keys, until=until)
    outputs, rows = (
      fleet.gradients(variables, pixels, labels, keys),
      fleet.places[:MODELS],
    )
    found[until] = tuple(np.asarray(x, np.float64)[rows] for x in outputs)
  return found


def test_tracin_is_the_mean_of_checkpoints_times_their_rates(opened, seen) -> None:
  expected = np.zeros((20, 48))
  for until in (1 / 6, 1 / 2, 5 / 6):
    config = train_config(opened.experiment, 48)
    rate = float(learning_rate(config, np.array(until)))
    for odds, phi in zip(*seen[until], strict=True):
      wrong = 1 / (1 + np.exp(odds[20:]))
      expected += rate * phi[:20] @ (phi[20:] * wrong[:, None]).T / (3 * MODELS)
  found = base_models.load(opened).scores["tracin"]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_trak_multiplies_two_averages_and_influence_averages_products(
  opened, seen
) -> None:
  damping, moments = opened.experiment.gradient.damping, (1 / 2, 1.0)
  assert opened.experiment.gradient.moments == len(moments)
  sums = {name: np.zeros((20, 48)) for name in ("trak", "influence")}
  sizes: dict[str, list[float]] = {"trak": [], "influence": []}
  wrong_n = np.zeros(48)

  def add(name: str, scores_tn: np.ndarray, moment: float) -> None:
    size = np.sqrt((scores_tn**2).mean())
    sums[name] += scores_tn / size / (MODELS * len(moments))
    if moment == 1:
      sizes[name].append(size)

  def inverse(rows: np.ndarray) -> np.ndarray:
    scale = damping * (rows**2).sum(axis=1).mean()
    return np.linalg.inv(rows.T @ rows + scale * np.eye(rows.shape[1]))

  for moment in moments:
    for odds, phi in zip(*seen[moment], strict=True):
      wrong, train_nd = 1 / (1 + np.exp(odds[20:])), phi[20:]
      newton = train_nd * np.sqrt(wrong * (1 - wrong))[:, None]
      add("trak", phi[:20] @ inverse(train_nd) @ train_nd.T, moment)
      rows_nd = train_nd * wrong[:, None]
      add("influence", phi[:20] @ inverse(newton) @ rows_nd.T, moment)
      wrong_n += wrong / MODELS if moment == 1 else 0
  found = base_models.load(opened).scores
  for name, factor_n in (("trak", wrong_n), ("influence", 1.0)):
    expected = sums[name] * np.mean(sizes[name]) * factor_n
    np.testing.assert_allclose(
      found[name], expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max()
    )


def test_every_part_of_the_identity_is_compared(opened) -> None:
  base_models.load(opened)
  e, changed = opened.experiment, dataclasses.replace

  def again(experiment, dataset) -> Run:
    return make_run(opened.workdir, experiment, dataset, fleet_lib.Speed())

  others = {
    "seed": changed(e, collect=changed(e.collect, seed=1)),
    "num_base": changed(e, collect=changed(e.collect, num_base=5)),
    "gradient": changed(e, gradient=changed(e.gradient, damping=0.25)),
    "train": changed(e, train=changed(e.train, peak_learning_rate=0.21)),
  }
  for name, experiment in others.items():
    with pytest.raises(ValueError, match=rf"base_models holds other arrays: {name}"):
      base_models.load(again(experiment, opened.dataset))
  images = opened.dataset.train_images.copy()
  images[-1, -4:, -4:] ^= 255
  dataset = changed(opened.dataset, train_images=images)
  with pytest.raises(ValueError, match="train_pixels: .*train_subsets"):
    base_models.load(again(e, dataset))
