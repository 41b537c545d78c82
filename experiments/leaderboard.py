"""Judges scores of training examples, by whichever method, on an included problem.

  python -m experiments.leaderboard --problem=fashion --scores=mine=mine.npy
  python -m experiments.leaderboard --problem=fashion --scores=mine=mine.npy --verify
  python -m experiments.leaderboard --write

The first command takes seconds and trains nothing: it prints the LDS on held-out models
beside the noise ceiling. The second also removes the examples with the highest scores and
trains some hundred models without them (`fashion`: about half a minute of CPU time); if
it is killed, the same command continues. Both write a row to docs/leaderboard; the last
one makes the page docs/leaderboard.md of all rows. docs/taking_part.md says how to make
scores.
"""

import datetime
import pathlib
import shlex
from typing import Any

import numpy as np
from absl import flags, logging
from etils import epath

from experiments.config import experiment_flags
from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import leaderboard_page, program, progress_bar, score_files
from jaxdm import devices, identity
from jaxdm.brittleness.removals import find_removals
from jaxdm.brittleness.summary import summarise
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.datamodels.quality import Quality
from jaxdm.errors import UserError
from jaxdm.problems.problem import Problem, load_problem, problem_names
from jaxdm.storage import atomic_io, checksummed_json

PROBLEM = flags.DEFINE_string(
  "problem", "fashion", "Name of an included problem, or the path of a file NAME.npz."
)
VERIFY = flags.DEFINE_bool(
  "verify", False, "Also remove examples and verify the removals by retraining."
)
MODELS_DIR = define_path(
  "models_dir",
  None,
  "Folder for the models that --verify trains; default: runs/leaderboard/PROBLEM.",
)
NOTE = flags.DEFINE_string(
  "note", "", "How the scores were made: a sentence for the row, with a link if possible."
)
ROWS = define_path("rows_dir", "docs/leaderboard", "Folder of the rows.")
WRITE = flags.DEFINE_bool(
  "write", False, "Make the page of all rows, beside their folder."
)


def named_scores(problem: Problem) -> dict[str, np.ndarray]:
  """The scores that --scores names, checked, by name of the method.

  Raises:
    UserError: on files that do not hold scores of the problem, or of the wrong sign.
  """
  scores = {}
  for text in score_files.SCORES.value or ():
    name, equals, path = text.partition("=")
    name, path = (name, path) if equals else (pathlib.Path(text).stem, text)
    if not name or not path or name in scores or pathlib.Path(name).name != name:
      raise UserError("scores", f"must be NAME=FILE.npy with other names, got {text!r}")
    labels = problem.labels, problem.target_labels
    scores[name] = np.asarray(score_files.read(name, path, *labels))
  if not scores:
    raise UserError("scores", "is needed: NAME=FILE.npy")
  return scores


def judge(problem: Problem, name: str, scores_tn: np.ndarray) -> Quality:
  """The LDS of scores and the noise ceiling.

  Raises:
    UserError: on scores that predict the opposite of what models do.
  """
  quality = evaluate_scores(scores_tn, *problem.held_out)
  if quality.lds.high < 0:
    raise UserError(
      "scores",
      f": those of {name} have the wrong sign: their LDS is {quality.lds.estimate:.3f}; "
      "the examples that support a target most must have the highest ones",
    )
  return quality


def verify(problem: Problem, name: str, scores_tn: np.ndarray) -> dict[str, Any]:
  """Removes the examples with the highest scores, retrains, and sums it up."""
  dataset = problem.dataset(data_dir=experiment_flags.DATA_DIR.value)
  folder = MODELS_DIR.value or f"runs/leaderboard/{problem.name}"
  verdicts = find_removals(
    {name: scores_tn},
    problem.trainer(dataset, folder=folder),
    problem.labels,
    problem.target_labels,
    problem.targets,
    problem.search,
    base_margins=problem.base_margins,
    progress=progress_bar.make(f"removals by {name}"),
  )
  class_sizes_t = np.bincount(problem.labels)[problem.target_labels]
  return summarise(verdicts, class_sizes_t)[name]


def row_of(problem: Problem, name: str, scores_tn: np.ndarray) -> dict[str, Any]:
  """Everything that the page shows of scores, and what it depends on.

  Raises:
    UserError: if there is a row of this name for other scores.
  """
  quality = judge(problem, name, scores_tn)
  digest, path = identity.digest(scores_tn), _path(problem, name)
  old = checksummed_json.read(path) if path.exists() else {}
  if old and old["problem_digest"] != problem.digest:
    old = {}  # The page leaves out rows of an earlier problem.
  if old and old["scores_digest"] != digest:
    raise UserError(
      "scores",
      f": {path} is a row of other scores; choose another name with "
      "--scores=NAME=FILE.npy, or remove that file",
    )
  row = {
    "method": name,
    "problem": problem.name,
    "problem_digest": problem.digest,
    "scores_digest": digest,
    "note": NOTE.value or old.get("note", ""),
    "lds": quality.lds._asdict(),
    "ceiling": quality.ceiling._asdict() if quality.ceiling else None,
    "held_out_models": quality.num_models,
    "removals": verify(problem, name, scores_tn) if VERIFY.value else None,
    "seed": problem.about["seed"],
    "made_by": identity.made_by(),
    "command": _command(problem, name),
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
  }
  if old and old["removals"] and not VERIFY.value:
    row |= {key: old[key] for key in ("removals", "command", "date", "made_by")}
  return row


def _command(problem: Problem, name: str) -> str:
  """What made a row, without the folders of the machine that did."""
  parts = ["python", "-m", "experiments.leaderboard", f"--problem={problem.name}"]
  parts.append(f"--scores={name}={name}.npy")
  if VERIFY.value:
    parts.append("--verify")
  if experiment_flags.DATA_DIR.value:
    parts.append("--data_dir=DATA_DIR")
  return shlex.join(parts)


def _path(problem: Problem, name: str) -> epath.Path:
  """Of a row."""
  return atomic_io.as_path(ROWS.value) / f"{problem.name}.{name}.json"


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Judges each file, or makes the page."""
  logging.set_verbosity(logging.WARNING)
  program.check_no_arguments(argv)
  folder = atomic_io.as_path(ROWS.value)
  if score_files.SCORES.value or not WRITE.value:
    problem = load_problem(PROBLEM.value)
    devices.check()
    for name, scores_tn in named_scores(problem).items():
      row = row_of(problem, name, scores_tn)
      folder.mkdir(parents=True, exist_ok=True)
      checksummed_json.write(_path(problem, name), row)
      print("\n".join(leaderboard_page.table([row])))
  if WRITE.value:
    path = folder.with_suffix(".md")
    problems = {name: load_problem(name) for name in problem_names()}
    own = load_problem(PROBLEM.value)
    problems |= {own.name: own}
    text = leaderboard_page.page(leaderboard_page.read(folder, problems), problems)
    with atomic_io.writing(path, "w") as file:
      file.write(text)
    print(path)


if __name__ == "__main__":
  flags.adopt_module_key_flags(score_files)
  flags.declare_key_flag("data_dir")
  devices.use_all_devices()
  help_page.print_and_exit()
  program.run(main)
