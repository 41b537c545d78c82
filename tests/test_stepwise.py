"""Influence functions taken again after every part of a removal."""

import numpy as np
import pytest
from absl.testing import flagsaver
from test_launchers import finished  # noqa: F401

from experiments import base_models, launcher, stepwise
from jaxdm import prng, training_sets
from jaxdm.baselines import gradient

pytestmark = pytest.mark.slow
TARGET = 3


@pytest.fixture(scope="module")
def opened(finished):  # noqa: F811
  with flagsaver.as_parsed(workdir=str(finished)):
    return launcher.open_lab()


def test_the_first_part_is_influences_and_the_others_are_what_is_left(opened) -> None:
  influence = base_models.load(opened).scores["influence"]
  found = stepwise.scores(opened, np.array([TARGET]))
  others = np.arange(len(found)) != TARGET
  np.testing.assert_array_equal(found[others], influence[others])
  # The largest removal is a quarter of 24 images: six, in two steps.
  order = np.argsort(-found[TARGET], kind="stable")
  first = np.argsort(-influence[TARGET], kind="stable")[:3]
  np.testing.assert_array_equal(order[:3], first)
  left = stepwise._local_influence(opened, TARGET, first)
  assert np.isneginf(left[first]).all() and np.isfinite(left).sum() == 48 - 3
  np.testing.assert_array_equal(order[3:6], np.argsort(-left, kind="stable")[:3])


def test_what_was_trained_for_a_target_is_kept(opened, monkeypatch) -> None:
  before = stepwise.scores(opened, np.array([TARGET]))
  monkeypatch.setattr(stepwise, "_local_influence", None)
  np.testing.assert_array_equal(stepwise.scores(opened, np.array([TARGET])), before)


def test_removed_examples_take_no_part(opened) -> None:
  removed = np.array([5, 11, 30])
  found = stepwise._local_influence(opened, TARGET, removed)
  kept, small = np.delete(np.arange(48), removed), opened.small
  keys = prng.keys_for(opened.seed, [prng.Seed("stepwise", i) for i in range(2)])
  masks = training_sets.removal_masks(48, [removed] * 2)
  variables = opened.fleet.train_chunk(
    training_sets.from_masks(masks, opened.labels), keys
  )
  pixels = np.concatenate([small.test_images[[TARGET]], small.train_images[kept]])
  labels = np.concatenate([opened.target_labels[[TARGET]], opened.labels[kept]])
  odds, grads = map(
    np.asarray, opened.fleet.gradients_chunk(variables, pixels, labels, keys)
  )
  # Damping counts in units of an average over all 48.
  damping = opened.experiment.gradient.damping * 45 / 48
  expected = sum(
    np.asarray(
      gradient.influence(gradient.Gradients(g[1:], g[:1], o[1:]), damping) @ g[0]
    )
    for o, g in zip(odds[:2], grads[:2], strict=True)
  )
  np.testing.assert_allclose(found[kept], expected, rtol=2e-2, atol=1e-4)
