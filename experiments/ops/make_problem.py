"""Makes a problem file of a finished workdir: its models, without the images.

  python -m experiments.ops.make_problem --workdir=runs/fashion --name=fashion

`jaxdm.load_problem` reads the file, and `experiments.leaderboard` judges scores with it.
It holds all models on random subsets, two on each held-out subset, the logits of the
models on all data, the verified removals, and the settings that train these models again.
"""

import dataclasses

import numpy as np
from absl import flags

from experiments.runtime import base_models, launcher, searches, stages, subset_models
from experiments.runtime.run import Run, train_config
from jaxdm import prng
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import UserError
from jaxdm.problems.problem import Problem, problem_path
from jaxdm.report import tables

NAME = flags.DEFINE_string(
  "name",
  None,
  "Name of the problem. The file is jaxdm/problems/NAME.npz; a name that ends in .npz is "
  "the path of the file.",
)
_SEARCH = "brittleness"


def problem_of(run: Run, name: str) -> Problem:
  """The problem that a finished workdir holds.

  Raises:
    UserError: if models or removals are missing, or were trained by somebody's function.
  """
  if run.networks is None:
    raise UserError("retrain", ": a problem must say how its models are trained")
  if run.experiment.collect.held_out_seeds < 2:
    raise UserError("held_out_seeds", "must be at least 2, for the noise ceiling")
  fitted, held_out = run.subsets.fitted_rows(), run.subsets.held_out_rows()[:2]
  masks, margins_mt = subset_models.join([fitted])
  held_out_masks, _ = subset_models.join(held_out[:1])
  parts = [part.margins_mt[:].astype(np.float16) for part in held_out]
  return Problem(
    masks=masks[:],
    margins=margins_mt.astype(np.float16),
    seeds=prng.subset_seeds(fitted.numbers),
    held_out_masks=held_out_masks[:],
    held_out_margins=np.stack(parts),
    held_out_seeds=prng.subset_seeds(held_out[0].numbers),
    labels=run.trainer.labels,
    target_labels=run.trainer.target_labels,
    base_logits=_base_logits(run),
    verdicts=_verdicts(run),
    about=_about(run, name),
  )


def _base_logits(run: Run) -> np.ndarray:
  """float32[r, t, k] of the models on all data."""
  logits_rtk = base_models.load(run).logits_rtk
  assert logits_rtk is not None  # They are networks.
  return np.asarray(logits_rtk)


def _verdicts(run: Run) -> tuple[Verdict, ...]:
  """The removals, each with the examples that the search could remove."""
  stages.summary_of(run.workdir, _SEARCH)  # First: its error names the search.
  stages.check_inputs(run.workdir, _SEARCH, searches.inputs(run), reads_all=True)
  verdicts = tables.read_verdicts(run.workdir.path / f"{_SEARCH}.csv")
  return tuple(one._replace(examples=one.examples[: one.largest]) for one in verdicts)


def _about(run: Run, name: str) -> dict[str, object]:
  """Settings and provenance."""
  data, experiment = run.dataset, run.experiment
  starts = stages.starts_by_stage(run.workdir)["train_subsets"]
  recipe = train_config(experiment, len(data.train_labels))
  return {
    "name": name,
    **run.settings("data"),
    "train": dataclasses.asdict(recipe),
    "network": experiment.network.network,
    "alpha": experiment.collect.alpha,
    "seed": experiment.collect.seed,
    # Of the removals in the file, whatever flags this command has.
    "search": stages.settings_of(run.workdir, _SEARCH)["search"],
    "class_names": list(data.class_names),
    "train_sources": list(data.train_sources),
    "test_sources": list(data.test_sources),
    "made_by": starts.made_by,
    "devices": starts.devices,
    "started": starts.started,
    "finished": starts.finished,
    "command": f"python -m experiments.ops.make_problem --name={name}",
  }


def main(run: Run) -> None:
  """Writes the file."""
  if not NAME.value:
    raise UserError("name", "is needed: the name of the problem")
  path = problem_path(NAME.value)
  problem = problem_of(run, path.stem)
  problem.write(path)
  (m, n), t = problem.masks.shape, len(problem.target_labels)
  print(
    f"{path}: {m:,} models, {len(problem.held_out_masks):,} held-out subsets, {n:,} "
    f"examples, {t:,} targets, {len(problem.verdicts):,} removals, "
    f"{path.stat().st_size / 1e6:.2f} MB, digest {problem.digest}"
  )


PROGRAM = launcher.Program(main, hold="reading")

if __name__ == "__main__":
  PROGRAM.run()
