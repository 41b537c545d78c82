"""Which models searches train, and that their tables say what those models do.

Models are planted. Every request for models on changed sets is recorded.
"""

import collections
import csv
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from support import planted

from experiments import brittleness, fit_datamodels, label_flip, train_subsets
from experiments.runtime import datamodels
from experiments.runtime.run import Run
from experiments.studies import explain, removal_curves
from jaxdm import prng
from jaxdm.attribution import full_data
from jaxdm.training.trainer import Trainer


class Model(NamedTuple):
  """One model that was asked for.

  Attributes:
    removed: the examples that it is trained without.
    flipped: those that it is trained on under another label.
    seed: of the model.
    margins_t: what it says.
  """

  removed: frozenset[int]
  flipped: frozenset[int]
  seed: prng.Stream
  margins_t: np.ndarray


class Case(NamedTuple):
  """A row of a table of verdicts.

  Attributes:
    row: its cells.
    target: its target.
    ranking: examples, the first to change in front.
  """

  row: dict[str, str]
  target: int
  ranking: list[int]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Run, dict[str, list[Model]]]:
  """An experiment with all of its searches, and the models of each."""
  asked: list[Model] = []
  train = Trainer.__call__

  def recorded(self, masks_mn, labels_mn, seeds, **more) -> np.ndarray:
    margins_mt = train(self, masks_mn, labels_mn, seeds, **more)
    for i, seed in enumerate(map(prng.stream_of, seeds)):
      removed, flipped = ~masks_mn[i], labels_mn[i] != opened.trainer.labels
      changed = (frozenset(np.flatnonzero(x).tolist()) for x in (removed, flipped))
      asked.append(Model(*changed, seed, margins_mt[i]))
    return margins_mt

  found = {}
  with (
    planted.experiment(tmp_path_factory.mktemp("changes") / "run") as opened,
    flagsaver.flagsaver(curve_sizes=["2", "5"], curve_models=4, explain_models=4),
    pytest.MonkeyPatch.context() as patch,
  ):
    train_subsets.main(opened)
    fit_datamodels.main(opened)
    patch.setattr(Trainer, "__call__", recorded)
    for stage in (brittleness, label_flip, removal_curves):
      stage.main(opened)
      found[stage.STAGE], asked = asked, []
    change = explain.Change("x", removed=np.array([3, 7]), relabelled=np.array([11]))
    outcomes = explain.train(
      opened.trainer, 0, [change, change], 1 - opened.trainer.labels[11]
    )
    assert all(outcome.models == 4 for outcome in outcomes)
    found["explain"] = asked
  return opened, found


def cases(opened: Run, stage: str) -> list[Case]:
  """The table that a search wrote."""
  with (opened.workdir.path / f"{stage}.csv").open() as file:
    rows = list(csv.DictReader(file))
  return [Case(r, int(r["target"]), [*map(int, r["examples"].split())]) for r in rows]


def changed(stage: str, model: Model) -> frozenset[int]:
  """The examples that a search has changed; no others may be."""
  if stage == "label_flip":
    assert not model.removed
    return model.flipped
  assert not model.flipped
  return model.removed


@pytest.mark.parametrize("stage", ["brittleness", "label_flip"])
def test_every_model_changes_the_first_examples_of_a_ranking(done, stage) -> None:
  opened, asked = done
  table = cases(opened, stage)
  firsts = {
    frozenset(case.ranking[:k]) for case in table for k in range(1, len(case.ranking) + 1)
  }
  assert asked[stage] and len({case.target for case in table}) == 6
  for model in asked[stage]:
    assert changed(stage, model) in firsts
  for case in table:
    most = int(
      0.25 * (opened.trainer.labels == opened.trainer.target_labels[case.target]).sum()
    )
    assert len(case.ranking) == most == int(case.row["largest"])


def test_rankings_put_the_highest_scores_first(done) -> None:
  opened, _ = done
  scores = {
    "datamodel": datamodels.load(opened.workdir).weights_tn,
    "influence": planted.weights(opened),
    "relabel": planted.weights(opened),
  }
  for stage in ("brittleness", "label_flip"):
    for case in cases(opened, stage):
      own = np.flatnonzero(
        opened.trainer.labels == opened.trainer.target_labels[case.target]
      )
      method = case.row["method"]
      if stage == "label_flip" or method == "random":
        assert set(case.ranking) <= set(own.tolist())
      if method == "random":
        continue
      allowed = own if stage == "label_flip" else np.arange(len(opened.trainer.labels))
      score_n = scores[method][case.target]
      last = min(score_n[case.ranking])
      assert (np.diff(score_n[case.ranking]) <= 0).all()
      assert (score_n[np.setdiff1d(allowed, case.ranking)] <= last).all()


@pytest.mark.parametrize("stage", ["brittleness", "label_flip"])
def test_no_proof_uses_a_model_of_the_search(done, stage) -> None:
  _, asked = done
  used = collections.defaultdict(set)
  for model in asked[stage]:
    used[model.seed.family].add(model.seed.number)
  assert set(used) == {"search", "verify"}
  keys = {
    family: {
      key.tobytes()
      for key in np.asarray(
        jax.random.key_data(
          prng.keys_for(0, [prng.Stream(family, number) for number in numbers])
        )
      )
    }
    for family, numbers in used.items()
  }
  assert not keys["search"] & keys["verify"]
  # A proof's models are trained on one change, and each with a seed of its own; another
  # case may ask for the same models.
  seeds = collections.defaultdict(collections.Counter)
  for model in asked[stage]:
    if model.seed.family == "verify":
      seeds[changed(stage, model)][model.seed] += 1
  table = cases(done[0], stage)
  for examples, times in seeds.items():
    sharing = [c for c in table if frozenset(c.ranking[: len(examples)]) == examples]
    assert max(times.values()) <= len(sharing)


@pytest.mark.parametrize("stage", ["brittleness", "label_flip"])
def test_a_verdict_is_what_its_own_models_say(done, stage) -> None:
  opened, asked = done
  claims = 0
  for case in cases(opened, stage):
    if not (k := int(case.row["k_tried"])):
      continue
    family = "search" if not int(case.row["models"]) > 2 else "verify"
    margins = {
      model.seed: model.margins_t[case.target]
      for model in asked[stage]
      if changed(stage, model) == frozenset(case.ranking[:k])
      and model.seed.family == family
    }
    # Other proofs of the same change have other numbers; these follow each other.
    numbers = sorted(seed.number for seed in margins)
    found = np.array([margins[prng.Stream(family, number)] for number in numbers])
    count = int(case.row["models"])
    starts = range(len(numbers) - count + 1)
    means = [found[start : start + count].mean() for start in starts]
    assert np.isclose(means, float(case.row["mean_margin"]), atol=1e-4).any()
    if case.row["censored"] == "False":
      claims += 1
      assert int(case.row["k"]) == k and float(case.row["margin_high"]) <= 0
      # The truth is known: a removal of k examples takes the sum of their weights.
      mask = np.ones((1, len(opened.trainer.labels)), bool)
      labels = opened.trainer.labels.copy()
      if stage == "label_flip":
        labels[case.ranking[:k]] ^= 1
      else:
        mask[0, case.ranking[:k]] = False
      truth = planted.expected_margins(opened, mask, labels)[0, case.target]
      assert truth < 3 * planted.NOISE / np.sqrt(count)
  assert claims >= 4


def test_the_true_ranking_needs_fewer_removals_than_a_random_one(done) -> None:
  opened, _ = done
  needed = collections.defaultdict(list)
  for case in cases(opened, "brittleness"):
    k = int(case.row["k"])
    needed[case.row["method"]].append(int(case.row["largest"]) + 1 if k < 0 else k)
  assert np.mean(needed["influence"]) < np.mean(needed["random"])


def test_removal_curves_average_fresh_models_of_each_removal(done) -> None:
  opened, asked = done
  with (opened.workdir.path / "removal_curves.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 3 * 6 * 2
  influence = planted.weights(opened)
  for row in rows:
    if row["method"] != "influence":
      continue
    target, k = int(row["target"]), int(row["removed"])
    first = frozenset(np.argsort(-influence[target], kind="stable")[:k].tolist())
    models = [m for m in asked["removal_curves"] if m.removed == first]
    assert len({m.seed for m in models}) == 4 and {m.seed.family for m in models} == {
      "curve"
    }
    mean = np.mean([m.margins_t[target] for m in models])
    assert float(row["mean_margin"]) == pytest.approx(mean, abs=1e-5)
  families = {m.seed.family for models in asked.values() for m in models}
  assert families == {"search", "verify", "curve", "explain"}


def test_an_explanation_trains_every_model_with_a_seed_of_its_own(done) -> None:
  models = done[1]["explain"]
  assert {(m.removed, m.flipped) for m in models} == {
    (frozenset({3, 7}), frozenset({11}))
  }
  assert len(models) == 8 and len({m.seed for m in models}) == 4


def test_models_of_two_seeds_differ_by_noise_alone(done) -> None:
  opened, asked = done
  noise_of: dict = {}
  for model in asked["brittleness"]:
    mask = np.ones((1, len(opened.trainer.labels)), bool)
    mask[0, sorted(model.removed)] = False
    expected_t = planted.expected_margins(opened, mask, opened.trainer.labels)[0]
    noise_t = model.margins_t - expected_t
    np.testing.assert_allclose(
      noise_of.setdefault(model.seed, noise_t), noise_t, atol=1e-4
    )
  distinct = np.array(list(noise_of.values()))
  assert len(np.unique(np.round(distinct, 2), axis=0)) == len(distinct) > 1
  p = scipy.stats.kstest(distinct.ravel(), scipy.stats.norm(scale=planted.NOISE).cdf)
  assert p.pvalue > 1e-6


def test_every_chunk_of_models_on_all_data_has_keys_of_its_own(done) -> None:
  opened, _ = done
  all_keys = jax.random.key_data(full_data.keys(opened.trainer, 0, 9))
  assert len(np.unique(all_keys, axis=0)) == 9
  for start, size in ((0, 4), (4, 4), (8, 1)):
    part = jax.random.key_data(full_data.keys(opened.trainer, start, size))
    np.testing.assert_array_equal(part, all_keys[start : start + size])


def test_another_seed_of_an_experiment_is_other_models(tmp_path) -> None:
  seeds = prng.model_seeds("verify", 3)
  found = []
  for name, seed in (("a", "5"), ("b", "6"), ("c", "5")):
    with planted.experiment(tmp_path / name, seed=seed) as opened:
      found.append(
        opened.trainer(
          np.ones((3, planted.NUM_TRAIN), bool), opened.trainer.labels, seeds
        )
      )
  np.testing.assert_array_equal(found[0], found[2])
  assert (found[0] != found[1]).all()
