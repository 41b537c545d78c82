"""A finished workdir as a file for others."""

import types

import numpy as np
import pytest
from support.programs import start

import jaxdm
from experiments.ops import make_problem


def test_the_file_holds_what_the_workdir_does(finished, tmp_path) -> None:
  path = tmp_path / "toy.npz"
  start(make_problem.PROGRAM, finished, name=str(path))
  problem = jaxdm.load_problem(str(path))
  assert problem.name == "toy"
  logits = np.load(finished / "base_models" / "logits.npy")
  np.testing.assert_array_equal(problem.base_logits, logits)
  # Fresh models of the same seeds have the same margins.
  trainer = problem.trainer(problem.dataset())
  for masks, seeds, margins in (
    (problem.masks, problem.seeds, problem.margins),
    (problem.held_out_masks, problem.held_out_seeds, problem.held_out_margins[0]),
  ):
    again = trainer(masks[:8], problem.labels, seeds[:8])
    np.testing.assert_allclose(again, margins[:8], rtol=2**-10, atol=1e-3)
  assert not np.array_equal(*problem.held_out_margins)
  assert problem.search.num_targets == 3 == len(problem.targets)
  assert {"pixels", "random"} <= {verdict.method for verdict in problem.verdicts}


def test_it_needs_a_name_and_a_finished_search(finished, trained, tmp_path) -> None:
  with pytest.raises(SystemExit, match="--name is needed"):
    start(make_problem.PROGRAM, finished)
  with pytest.raises(SystemExit, match="lacks a finished brittleness"):
    start(make_problem.PROGRAM, trained, toy={}, name=str(tmp_path / "toy.npz"))


def test_a_problem_needs_two_models_on_each_held_out_subset() -> None:
  collect = types.SimpleNamespace(held_out_seeds=1)
  run = types.SimpleNamespace(
    networks=object(), experiment=types.SimpleNamespace(collect=collect)
  )
  with pytest.raises(jaxdm.UserError, match="^held_out_seeds must be at least 2"):
    make_problem.problem_of(run, "toy")
