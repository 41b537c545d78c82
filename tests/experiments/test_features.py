"""Feature vectors, other networks and scores from files, from the command line on."""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from etils import epath
from flax import linen as nn
from support.programs import TOY, start

import jaxdm
from experiments import brittleness, label_flip, pipeline, train_subsets
from experiments.runtime import launcher, score_files, subset_models
from experiments.runtime.places import Places
from experiments.runtime.run import Run

TOY_OF_VECTORS = {
  name: value
  for name, value in TOY.items()
  if name not in ("train_per_class", "test_per_class", "width", "priors")
} | {"epochs": "20", "batch_size": "12", "methods": "datamodel,influence,pixels,random"}

LABELS = np.arange(48) % 2


def head(num_classes: int) -> nn.Module:
  """A factory for --network."""
  return nn.Dense(num_classes)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> str:
  """An archive of 48 vectors of two classes, and of 16 targets."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (("train", 48), ("test", 16)):
    labels = np.arange(count) % 2
    values = rng.normal(size=(count, 5)) + labels[:, None]
    arrays |= {f"{split}_images": values, f"{split}_labels": labels}
  path = tmp_path_factory.mktemp("vectors") / "mine.npz"
  np.savez(path, class_names=["no", "yes"], **arrays)
  return str(path)


@pytest.fixture(scope="module")
def done(vectors, tmp_path_factory):
  """A finished pipeline on vectors, with two files of scores, and the scores."""
  folder = tmp_path_factory.mktemp("features")
  rng = np.random.default_rng(1)
  scores = {name: rng.normal(size=(16, 48)) for name in ("theirs", "others")}
  files = []
  for name, values in scores.items():
    np.save(folder / f"{name}.npy", values)
    files.append(f"{name}={folder / name}.npy")
  given = {"network": "linear", "arrays": vectors, "scores": files, "priors": "none"}
  start(pipeline.PROGRAM, folder / "run", toy=TOY_OF_VECTORS, **given)
  return folder / "run", scores


def rows(folder, stage: str) -> list[dict[str, str]]:
  with (folder / f"{stage}.csv").open() as file:
    return list(csv.DictReader(file))


def test_the_whole_chain_runs_on_vectors(done) -> None:
  folder, _ = done
  page = (folder / "report.html").read_text()
  for method in ("datamodel", "influence", "pixels", "random", "theirs", "others"):
    assert page.count(method) > 1
    assert [r for r in rows(folder, "brittleness") if r["method"] == method]
    assert [r for r in rows(folder, "label_flip") if r["method"] == method]
  assert page.count("data:image/png") >= 3


def test_scores_from_files_are_ranked_and_judged_as_ours_are(done) -> None:
  folder, scores = done
  for row in rows(folder, "brittleness"):
    if row["method"] in scores:
      examples = [int(i) for i in row["examples"].split()]
      order = np.argsort(-scores[row["method"]][int(row["target"])], kind="stable")
      assert examples == order[: len(examples)].tolist()
  summary = json.loads((folder / "summary.json").read_text())["brittleness"]["methods"]
  with launcher_of(folder) as opened:
    masks, margins = subset_models.join(opened.subsets.held_out_rows())
  guess = masks[:] @ scores["theirs"].T
  expected = [
    scipy.stats.spearmanr(a, b)[0] for a, b in zip(guess.T, margins.T, strict=True)
  ]
  np.testing.assert_allclose(
    summary["theirs"]["lds"]["estimate"], np.mean(expected), atol=1e-4
  )


@contextlib.contextmanager
def launcher_of(folder) -> Iterator[Run]:
  """An opened workdir."""
  with flagsaver.as_parsed(workdir=str(folder)):
    yield launcher.open_run()


def test_files_are_remembered_and_a_changed_one_is_searched_again(
  done, tmp_path, capsys
) -> None:
  folder, scores = done
  capsys.readouterr()
  start(brittleness.PROGRAM, folder, toy={}, chunk="4")
  assert "done again" not in capsys.readouterr().out
  path = folder.parent / "theirs.npy"
  before = path.read_bytes()
  try:
    np.save(path, -scores["theirs"])
    start(brittleness.PROGRAM, folder, toy={}, chunk="4")
    assert "done again with what is there, since: theirs: " in capsys.readouterr().out
  finally:
    path.write_bytes(before)
    start(brittleness.PROGRAM, folder, toy={}, chunk="4")


def test_scores_whose_file_has_moved_are_named_again_or_left_out(
  done, tmp_path, capsys
) -> None:
  folder = tmp_path / "run"
  shutil.copytree(done[0], folder)
  path, moved = done[0].parent / "theirs.npy", tmp_path / "moved.npy"
  before = (folder / "brittleness.csv").read_bytes()
  shutil.move(path, moved)
  try:
    with pytest.raises(SystemExit, match="theirs=.*is not there; give --scores=theirs="):
      start(brittleness.PROGRAM, folder, toy={}, chunk="4")
    start(brittleness.PROGRAM, folder, toy={}, chunk="4", scores=[f"theirs={moved}"])
    assert "done again" not in capsys.readouterr().out
    assert (folder / "brittleness.csv").read_bytes() == before
    start(label_flip.PROGRAM, folder, toy={}, chunk="4")  # The new place is remembered.
    assert "done again" not in capsys.readouterr().out
    start(brittleness.PROGRAM, folder, toy={}, chunk="4", scores=["theirs="])
    assert "since: theirs: stored" in capsys.readouterr().out
    assert {row["method"] for row in rows(folder, "brittleness")} > {"others"}
    for stage in (brittleness, label_flip):  # They are forgotten.
      start(stage.PROGRAM, folder, toy={}, chunk="4")
      assert not [row for row in rows(folder, stage.STAGE) if row["method"] == "theirs"]
    capsys.readouterr()
    start(label_flip.PROGRAM, folder, toy={}, chunk="4")
    assert "done again" not in capsys.readouterr().out
  finally:
    shutil.move(moved, path)


@pytest.mark.parametrize("network", ["mlp", f"{__name__}:head"])
def test_other_networks_are_named_on_the_command_line(vectors, tmp_path, network) -> None:
  given = {"network": network, "arrays": vectors, "priors": "none"}
  start(train_subsets.PROGRAM, tmp_path / "run", toy=TOY_OF_VECTORS, **given)
  with pytest.raises(SystemExit, match="holds other models .*network: stored"):
    start(train_subsets.PROGRAM, tmp_path / "run", toy={}, network="linear")


@pytest.mark.parametrize(
  "given,message",
  [
    ({}, "--network=resnet9 needs images"),
    ({"network": "linear", "width": "4"}, "--width has no effect on --network=linear"),
    ({"network": "mlp", "flip": "true"}, "--flip has no effect on feature vectors"),
    ({"network": "mlp", "downscale": "2"}, "--downscale must be 1 for feature vectors"),
    ({"network": "mlp", "muon_rate": "0.1"}, "--muon_rate must be 0 for a network"),
    ({"network": "resnet10"}, "--network must be resnet9, mlp, linear or"),
    ({"network": "no.module:make"}, "--network=no.module:make cannot be imported"),
    ({"network": "linear", "conv_backend": "lax"}, "--conv_backend has no effect"),
  ],
)
def test_what_does_not_fit_vectors_is_refused(vectors, tmp_path, given, message) -> None:
  with pytest.raises(SystemExit, match=message):
    start(
      train_subsets.PROGRAM,
      tmp_path / "run",
      toy=TOY_OF_VECTORS,
      arrays=vectors,
      **given,
    )
  assert not (tmp_path / "run" / "stages").exists() or not any(
    (tmp_path / "run" / "stages").iterdir()
  )


@pytest.mark.parametrize(
  "scores,message",
  [
    ("theirs", "--scores must be NAME=FILE.npy"),
    ("random=a.npy", "--scores: the name random is that of a method"),
    ("a=none.npy", "--scores: a=.*none.npy is not a whole .npy file"),
    ("a=small.npy", r"must be \[targets, training examples\] = \[16, 48\], got \[3, 4\]"),
    ("a=text.npy", "must hold numbers"),
    *(
      (f"a={name}.npy", f"^error: --scores: a=.*{name}.npy: scores of a {message}")
      for name, message in (
        ("opposite", "have the wrong sign: .*; negate them"),
        ("nan", "must be finite, .* got nan for target 9 and training example 3; give"),
        ("inf", "must be finite, .* got inf for target 9 and training example 3; give"),
      )
    ),
  ],
)
def test_files_that_hold_no_scores_are_refused(
  done, tmp_path, monkeypatch, scores, message
) -> None:
  folder, _ = done
  np.save(tmp_path / "small.npy", np.zeros((3, 4)))
  np.save(tmp_path / "text.npy", np.full((16, 48), "a"))
  np.save(tmp_path / "opposite.npy", -1.0 * (np.arange(16)[:, None] % 2 == LABELS))
  for value in (np.nan, np.inf):
    scores_tn = np.zeros((16, 48), np.float32)
    scores_tn[9, 3] = value
    np.save(tmp_path / f"{value}.npy", scores_tn)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=message):
    start(brittleness.PROGRAM, folder, toy={}, chunk="4", scores=[scores])


def test_a_name_of_scores_is_given_once(tmp_path) -> None:
  with (
    flagsaver.as_parsed(scores=["a=x.npy", "b=y.npy", "a=z.npy"]),
    pytest.raises(jaxdm.UserError, match="^scores: the name a is given twice$"),
  ):
    score_files.load(Places(epath.Path(tmp_path)), jaxdm.load_dataset("fashion"))
