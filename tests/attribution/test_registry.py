"""A method is one entry of the registry; everything else follows from it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from support.programs import TOY, start

import jaxdm
from experiments import brittleness, fit_datamodels, train_subsets
from experiments.config import settings as settings_lib
from jaxdm import prng
from jaxdm.attribution import registry
from jaxdm.attribution.scores import Term


def negative_log_odds(snapshot, damping):
  """What the new method computes: how unsure a model is of an example."""

  def score(train_rows, target_rows):
    return jnp.broadcast_to(-train_rows, (len(target_rows), len(train_rows)))

  return [Term(score, snapshot.gradients.odds_n, snapshot.outputs.features_tf)]


@pytest.fixture
def with_method(monkeypatch) -> None:
  """The registry with one more entry."""
  entry = registry.Method(
    "log-odds", all_classes=True, terms=negative_log_odds, gradients=True
  )
  monkeypatch.setitem(registry.METHODS, "unsure", entry)


def test_an_entry_makes_scores(with_method) -> None:
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 10, 5)
  config = jaxdm.TrainConfig(epochs=2, batch_size=5)
  trainer = jaxdm.Trainer(dataset, config, network="linear")
  scores = jaxdm.attribution_scores(trainer, ["unsure", "influence"], num_models=3)
  unsure = scores["unsure"]
  assert list(scores) == ["unsure", "influence"] and unsure.shape == (10, 20)
  assert (unsure == unsure[0]).all() and unsure.std() > 0
  # The mean log-odds of the same models, from their margins on two classes.
  labels, images = dataset.train_labels, dataset.train_images
  own = jaxdm.Trainer.of(trainer.fleet, None, labels, images, labels, seed=0)
  seeds = prng.model_seeds("base", 3)
  margins = own(np.ones((3, 20), bool), labels, seeds)
  np.testing.assert_allclose(unsure[0], -margins.mean(axis=0), rtol=1e-3, atol=1e-4)


def test_an_entry_is_searched_and_reported_also_in_a_workdir_that_lacks_it(
  tmp_path, monkeypatch, request
) -> None:
  folder, toy = tmp_path / "run", TOY | {"methods": "random", "priors": "none"}
  start(train_subsets.PROGRAM, folder, toy=toy)
  request.getfixturevalue("with_method")
  monkeypatch.setattr(settings_lib, "METHODS", (*settings_lib.METHODS, "unsure"))
  for program in (train_subsets, fit_datamodels, brittleness):
    start(program.PROGRAM, folder, toy=toy, methods="random,unsure")
  record = json.loads((folder / "stages" / "brittleness.json").read_text())
  assert set(record["summary"]["methods"]) == {"random", "unsure"}


def test_a_method_on_request_is_computed_only_where_it_is_named(tmp_path, capsys) -> None:
  folder, toy = tmp_path / "run", TOY | {"methods": "random", "priors": "none"}
  for program in (train_subsets, fit_datamodels):
    start(program.PROGRAM, folder, toy=toy)
  assert not (folder / "base_models" / "svm.npy").exists()
  with pytest.raises(SystemExit, match=r"--methods: .* has no scores of svm; run exp"):
    start(brittleness.PROGRAM, folder, toy=toy, methods="svm")
  for program in (train_subsets, fit_datamodels, brittleness):
    start(program.PROGRAM, folder, toy=toy, methods="svm")
  scores = np.load(folder / "base_models" / "svm.npy")
  assert scores.shape == (20, 48) and (scores.std(axis=1) > 0).all()
  start(brittleness.PROGRAM, folder, toy=toy, methods="random")
  assert (folder / "base_models" / "svm.npy").exists()


@pytest.mark.parametrize(
  "methods", [["datamodel"], ["relabel"], ["nothing"], ["trak"] * 2]
)
def test_methods_that_make_no_scores_are_refused(methods) -> None:
  with pytest.raises(jaxdm.UserError, match="methods must be some of influence, trak"):
    jaxdm.attribution_scores(None, methods, num_models=2)


def test_methods_that_say_something_of_all_classes() -> None:
  found = {name for name in registry.METHODS if registry.all_classes(name)}
  assert found == {"datamodel", "influence", "trak", "tracin", "relabel"}
