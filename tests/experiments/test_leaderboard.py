"""Scores from files, judged on a problem that ships."""

import dataclasses
import pathlib
import shlex

import numpy as np
import pytest
import scipy.stats
from absl.testing import flagsaver
from support.programs import start

import jaxdm
from experiments import leaderboard
from experiments.ops import make_problem
from experiments.runtime import leaderboard_page
from jaxdm.problems.problem import load_problem, problem_names
from jaxdm.storage import checksummed_json

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def problem() -> jaxdm.Problem:
  return jaxdm.load_problem("fashion")


@pytest.fixture(scope="module")
def scores(problem) -> np.ndarray:
  """Covariances of margins and masks."""
  return problem.margins.T.astype(float) @ (problem.masks - 0.5)


def run(scores: dict[str, np.ndarray], folder: pathlib.Path, **given: str) -> None:
  """Runs the program on arrays."""
  texts = []
  for name, array in scores.items():
    np.save(folder / f"{name}.npy", array)
    texts.append(f"{name}={folder / name}.npy")
  rows = str(folder / "rows")
  with flagsaver.as_parsed(scores=texts, rows_dir=rows, **given):
    leaderboard.main(["prog"])


def test_a_row_has_the_lds_of_the_held_out_models(problem, scores, tmp_path) -> None:
  run({"mine": scores}, tmp_path, note="covariances")
  row = checksummed_json.read(tmp_path / "rows" / "fashion.mine.json")
  # Both models of a subset have its prediction.
  predicted = np.tile(problem.held_out_masks, (2, 1)) @ scores.T
  margins = np.concatenate([*problem.held_out_margins])
  lds = [
    scipy.stats.spearmanr(a, b)[0] for a, b in zip(predicted.T, margins.T, strict=True)
  ]
  np.testing.assert_allclose(row["lds"]["estimate"], np.mean(lds), atol=1e-6)
  assert row["lds"]["low"] < np.mean(lds) < row["lds"]["high"] < row["ceiling"]["low"]
  assert row["problem_digest"] == problem.digest and row["note"] == "covariances"
  assert row["removals"] is None and "jax" in row["made_by"]
  command = "python -m experiments.leaderboard --problem=fashion --scores=mine=mine.npy"
  assert row["command"] == command  # Without folders of this machine.


@pytest.mark.parametrize(
  "change,message",
  [
    (lambda x: x.T, r"--scores: mine=.* = \[120, 200\], got \[200, 120\]; transpose it"),
    (lambda x: x[:, :-1], r"--scores: mine=.* = \[120, 200\], got \[120, 199\]$"),
    (lambda x: -x, "--scores: mine=.*mine.npy: scores of mine have the wrong sign"),
    (lambda x: x * np.nan, "--scores: mine=.*mine.npy: scores of mine must be finite"),
    (lambda x: np.argsort(x).astype("U9"), "--scores: mine=.* must hold numbers"),
  ],
)
def test_other_files_end_in_one_line(scores, tmp_path, change, message) -> None:
  with pytest.raises(SystemExit, match=message):
    run({"mine": change(scores)}, tmp_path)
  assert not (tmp_path / "rows").exists()


def test_a_wrong_sign_shows_where_classes_do_not(problem, scores, tmp_path) -> None:
  # Every class has the same mean score for every target.
  for k in (0, 1):
    of_class = problem.labels == k
    scores = np.where(
      of_class, scores - scores[:, of_class].mean(axis=1, keepdims=True), scores
    )
  run({"mine": scores}, tmp_path)
  with pytest.raises(SystemExit, match="those of mine have the wrong sign: their LDS is"):
    run({"mine": -scores}, tmp_path)


def test_names_and_problems_are_checked(scores, tmp_path) -> None:
  for text in ("=x.npy", "a/b=x.npy"):
    with (
      flagsaver.as_parsed(scores=[text], rows_dir=str(tmp_path / "rows")),
      pytest.raises(SystemExit, match="--scores must be NAME=FILE.npy with other names"),
    ):
      leaderboard.main(["prog"])
  with pytest.raises(SystemExit, match="--scores is needed"):
    run({}, tmp_path)
  with pytest.raises(SystemExit, match="--problem must be .*, got 'no'"):
    run({"mine": scores}, tmp_path, problem="no")


def test_rows_keep_their_removals_and_become_a_page(scores, tmp_path) -> None:
  run({"mine": scores, "random": np.random.default_rng(0).random((120, 200))}, tmp_path)
  path = tmp_path / "rows" / "fashion.mine.json"
  removals = {"share_flipped": 0.375, "censored_above": 25, "models_used": 1501}
  row = checksummed_json.read(path) | {
    "removals": removals | {"median_k": [None, 7, None]}
  }
  checksummed_json.write(path, row)
  stale = row | {"problem_digest": "0" * 32, "method": "stale"}
  checksummed_json.write(tmp_path / "rows" / "fashion.stale.json", stale)
  run({"mine": scores}, tmp_path, write="True")
  text = (tmp_path / "rows.md").read_text()
  lines = [line for line in text.splitlines() if line.startswith("| ")]
  assert [line.split(" | ")[0] for line in lines[2:]] == ["| mine", "| random"]
  assert "| .38 | > 25 [7, > 25] | 1,501 |" in lines[2] and "stale" not in text
  with pytest.raises(SystemExit, match="fashion.mine.json is a row of other scores"):
    run({"mine": 2 * scores}, tmp_path)
  checksummed_json.write(path, row | {"problem_digest": "0" * 32, "note": "Old."})
  run({"mine": 2 * scores}, tmp_path, note="My own.")  # In place of an old problem's row.
  row = checksummed_json.read(path)
  assert (row["removals"], row["note"]) == (None, "My own.")
  run({"mine": 2 * scores}, tmp_path)
  assert checksummed_json.read(path)["note"] == "My own."
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
  with pytest.raises(SystemExit, match="fashion.mine.json is damaged"):
    run({"random": np.random.default_rng(0).random((120, 200))}, tmp_path, write="True")


def test_a_page_has_the_rows_of_ones_own_problem(scores, tmp_path, capsys) -> None:
  own, included = str(tmp_path / "own.npz"), load_problem("fashion")
  dataclasses.replace(included, about=included.about | {"name": "own"}).write(own)
  run({"mine": scores}, tmp_path, problem=own, write="True")
  assert "## own" in (tmp_path / "rows.md").read_text()
  capsys.readouterr()
  run({"other": scores}, tmp_path, write="True")
  assert "mine on own, which is not included in the package" in capsys.readouterr().out


def test_the_page_is_that_of_the_rows() -> None:
  problems = {name: load_problem(name) for name in problem_names()}
  rows = leaderboard_page.read(ROOT / "docs" / "leaderboard", problems)
  page = leaderboard_page.page(rows, problems)
  assert page == (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_removals_are_those_of_the_library(finished, tmp_path) -> None:
  path = tmp_path / "toy.npz"
  start(make_problem.PROGRAM, finished, name=str(path))
  toy = jaxdm.load_problem(str(path))
  scores = toy.margins.T.astype(float) @ (toy.masks - 0.5)
  models = str(tmp_path / "models")
  for _ in range(2):  # The second one trains nothing.
    run({"mine": scores}, tmp_path, problem=str(path), verify="True", models_dir=models)
  row = checksummed_json.read(tmp_path / "rows" / "toy.mine.json")
  found = jaxdm.find_removals(
    scores,
    toy.trainer(toy.dataset()),
    toy.labels,
    toy.target_labels,
    toy.targets,
    toy.search,
    base_margins=toy.base_margins,
  )
  assert row["removals"]["models_used"] == sum(one.models_used for one in found)
  share = np.mean([not one.censored for one in found])
  assert row["removals"]["share_flipped"] == share


def test_a_row_keeps_what_is_said_of_its_removals(problem, scores, tmp_path) -> None:
  run({"mine": scores}, tmp_path)
  path = tmp_path / "rows" / "fashion.mine.json"
  row = checksummed_json.read(path)
  assert row["held_out_models"] == 2 * len(problem.held_out_masks)
  removals = {"share_flipped": 0.375, "censored_above": 25, "models_used": 1501}
  kept = {
    "removals": removals | {"median_k": [None, 7, None]},
    "date": "2001-02-03",
    "command": "python -m experiments.leaderboard --verify",
    "made_by": {"jax": "0.1"},
  }
  checksummed_json.write(path, row | kept)
  run({"mine": scores}, tmp_path, note="Again.")
  row = checksummed_json.read(path)
  assert {key: row[key] for key in kept} == kept and row["note"] == "Again."


def test_the_command_of_a_row_makes_it_again(problem) -> None:
  with flagsaver.as_parsed(verify="true", data_dir="/home/me/my data"):
    command = leaderboard._command(problem, "my own")
  assert shlex.split(command)[3:] == [
    "--problem=fashion",
    "--scores=my own=my own.npy",
    "--verify",
    "--data_dir=DATA_DIR",
  ]
