"""Finds some training images whose change makes a wrong prediction right.

  python -m experiments.repair --workdir=runs/fashion

Look first whether the labels of these targets are right: if a label is wrong, correct it,
and nothing else has to change.

It searches targets that models on all data get wrong: a sample of them, or those that
--search_targets=3,14 names in this command; targets.csv lists all. In one search the
images that oppose the target most are removed; in another they stay in the training set
with the label of the target's class. Methods that say nothing of opposition choose images
of the class that models predict: the most similar ones, or random ones. The method
'relabel' scores what the new label does. A repair counts only when models trained on the
changed images, on seeds that the search never saw, have a margin whose lower confidence
bound is at least 0.

The result is the smallest change that its search verified; others may be smaller. It says
which images the wrong answer depends on, and is no advice to remove correct ones.

repair.csv lists the changed images of every target (column changed: their numbers), and
repair.png is drawn. The next report shows them. Settings of the search that are given
here hold for this command alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.config import experiment_flags
from experiments.config.settings import CompareConfig
from experiments.report_page import pictures, words
from experiments.runtime import (
  base_models,
  launcher,
  methods,
  relabel,
  score_files,
  search_targets,
  searches,
  stages,
)
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from jaxdm.attribution.scores import ScoreRows
from jaxdm.brittleness.repairs import CHANGES, Change, find_repairs
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.report import csv_cells, csv_columns, page, tables
from jaxdm.storage import atomic_io

STAGE = "repair"
_OWN_CLASS = "svm"  # Scores nothing but the examples of the target's own class.
_NO_ADVICE = (
  "images that are named here are those that the wrong answer depends on; correct ones "
  "should not be removed"
)


def main(run: Run) -> dict[str, Any]:
  """Searches and verifies repairs."""
  inputs = searches.inputs(run)
  base, data = base_models.load(run), run.dataset
  search, compare = run.experiment.search, _compare(run)
  targets = search_targets.choose_wrong(base.margins_rt, search, compare)
  others = score_files.load(run.workdir.places, data)

  def work() -> dict[str, Any]:
    print(base_models.LABEL_FIRST)
    rival_t = methods.rival_classes(run, base.logits_rtk)
    names = tuple(name for name in compare.names if name != _OWN_CLASS)
    if len(names) < len(compare.names):
      print(
        f"{_OWN_CLASS} is left out: it ranks the examples of the target's own class, "
        "which are not what a repair changes"
      )
    all_scores = methods.scores(run, names) | others
    scores = methods.for_repairs(all_scores, data, rival_t)
    verdicts_of: dict[str, list[Verdict]] = {}
    for change in CHANGES:
      with_relabel = change == "relabel" and run.networks is not None
      extra = len(others) + with_relabel
      searches.announce(run, f"{STAGE} by {change}", extra, len(targets))
      if with_relabel:
        scores["relabel"] = _relabel_scores(run, targets)
      used = sum(v.models_used for verdicts in verdicts_of.values() for v in verdicts)
      budget = searches.BUDGET.value
      verdicts_of[change] = find_repairs(
        scores,
        run.trainer,
        data.train_labels,
        data.test_labels,
        targets,
        search,
        change=change,
        base_margins=base.margins_rt,
        budget=None if budget is None else budget - used,
        progress=run.bar(f"{STAGE} by {change}"),
      )
    return _report(run, verdicts_of, base.margins_rt)

  # A group of its own: the targets are not those of the other searches.
  settings = run.settings("search")["search"] | dataclasses.asdict(compare)
  depends_on = {STAGE: settings} | score_files.settings(others)
  files = *tables.files_of(STAGE), f"{STAGE}.png"
  summary = stages.run(run.workdir, STAGE, depends_on, work, inputs, files=files)
  stages.say_written(run.workdir, (f"{STAGE}.csv", f"{STAGE}.png"), to_report=True)
  return summary


def _compare(run: Run) -> CompareConfig:
  """Methods, and targets of the command line; those of the workdir are right ones."""
  if "search_targets" in experiment_flags.flag_fields():
    return run.experiment.compare
  return dataclasses.replace(run.experiment.compare, search_targets="")


def read_verdicts(workdir: Workdir) -> dict[Change, list[Verdict]]:
  """The verdicts of a search that is finished, or has come so far, by change."""
  path = workdir.path / f"{STAGE}.csv"
  changes = [row["change"] for row in tables.read_rows(path, ["change"])]
  for number, change in enumerate(changes):
    if change not in CHANGES:
      what = f"must be one of {', '.join(CHANGES)}, got {change!r}"
      raise csv_cells.fault(path, number, "change", what)
  pairs = list(zip(changes, tables.read_verdicts(path), strict=True))
  return {change: [v for name, v in pairs if name == change] for change in CHANGES}


def _relabel_scores(run: Run, targets: np.ndarray) -> ScoreRows:
  """What the label of the target's own class takes from it; the lowest gives most."""
  taken_unk, labels = relabel.scores(run, targets), run.dataset.test_labels
  own_un1 = np.broadcast_to(labels[targets][:, None, None], (*taken_unk.shape[:2], 1))
  taken_un = np.take_along_axis(taken_unk, own_un1, axis=-1)[..., 0]
  return relabel.rows_of_some(taken_un, targets, len(labels))


def _report(
  run: Run, verdicts_of: Mapping[str, list[Verdict]], base_margins_rt: np.ndarray
) -> dict[str, Any]:
  """Writes table and figure of all changes, prints summaries, and returns them."""
  data, folder = run.dataset, run.workdir.path
  rows = [
    (change, *tables.verdict_row(verdict, base_margins_rt, data))
    for change, verdicts in verdicts_of.items()
    for verdict in verdicts
  ]
  table = folder / f"{STAGE}.csv"
  tables.write_rows(table, ("change", *csv_columns.VERDICT_HEADER), rows)
  base_models.print_if_poor(base_margins_rt, data.test_labels)
  by_change = {
    change: searches.summarise_search(
      table.name, f"{STAGE}: targets repaired by {change}", verdicts, data
    )
    for change, verdicts in verdicts_of.items()
  }
  print(_NO_ADVICE)
  figure = pictures.shares(
    data, verdicts_of["removal"], verdicts_of["relabel"], "repaired"
  )
  with atomic_io.writing(folder / f"{STAGE}.png") as file:
    file.write(page.png(figure))
  count = len({verdict.target for verdict in verdicts_of["removal"]})
  return {
    "methods": by_change,
    "targets": count,
    "caption": words.repairs(run.experiment.search, count),
    stages.UNFINISHED: sum(
      method["unfinished"] for one in by_change.values() for method in one.values()
    ),
  }


PROGRAM = launcher.Program(
  main,
  hold="job",
  flag_modules=(searches, score_files),
  groups=("search", "compare", "flip"),
)

if __name__ == "__main__":
  PROGRAM.run()
