"""The rows of the leaderboard as a page of tables."""

import textwrap
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxdm.problems.problem import Problem
from jaxdm.report import summary_text
from jaxdm.storage import checksummed_json

Row = dict[str, Any]
_HEAD = (
  "Scores of training examples by several methods, judged on the same retrained models. "
  "[taking_part.md](taking_part.md) says how to add a row. `python -m "
  "experiments.leaderboard --write` makes this page of the files in "
  "[leaderboard](leaderboard). Each file holds the digests of the scores and of the "
  "problem, the versions and the command.",
  "**LDS** is the rank correlation of predicted and true margins over held-out models; "
  "the noise ceiling is an upper bound of it. **flipped** is the share of the searched "
  "targets that models get wrong after a verified removal of at most the share of a "
  "class that the section names, **median k** the median number of removed examples, and "
  "**models** the number of models trained for the search. A row is judged by the search "
  "of its date: until 2026-11-28 by [rules 1](statistics.md#rules), which needed 3 "
  "models, since then by later ones. Compare rows of one table that have the same date. "
  "Intervals are 95 % intervals. [Statistics](statistics.md) describes them.",
)
_COLUMNS = ("method", "LDS", "flipped", "median k", "models", "judged on", "scores")


def read(folder: epath.Path, problems: Mapping[str, Problem]) -> list[Row]:
  """The rows of a folder that are of problems as they are now; others are named.

  Args:
    folder: of the rows.
    problems: by name.

  Raises:
    StoreError: on a row that was changed by hand.
  """
  rows = [checksummed_json.read(path) for path in sorted(folder.glob("*.json"))]
  rows_now = []
  for row in rows:
    method, name = row["method"], row["problem"]
    if name not in problems:
      print(
        f"left out: {method} on {name}, which is not included in the package; "
        "--problem=FILE.npz adds its rows"
      )
    elif problems[name].digest != row["problem_digest"]:
      print(f"left out: {method} on {name}, which is another file now")
    else:
      rows_now.append(row)
  return rows_now


def page(rows: list[Row], problems: Mapping[str, Problem]) -> str:
  """The page, with a section for each problem that has rows."""
  parts = ["# Leaderboard\n", *(f"{_paragraph(text)}\n" for text in _HEAD)]
  for name in sorted({row["problem"] for row in rows}):
    of_problem = [row for row in rows if row["problem"] == name]
    of_problem.sort(key=lambda row: -row["lds"]["estimate"])
    about = _paragraph(_about(problems[name], of_problem[0]))
    parts.append("\n".join([f"## {name}\n", about, "", *table(of_problem), ""]))
  return "\n".join(parts)


def _paragraph(text: str) -> str:
  """A paragraph."""
  return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def table(rows: list[Row]) -> list[str]:
  """A Markdown table of rows of one problem."""
  lines = [_COLUMNS, ["---"] * len(_COLUMNS), *map(_cells, rows)]
  return [f"| {' | '.join(cells)} |" for cells in lines]


def _about(problem: Problem, row: Row) -> str:
  """What the problem is, in sentences."""
  classes = ", ".join(problem.about["class_names"])
  (m, n), s = problem.masks.shape, len(problem.held_out_masks)
  ceiling = (
    f" The noise ceiling is {_interval(row['ceiling'])}." if row["ceiling"] else ""
  )
  return (
    f"Classes: {classes}. {n:,} training examples, {len(problem.target_labels):,} "
    f"targets, of which {len(problem.targets)} are searched for removals of at most "
    f"{100 * problem.search.max_share:g} % of a class; {m:,} models "
    f"on random subsets, two models on each of {s:,} held-out subsets.{ceiling} The "
    f"workdir was finished on {problem.about['finished'][:10]}; the digest of the "
    f"problem is {problem.digest}."
  )


def _cells(row: Row) -> list[str]:
  """One row of the table."""
  removals = row["removals"]
  flipped, median, models = ["not verified", "", ""]
  if removals:
    flipped = f"{removals['share_flipped']:.2f}".removeprefix("0")
    median = summary_text.median_cell(removals)
    models = f"{removals['models_used']:,}"
  lds = _interval(row["lds"])
  return [row["method"], lds, flipped, median, models, row["date"], row["note"]]


def _interval(value: dict[str, float]) -> str:
  """An estimate with its interval, without zeros before the points."""
  texts = (
    f"{value[key]:.3f}".replace("0.", ".", 1) for key in ("estimate", "low", "high")
  )
  return "{} [{}, {}]".format(*texts)
