"""What is given to several functions means the same to each, or is refused by each."""

import os
import pathlib

import jax
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import jaxdm

LABELS = np.array([0, 1] * 6)
CONFIG = jaxdm.SearchConfig(max_share=0.9)
SCORES = np.zeros((1, 12))
SCORES[0, [0, 2, 4, 6]] = 1


def vote(masks, labels, seeds):
  """Right while at least two of four examples are there; nothing depends on labels."""
  noise = 0.1 * np.random.default_rng(seeds).normal(size=(len(masks), 1))
  return masks[:, [0, 2, 4, 6]].sum(axis=1, keepdims=True) - 1.5 + noise


def removals(retrain=vote, labels=LABELS, target_labels=(0,), **options):
  options = {"config": CONFIG} | options
  return jaxdm.find_removals(SCORES, retrain, labels, target_labels, **options)


def test_masked_values_are_refused_wherever_numbers_are_taken(tmp_path) -> None:
  hidden = np.ma.masked_array(np.full((16, 1), 2.0), mask=np.eye(16, 1, dtype=bool))
  masks = jaxdm.random_subsets(16, 12, alpha=0.5, seed=0)
  whole = np.ma.masked_array(np.ones((16, 12)), mask=np.eye(16, 12, dtype=bool))
  labels = np.ma.masked_array(LABELS, mask=np.eye(1, 12, dtype=bool)[0])
  keep = jaxdm.remember(
    lambda masks, *_: hidden[: len(masks)], LABELS, [0], folder=tmp_path, depends_on=1
  )
  for ask in (
    lambda: jaxdm.audit(masks, whole, LABELS),
    lambda: jaxdm.audit(masks, np.ones((16, 12)), labels),
    lambda: removals(base_margins=hidden),
    lambda: removals(labels=labels),
    lambda: removals(lambda *sets: np.ma.masked_array(vote(*sets), mask=True)),
    lambda: keep(masks, LABELS, np.arange(16)),
  ):
    with pytest.raises(ValueError, match="must not hold masked values"):
      ask()


@pytest.mark.parametrize("dtype", [object, ml_dtypes.bfloat16, "f2", "i2"])
def test_margins_of_any_real_type_are_margins(dtype) -> None:
  whole = 2 * jaxdm.random_subsets(16, 12, alpha=0.5, seed=1) - np.ones((16, 12))
  masks = jaxdm.random_subsets(16, 12, alpha=0.5, seed=0)
  found = jaxdm.audit(masks, whole.astype(dtype), LABELS)
  expected = jaxdm.audit(masks, whole, LABELS)
  np.testing.assert_array_equal(found.consistency.value, expected.consistency.value)
  base = np.full((8, 1), 2)
  [verdict] = removals(base_margins=base.astype(dtype))
  assert repr(verdict) == repr(removals(base_margins=base * 1.0)[0])
  sparse = jaxdm.audit(masks, scipy.sparse.csr_array(whole), LABELS)
  np.testing.assert_array_equal(sparse.probability.value, expected.probability.value)


def test_text_is_no_margin(tmp_path) -> None:
  def text(masks, labels, seeds):
    return np.full((len(masks), 1), "1.5")

  keep = jaxdm.remember(text, LABELS, [0], folder=tmp_path, depends_on=1)
  with pytest.raises(ValueError, match="retrain returns must hold real numbers"):
    keep(np.ones((1, 12), bool), LABELS, [0])
  with pytest.raises(
    ValueError, match="retrain must return margins .*: they must hold real"
  ):
    removals(text)


def test_unsigned_margins_of_models_on_all_data_can_be_positive() -> None:
  for dtype in (np.uint8, np.float32):
    with pytest.raises(jaxdm.UserError, match="no target wrong"):
      jaxdm.find_repairs(
        SCORES, vote, LABELS, [0], config=CONFIG, base_margins=np.ones((8, 1), dtype)
      )


def test_labels_are_class_numbers_for_every_function(tmp_path) -> None:
  large, text = LABELS + 2**40, "must be class numbers 0, 1, ..., k - 1, below 65536"
  for number, (labels, targets) in enumerate(((large, [0]), (LABELS, [2**32]))):
    folder = tmp_path / str(number)
    with pytest.raises(jaxdm.UserError, match=text):
      jaxdm.remember(vote, labels, targets, folder=folder, depends_on=1)
    with pytest.raises(jaxdm.UserError, match=text):
      removals(labels=labels, target_labels=targets)
    assert not folder.exists()
  for wrong in (LABELS - 1, LABELS * 0.5, LABELS.astype(str), LABELS[:0], LABELS[None]):
    with pytest.raises(jaxdm.UserError, match="^labels must"):
      jaxdm.remember(vote, wrong, [0], folder=tmp_path / "n", depends_on=1)
  with pytest.raises(
    jaxdm.UserError, match="target_labels hold 2, which no training example has"
  ):
    removals(target_labels=[2])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_the_type_of_labels_does_not_matter(dtype) -> None:
  labels = np.arange(384) % 128  # 127 is the largest int8.
  scores = np.zeros((1, 384))
  scores[0, [127, 255]] = 1

  def retrain(masks, labels, seeds):
    noise = 0.1 * np.random.default_rng(seeds).normal(size=(len(masks), 1))
    there = masks & (np.asarray(labels) == 127)
    return there[:, [127, 255]].sum(axis=1, keepdims=True) - 0.5 + noise

  given = retrain, labels.astype(dtype), np.array([127], dtype)
  config = jaxdm.SearchConfig(max_share=0.7)
  [removal] = jaxdm.find_removals(scores, *given, config=config)
  [flip] = jaxdm.find_label_flips(scores, *given, [0], config=config)
  for verdict in (removal, flip):
    assert (verdict.k, verdict.examples[:2]) == (2, (127, 255))


@pytest.mark.parametrize("classes", [(0, 1), (1, 2), (0, 2), (7, 3)])
def test_an_audit_suggests_the_other_of_two_classes(classes) -> None:
  masks = jaxdm.random_subsets(200, 12, alpha=0.5, seed=0)
  margins = np.full((200, 12), 2.0)
  margins[:, [2, 3]] = -2  # No model believes these labels.
  found = jaxdm.audit(masks, margins, np.array(classes)[LABELS])
  assert set(found.doubtful) == {2, 3}
  others = np.array(classes)[1 - LABELS]
  np.testing.assert_array_equal(found.suggested_labels[[2, 3]], others[[2, 3]])


def test_masks_are_shares_of_examples() -> None:
  masks = jaxdm.random_subsets(60, 12, alpha=0.5, seed=0)
  fit = jaxdm.fit_datamodels(masks, vote(masks, None, 0))
  np.testing.assert_allclose(fit.predict(masks * 1.0), fit.predict(masks), atol=1e-6)
  for wrong in (masks * 255, masks * 2.0 - 1, np.where(masks, np.nan, 0)):
    with pytest.raises(ValueError, match=r"masks must be bool, or in \[0, 1\], .* row 0"):
      fit.predict(wrong)


def test_searches_are_summarised_one_by_one() -> None:
  found = removals()
  assert jaxdm.summarise(found)["scores"]["targets"] == 1
  with pytest.raises(ValueError, match="scores has two of target 0: summarise removals"):
    jaxdm.summarise([*found, *found])
  figures = (jaxdm.plot_share_flipped(one) for one in (found, iter(found)))
  first, second = (len(figure.axes[0].lines) for figure in figures)
  assert first == second > 0


def test_numbers_that_count_are_checked() -> None:
  masks = jaxdm.random_subsets(40, 3, alpha=0.5, seed=0)
  fit = jaxdm.fit_datamodels(
    masks, masks[:, :2] + np.random.default_rng(0).random((40, 2))
  )
  np.testing.assert_array_equal(fit.top(1, 2)[:1], [1])
  for target, k in ((0, -1), (-1, 1), (2, 1), ([0, 1], 1), (0, 1.5)):
    with pytest.raises(jaxdm.UserError, match=r"^(target|k) must be"):
      fit.top(target, k)
  for budget in (-1, 2.5, True, float("nan")):
    with pytest.raises(jaxdm.UserError, match="^budget must be"):
      removals(budget=budget)


def test_a_config_of_another_kind_is_named() -> None:
  for wrong in ({"max_share": 0.5}, None, jaxdm.FitConfig()):
    with pytest.raises(jaxdm.UserError, match="^config must be a SearchConfig, got"):
      removals(config=wrong)
  with pytest.raises(jaxdm.UserError, match="^config must be a FitConfig, got dict"):
    jaxdm.fit_datamodels(np.eye(9) > 0, np.ones(9), config={})


def test_covariance_scores_may_be_what_offsets_may_be() -> None:
  rng = np.random.default_rng(0)
  masks, scores = rng.random((60, 8)) < 0.5, rng.normal(size=(3, 8))
  margins = masks @ scores.T + rng.normal(size=(60, 3))

  def fitted(given) -> np.ndarray:
    prior = jaxdm.Prior(offset=scores, covariance_scores=given)
    return jaxdm.fit_datamodels(masks, margins, candidates={"mine": prior}).weights_tn

  expected = fitted(scores)
  for kind in (np.ndarray.tolist, pd.DataFrame, scipy.sparse.csr_array):
    np.testing.assert_array_equal(fitted(kind(scores)), expected)


def test_datamodels_are_scores() -> None:
  rng = np.random.default_rng(0)
  masks = rng.random((60, 8)) < 0.5
  margins = masks @ rng.normal(size=(8, 2)) + rng.normal(size=(60, 2))
  fit = jaxdm.fit_datamodels(masks[:30], margins[:30])
  found = jaxdm.evaluate_scores(fit, masks[30:], margins[30:])
  expected = jaxdm.evaluate_scores(fit.weights_tn, masks[30:], margins[30:])
  assert found.lds == expected.lds


def test_values_with_arrays_are_themselves_and_no_others() -> None:
  fit = jaxdm.fit_datamodels(np.eye(9) > 0, np.arange(9.0))
  assert fit == fit and fit != jaxdm.Datamodels(**vars(fit)) and len({fit, fit}) == 1


def dataset(labels, names=("a", "b"), **options) -> jaxdm.Dataset:
  images = np.zeros((12, 4, 4, 1), np.uint8)
  return jaxdm.Dataset("mine", images, labels, images, labels, names, **options)


def test_a_dataset_is_the_same_in_whatever_types_it_is_given() -> None:
  expected = dataset(LABELS.astype(np.int32)).fingerprint()
  for labels in (LABELS, LABELS.astype(bool), LABELS.astype("u1"), pd.Series(LABELS)):
    names = np.array(["a", "b"])
    sources = np.array([f"{i}.png" for i in range(12)])
    found = dataset(labels, names, train_sources=sources)
    assert found.fingerprint() == expected
    assert found.train_labels.dtype == np.int32
    assert found.take(["b", "a"], 2, 2).train_sources == (
      "0.png",
      "1.png",
      "2.png",
      "3.png",
    )
  with pytest.raises(jaxdm.UserError, match="class_names must differ .* got a twice"):
    dataset(LABELS, np.array(["a", "a"]))


def test_a_trainer_needs_two_classes() -> None:
  one = dataset(LABELS * 0, ("a",))
  with pytest.raises(jaxdm.UserError, match="two classes or more, got mine of 1"):
    jaxdm.Trainer(one)


def test_files_where_folders_belong_are_named(tmp_path) -> None:
  file = tmp_path / "file"
  file.write_text("")
  fit = jaxdm.fit_datamodels(np.eye(9) > 0, np.arange(9.0))
  for ask in (
    lambda: fit.save(file / "x"),
    lambda: jaxdm.fit_datamodels(np.eye(9) > 0, np.arange(9.0), folder=file),
    lambda: jaxdm.remember(vote, LABELS, [0], folder=file, depends_on=1),
  ):
    with pytest.raises(NotADirectoryError, match="it is a file; name a folder: '.*file'"):
      ask()
  with pytest.raises(jaxdm.UserError, match="^path must end in .npz, got 'q'"):
    jaxdm.load_problem("fashion").write("q")


def test_folders_stay_where_they_were_when_they_were_named(tmp_path, monkeypatch) -> None:
  monkeypatch.chdir(tmp_path)
  keep = jaxdm.remember(vote, LABELS, [0], folder="mine", depends_on=1)
  (tmp_path / "other").mkdir()
  monkeypatch.chdir(tmp_path / "other")
  keep(np.ones((2, 12), bool), LABELS, [0, 1])
  assert not os.listdir() and (tmp_path / "mine" / "manifest.json").exists()


def test_compiled_programs_are_kept_at_home(tmp_path, monkeypatch) -> None:
  monkeypatch.setenv("HOME", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  seen = []
  monkeypatch.setattr(
    jax.config, "update", lambda name, value: seen.append((name, value))
  )
  for given in ("~/c", pathlib.Path("~/c")):
    jaxdm.use_all_devices(cache_dir=given)
  folders = [value for name, value in seen if name == "jax_compilation_cache_dir"]
  assert folders == [str(tmp_path / "c")] * 2
  assert jax.config.jax_compilation_cache_dir == before


def test_a_module_has_no_digest(tmp_path) -> None:
  with pytest.raises(TypeError, match="module"):
    jaxdm.remember(vote, LABELS, [0], folder=tmp_path, depends_on=jaxdm)
