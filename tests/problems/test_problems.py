"""Problems that ship: what they hold, and that their models can be trained again."""

import dataclasses
import pathlib
import zipfile

import numpy as np
import pytest
import scipy.stats

import jaxdm
from jaxdm import identity
from jaxdm.problems import problem as problem_lib
from jaxdm.problems.problem import problem_names, problem_path

MOST_BYTES = 4e6
REPLAYED = 10


@pytest.fixture(scope="module")
def fashion() -> jaxdm.Problem:
  return jaxdm.load_problem("fashion")


@pytest.mark.parametrize("name", problem_names())
def test_every_problem_that_ships_is_whole(name) -> None:
  problem = jaxdm.load_problem(name)
  (m, n), t = problem.masks.shape, len(problem.target_labels)
  s, about = len(problem.held_out_masks), problem.about
  assert problem.name == name
  assert problem.margins.shape == (m, t) and problem.seeds.shape == (m,)
  assert problem.held_out_margins.shape == (2, s, t)
  assert problem.held_out_masks.shape == (s, n) == (s, len(problem.labels))
  sources = len(about["train_sources"]), len(about["test_sources"])
  assert sources == (n, t) and problem.base_margins.shape[1] == t
  # The subsets are those of the seed, and none is both fitted to and held out.
  size = round(about["alpha"] * n)
  assert (problem.masks.sum(axis=1) == size).all()
  first = problem.seeds.min()
  drawn = jaxdm.random_subsets(m + s, n, about["alpha"], about["seed"])
  np.testing.assert_array_equal(drawn[problem.seeds - first], problem.masks)
  np.testing.assert_array_equal(
    drawn[problem.held_out_seeds - first], problem.held_out_masks
  )
  assert not set(problem.seeds) & set(problem.held_out_seeds)
  summary = jaxdm.summarise(problem.verdicts)
  assert {"datamodel", "influence", "random"} <= set(summary)
  assert summary["random"]["share_flipped"] <= summary["influence"]["share_flipped"]


def test_all_problems_together_are_small() -> None:
  sizes = [problem_path(name).stat().st_size for name in problem_names()]
  assert sizes and sum(sizes) <= MOST_BYTES


def test_the_noise_ceiling_is_that_of_two_models_on_each_subset(fashion) -> None:
  first, second = fashion.held_out_margins.astype(float)
  again = [scipy.stats.spearmanr(a, b)[0] for a, b in zip(first.T, second.T, strict=True)]
  masks, margins = fashion.held_out
  ceiling = jaxdm.evaluate_scores(np.ones((120, 200)), masks, margins).ceiling
  assert ceiling is not None
  np.testing.assert_allclose(ceiling.estimate, np.sqrt(np.mean(again)), atol=3e-3)


@pytest.mark.filterwarnings("error")
def test_the_embedded_images_are_those_of_the_problem(fashion) -> None:
  dataset = fashion.dataset()
  np.testing.assert_array_equal(dataset.train_labels, fashion.labels)
  np.testing.assert_array_equal(dataset.test_labels, fashion.target_labels)
  assert list(dataset.train_sources) == fashion.about["train_sources"]
  data = fashion.about["data"] | {"test_per_class": 59}
  other = dataclasses.replace(fashion, about=fashion.about | {"data": data})
  with pytest.raises(jaxdm.UserError, match="problem=fashion is of other images"):
    other.dataset()


def test_the_same_examples_with_other_pixels_are_taken_with_a_warning(fashion) -> None:
  data = fashion.about["data"] | {"fingerprint": "0"}
  other = dataclasses.replace(fashion, about=fashion.about | {"data": data})
  with pytest.warns(UserWarning, match="images of fashion have other pixels here"):
    found = other.dataset()
  np.testing.assert_array_equal(found.train_images, fashion.dataset().train_images)
  wrong = dataclasses.replace(other, target_labels=1 - fashion.target_labels)
  with pytest.raises(jaxdm.UserError, match="problem=fashion is of other images"):
    wrong.dataset()


@pytest.mark.slow
def test_models_can_be_trained_again(fashion) -> None:
  some = np.linspace(0, len(fashion.seeds) - 1, REPLAYED // 2).astype(int)
  masks = np.concatenate([fashion.masks[some], fashion.held_out_masks[some // 10]])
  seeds = np.concatenate([fashion.seeds[some], fashion.held_out_seeds[some // 10]])
  stored = [fashion.margins[some], fashion.held_out_margins[0][some // 10]]
  trainer = fashion.trainer(fashion.dataset())
  found = trainer(masks, fashion.labels, seeds)
  expected = np.concatenate(stored).astype(np.float32)
  # Wherever it runs; models of other seeds correlate less.
  assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
  made_by = identity.made_by()
  keys = ("device", "jax", "jaxlib")
  if all(any(made_by[k] == by[k] for by in fashion.about["made_by"]) for k in keys):
    np.testing.assert_allclose(found, expected, rtol=2**-11, atol=2**-24)


def test_a_file_comes_back_as_it_was_written(fashion, tmp_path) -> None:
  margins = fashion.margins.copy()
  margins[3] = np.nan
  changed = dataclasses.replace(fashion, margins=margins)
  assert changed.digest != fashion.digest
  paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
  for path in paths:
    changed.write(path)
  assert paths[0].read_bytes() == paths[1].read_bytes()
  again = jaxdm.load_problem(paths[0])
  assert jaxdm.load_problem(str(paths[0])).digest == again.digest
  assert again.digest == changed.digest and again.verdicts == changed.verdicts
  for field in dataclasses.fields(again):
    one, other = (getattr(p, field.name) for p in (again, changed))
    if isinstance(one, np.ndarray):
      np.testing.assert_array_equal(one, other)


def test_a_changed_file_is_refused(fashion, tmp_path) -> None:
  good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
  fashion.write(good)
  with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
    for name in source.namelist():
      content = bytearray(source.read(name))
      if name == "margins.npy":
        content[-2] ^= 1  # The last bit of a margin.
      target.writestr(name, bytes(content))
  with pytest.raises(jaxdm.UserError, match="bad.npz is damaged: it has changed"):
    jaxdm.load_problem(str(bad))
  pathlib.Path(bad).write_bytes(good.read_bytes()[:-100])
  with pytest.raises(jaxdm.UserError, match="bad.npz is damaged"):
    jaxdm.load_problem(str(bad))
  bad.write_bytes(b"")
  with pytest.raises(jaxdm.UserError, match="bad.npz is damaged"):
    jaxdm.load_problem(bad)
  with pytest.raises(jaxdm.UserError, match=r"problem must be .*fashion.*, got 'no'"):
    jaxdm.load_problem("no")


def test_the_data_of_a_problem_are_read_and_shrunk_as_its_models_saw_them(
  fashion, monkeypatch
) -> None:
  asked, full = [], jaxdm.load_dataset("fashion")

  def load(name: str, **options) -> jaxdm.Dataset:
    asked.append((name, options))
    return full

  monkeypatch.setattr(problem_lib, "load_dataset", load)
  data = fashion.about["data"] | {"dataset": "folder", "background": "#102030"}
  other = dataclasses.replace(fashion, about=fashion.about | {"data": data})
  found = other.dataset(data_dir="here", arrays="there")
  options = {"data_dir": "here", "arrays": "there", "background": "#102030"}
  assert asked == [("folder", options)]
  assert found.train_images.shape == (200, 7, 7, 1)


@pytest.mark.parametrize("field", ["train_sources", "test_sources", "labels"])
def test_other_pixels_of_other_examples_are_refused(fashion, field) -> None:
  about = fashion.about | {"data": fashion.about["data"] | {"fingerprint": "0"}}
  changes = {"about": about}
  if field == "labels":
    changes["labels"] = 1 - fashion.labels
  else:
    changes["about"] = about | {field: about[field][::-1]}
  with pytest.raises(jaxdm.UserError, match="problem=fashion is of other images"):
    dataclasses.replace(fashion, **changes).dataset()
