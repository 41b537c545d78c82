"""What datamodels are fitted to, and what they are judged on."""

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from support import planted
from support.planted import NOISE, NUM_HELD_OUT, NUM_MODELS, NUM_TRAIN, REPEATS

from experiments import fit_datamodels, train_subsets
from experiments.runtime import datamodels, stages, subset_models
from experiments.runtime.run import Run
from experiments.studies import efficiency
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.training import trainer
from jaxdm.training.outputs import Outputs
from jaxdm.training.trainer import Trainer


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Run:
  """A workdir of planted models, with a fit to those on random subsets."""
  folder = tmp_path_factory.mktemp("planted") / "run"
  with planted.experiment(folder) as opened:
    train_subsets.main(opened)
    fit_datamodels.main(opened)
  return opened


@pytest.fixture(scope="module")
def held_out(opened) -> tuple[np.ndarray, np.ndarray]:
  """Masks bool[s, n] of the held-out subsets, and margins float[r, s, t], as stored.

  The first store holds them behind the models to fit to, the others nothing else.
  """
  subsets, *repeats = (collection.store for collection in opened.subsets.collections())
  rows = slice(NUM_MODELS, NUM_MODELS + NUM_HELD_OUT)
  masks = np.unpackbits(subsets.read("masks", rows), axis=1, count=NUM_TRAIN)
  again = slice(0, NUM_HELD_OUT)
  for repeat in repeats:
    found = np.unpackbits(repeat.read("masks", again), axis=1, count=NUM_TRAIN)
    np.testing.assert_array_equal(found, masks)
  margins = [subsets.read("margins", rows)]
  margins += [repeat.read("margins", again) for repeat in repeats]
  return masks.astype(bool), np.array(margins)


def lds(weights_tn: np.ndarray, held_out: tuple[np.ndarray, np.ndarray]) -> float:
  """The linear datamodelling score, one SciPy call a target."""
  masks, margins_rst = held_out
  guess_st = masks.astype(np.float64) @ np.asarray(weights_tn, np.float64).T
  found = [
    scipy.stats.spearmanr(np.tile(guess, REPEATS), margins_rst[:, :, t].ravel())[0]
    for t, guess in enumerate(guess_st.T)
  ]
  return float(np.mean(found))


def as_sets(masks: np.ndarray) -> set[bytes]:
  """Training sets that can be compared."""
  return {np.packbits(mask).tobytes() for mask in masks}


def test_no_model_is_both_fitted_to_and_judged_on(opened, held_out) -> None:
  fitted, fitted_margins = subset_models.load_converged(opened.subsets.fitted_rows())
  judged, judged_margins = subset_models.join(opened.subsets.held_out_rows())
  fitted_sets, judged_sets = as_sets(fitted[:]), as_sets(judged[:])
  assert len(fitted_sets) == len(fitted_margins) == NUM_MODELS
  assert len(judged_sets) == NUM_HELD_OUT
  assert len(judged_margins) == NUM_HELD_OUT * REPEATS
  assert not fitted_sets & judged_sets
  assert judged_sets == as_sets(held_out[0])
  # No row of margins is in both either.
  assert not {m.tobytes() for m in fitted_margins[:]} & {
    m.tobytes() for m in np.asarray(judged_margins)
  }


def test_margins_that_are_judged_belong_to_their_training_sets(opened, held_out) -> None:
  masks, margins_rst = held_out
  expected = {
    margin.tobytes(): mask.tobytes()
    for margins_st in margins_rst
    for mask, margin in zip(masks, margins_st, strict=True)
  }
  found_masks, found_margins = subset_models.join(opened.subsets.held_out_rows())
  rows = zip(found_masks[:], np.asarray(found_margins, np.float32), strict=True)
  assert {margin.tobytes(): mask.tobytes() for mask, margin in rows} == expected


def test_scores_are_judged_by_the_stored_held_out_models(opened, held_out) -> None:
  true_tn = planted.weights(opened)
  scores = {"true": true_tn, "random": np.random.default_rng(1).random(true_tn.shape)}
  rows_of_all = subset_models.join(opened.subsets.held_out_rows())
  found = {name: evaluate_scores(rows, *rows_of_all) for name, rows in scores.items()}
  for name, scores_tn in scores.items():
    expected = lds(scores_tn, held_out)
    assert found[name].lds.estimate == pytest.approx(expected, abs=1e-6)
    rows = subset_models.join(opened.subsets.held_out_rows())
    point = efficiency.evaluate(name, 0, scores_tn, rows)
    assert point.lds == pytest.approx(expected, abs=1e-6)
  # Enough noise that the LDS says which models are judged on.
  assert 0.5 < found["true"].lds.estimate < 0.95


def test_the_fits_summary_is_about_the_stored_held_out_models(opened, held_out) -> None:
  summary = stages.summary_of(opened.workdir, "fit_datamodels")
  weights_tn = datamodels.load(opened.workdir).weights_tn
  assert weights_tn.any(axis=1).all()
  assert summary["lds"]["estimate"] == pytest.approx(lds(weights_tn, held_out), abs=1e-6)
  assert summary["models_fitted_to"] == NUM_MODELS
  assert summary["held_out_models"] == NUM_HELD_OUT * REPEATS


def test_held_out_rows_of_files_do_not_change_the_fit(tmp_path) -> None:
  rng = np.random.default_rng(1)
  masks = rng.random((90, 10)) < 0.5
  margins = (masks @ rng.normal(size=(10, 3)) + rng.normal(size=(90, 3))).astype("f4")
  np.save(tmp_path / "masks.npy", masks)
  found = []
  for name, held_out in (("as-they-are", margins[60:]), ("other", -margins[60:])):
    np.save(tmp_path / "margins.npy", np.concatenate([margins[:60], held_out]))
    given = {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}
    given |= {"workdir": str(tmp_path / name), "num_held_out": "30", "num_lambdas": "4"}
    with flagsaver.as_parsed(**given):
      fit_datamodels.PROGRAM.start(["prog"])
      opened = fit_datamodels.open_any()
    weights_tn = datamodels.load(opened.workdir).weights_tn
    summary = stages.summary_of(opened.workdir, "fit_datamodels")
    guess_mt = masks[60:].astype(np.float64) @ weights_tn.T.astype(np.float64)
    pairs = zip(guess_mt.T, held_out.T, strict=True)
    expected = [scipy.stats.spearmanr(*pair)[0] for pair in pairs]
    assert summary["lds"]["estimate"] == pytest.approx(np.mean(expected), abs=1e-6)
    found.append(weights_tn)
  assert found[0].any(axis=1).all()
  np.testing.assert_array_equal(*found)


def test_no_two_models_of_an_experiment_are_the_same(opened, monkeypatch) -> None:
  """A subset that is trained on again has another seed, or there is no noise to see."""
  asked, shape = [], (len(opened.dataset.test_labels), 2)

  def trained(self, parts, **_) -> Iterator[Outputs]:
    for masks_mn, _, streams in parts:
      sets = zip(masks_mn, streams, strict=True)
      asked.extend((mask.tobytes(), seed.family, seed.number) for mask, seed in sets)
      logits = np.zeros((len(streams), *shape), np.float32)
      yield Outputs(np.arange(len(streams)), logits)

  def everything(opened, share) -> list[range]:
    return [range(opened.models)]

  monkeypatch.setattr(Trainer, "_outputs", trained)
  monkeypatch.setattr(trainer, "missing_models", everything)
  monkeypatch.setattr(trainer, "write", lambda *args: None)
  for collection in opened.subsets.collections():
    opened.trainer.collect(collection)
  total = NUM_MODELS + REPEATS * NUM_HELD_OUT
  assert len({(family, number) for _, family, number in asked}) == total == len(asked)
  assert len({mask for mask, _, _ in asked}) == NUM_MODELS + NUM_HELD_OUT


def test_models_of_one_subset_differ_by_their_noise(held_out) -> None:
  margins_rst = held_out[1]
  for i in range(REPEATS):
    noise = (margins_rst[i] - margins_rst[(i + 1) % REPEATS]).std()
    assert noise == pytest.approx(NOISE * np.sqrt(2), rel=0.2)
