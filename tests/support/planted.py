"""Experiments whose models are planted: nothing is trained, and the truth is known.

A target's margin is linear in the training set, plus noise that depends on the model's
key alone. An example supports a target by its weight, and takes as much from it under
another label.
"""

import contextlib
import functools
import pathlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.runtime import base_models, launcher, relabel
from experiments.runtime.run import Run
from jaxdm.training import fleet
from jaxdm.training.outputs import Outputs

NUM_TRAIN, NUM_TARGETS, NUM_MODELS, NUM_HELD_OUT, REPEATS = 48, 20, 150, 24, 3
NOISE = 1.0
FLAGS = {
  "train_per_class": str(NUM_TRAIN // 2),
  "test_per_class": str(NUM_TARGETS // 2),
  "batch_size": "8",
  "num_models": str(NUM_MODELS),
  "num_held_out": str(NUM_HELD_OUT),
  "held_out_seeds": str(REPEATS),
  "num_base": "2",
  "num_lambdas": "4",
  "folds": "1",
  "priors": "none",
  "methods": "datamodel,influence,random",
  "num_targets": "6",
  "num_sizes": "4",
  "search_models": "2",
  "verify_seeds": "8",
}


def weights(opened: Run) -> np.ndarray:
  """The planted ones, float[t, n]: examples of a target's own class support it more."""
  noise = np.random.default_rng(0).normal(size=(NUM_TARGETS, NUM_TRAIN))
  own = opened.dataset.test_labels[:, None] == opened.dataset.train_labels
  return 0.3 * noise + np.where(own, 0.12, -0.02)


def expected_margins(
  opened: Run, masks_mn: np.ndarray, labels_mn: np.ndarray
) -> np.ndarray:
  """Margins float[m, t] of models on these sets, less their noise."""
  signs_mn = np.where(labels_mn == opened.dataset.train_labels, 1, -1) * masks_mn
  return signs_mn @ weights(opened).T


def training_margins() -> tuple[np.ndarray, np.ndarray]:
  """Expected margins of each training example, left out and trained on, float[n]."""
  rng = np.random.default_rng(1)
  out_n = 1 + rng.normal(size=NUM_TRAIN)
  return out_n, out_n + 2 * rng.random(NUM_TRAIN)


def _training_logits(
  opened: Run, masks_mn: np.ndarray, noise_mn: np.ndarray
) -> np.ndarray:
  """Logits [m, n, k] of the training examples."""
  out_n, in_n = training_margins()
  logits = np.zeros((*masks_mn.shape, 2), np.float32)
  margins_mn = np.where(masks_mn, in_n, out_n) + noise_mn
  logits[:, np.arange(NUM_TRAIN), opened.dataset.train_labels] = margins_mn
  return logits


def _train_models(
  self: fleet.Fleet,
  chunks: Iterable,
  pixels: np.ndarray,
  *,
  predict_training: bool,
  opened: Run,
) -> Iterator[Outputs]:
  """In place of `Fleet.train_models`."""
  for sets, keys in chunks:
    m = len(sets.counts)
    masks_mn = np.zeros((m, NUM_TRAIN), bool)
    labels_mn = np.zeros((m, NUM_TRAIN), int)
    noise_mt, noise_mn = np.zeros((m, NUM_TARGETS)), np.zeros((m, NUM_TRAIN))
    for row, count in enumerate(sets.counts):
      used = sets.indices[row, :count]
      masks_mn[row, used] = True
      labels_mn[row, used] = sets.labels[row, :count]
      rng = np.random.default_rng(jax.random.key_data(keys[row]).tolist())
      noise_mt[row] = NOISE * rng.normal(size=NUM_TARGETS)
      noise_mn[row] = NOISE * rng.normal(size=NUM_TRAIN)
    logits = np.zeros((m, NUM_TARGETS, 2), np.float32)
    margins_mt = expected_margins(opened, masks_mn, labels_mn) + noise_mt
    logits[:, np.arange(NUM_TARGETS), opened.dataset.test_labels] = margins_mt
    yield Outputs(
      np.arange(m),
      jax.numpy.asarray(logits),
      _training_logits(opened, masks_mn, noise_mn) if predict_training else None,
    )


def _base_models(opened: Run) -> base_models.BaseModels:
  """In place of `base_models.load`: the influence of each example is its weight."""
  everything = np.ones((2, NUM_TRAIN), bool)
  margins_rt = expected_margins(opened, everything, opened.dataset.train_labels)
  # Two models, whose mean is expected and whose standard deviation is that of the noise.
  margins_rt += NOISE / np.sqrt(2) * np.array([[1], [-1]])
  logits_rtk = np.zeros((2, NUM_TARGETS, 2))
  logits_rtk[:, np.arange(NUM_TARGETS), opened.dataset.test_labels] = margins_rt
  scores = dict.fromkeys(("influence", "similar"), weights(opened).astype(np.float32))
  return base_models.BaseModels(margins_rt, logits_rtk, scores)


def _relabel_scores(opened: Run, targets: np.ndarray) -> np.ndarray:
  """In place of `relabel.scores`."""
  taken_un = 2 * weights(opened)[targets]
  other_nk = opened.dataset.train_labels[:, None] != np.arange(2)
  return (taken_un[..., None] * other_nk).astype(np.float32)


@contextlib.contextmanager
def experiment(folder: pathlib.Path, **changes: str | None) -> Iterator[Run]:
  """An experiment whose stages can be run until the context ends.

  Args:
    folder: its workdir.
    **changes: to `FLAGS`; None: the flag is not given.
  """
  given = {k: v for k, v in (FLAGS | changes).items() if v is not None}
  with (
    pytest.MonkeyPatch.context() as patch,
    flagsaver.as_parsed(workdir=str(folder), **given),
  ):
    opened = launcher.open_run()
    train_models = functools.partialmethod(_train_models, opened=opened)
    patch.setattr(fleet.Fleet, "train_models", train_models)
    patch.setattr(base_models, "exist", lambda _: True)
    patch.setattr(base_models, "load", _base_models)
    patch.setattr(relabel, "scores", _relabel_scores)
    with opened.workdir.lock():
      yield opened
