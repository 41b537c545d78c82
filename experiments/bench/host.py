"""Times what the host does beside training, at full size, with made-up numbers.

  python -m experiments.bench.host --json=bench_host.json
  python -m experiments.bench.host --scale=0.01       # a hundredth of everything

Writes a workdir of the preset's size (cifar10 by default) whose images, margins, scores
and datamodels are random: nothing is trained. Then each step runs in a process of its own
and calls the functions that the launchers call. The files of one margin matrix are hard
links to one file, so that 300,000 models take up 17 GB of disk.

Peak memory is the process's VmHWM, in which pages of memory maps count although the
system can take them back (Linux). Seconds are of the clock, CPU seconds of all threads.
The workdir is a temporary folder, removed at the end, unless --workdir names one.
"""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

from experiments import brittleness, label_flip, report
from experiments.bench import cost, measure, random_workdir
from experiments.config import experiment_flags
from experiments.runtime import (
  base_models,
  datamodels,
  methods,
  program,
  search_targets,
  searches,
  subset_models,
)
from experiments.runtime import help as help_page
from experiments.runtime.run import Run, make_run
from experiments.runtime.workdir import Workdir
from jaxdm import devices, margins
from jaxdm.attribution.random_scores import random_rows
from jaxdm.brittleness.cases import Case
from jaxdm.brittleness.label_flips import find_label_flips
from jaxdm.brittleness.removals import find_removals
from jaxdm.brittleness.retraining import Retrain
from jaxdm.brittleness.search_inputs import SearchInputs, cases_of
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import predictions_by_subset
from jaxdm.errors import UserError
from jaxdm.report import tables

SCALE = flags.DEFINE_float(
  "scale", 1.0, "Share of the preset's examples, targets and models.", 0, 1
)
STEPS = flags.DEFINE_list("steps", None, "Only these steps; all by default.")

Work = Callable[[], Any]


class Step(NamedTuple):
  """Something that is measured.

  Attributes:
    prepare: does what is not measured, and returns what is.
    about: what it does.
  """

  prepare: Callable[[Run], Work]
  about: str


def open_run(folder: str) -> Run:
  """A workdir of the size that the flags ask for, with random images."""
  stored = {"start": {"preset": "cifar10"}}
  experiment = experiment_flags.experiment(stored)
  where = {
    "data_dir": experiment_flags.DATA_DIR.value,
    "arrays": experiment_flags.ARRAYS.value,
  }
  blank, scale = cost.load_blank(experiment.data, where), SCALE.value
  if not scale > 0:
    raise UserError("scale", f"must be in (0, 1], got {scale}")
  each = [
    max(2, round(scale * int(np.bincount(labels).min())))
    for labels in (blank.train_labels, blank.test_labels)
  ]
  if scale < 1:
    blank = blank.take(None, *each)
  collect = dataclasses.replace(
    experiment.collect,
    num_models=max(2, round(scale * experiment.collect.num_models)),
    num_held_out=max(2, round(scale * experiment.collect.num_held_out)),
  )
  targets = max(2, round(scale * experiment.search.num_targets))
  search = dataclasses.replace(experiment.search, num_targets=targets)
  experiment = dataclasses.replace(experiment, collect=collect, search=search)
  dataset = random_workdir.with_random_images(blank)
  preset = experiment_flags.preset(stored)
  speed = experiment_flags.speed()
  return make_run(Workdir(folder), experiment, dataset, speed, preset=preset)


def _write(run: Run) -> Work:
  """Stores, scores, datamodels, and the summaries of the stages before them."""
  return lambda: random_workdir.write(run)


def _fit(run: Run) -> Work:
  """Masks and margins of the models to fit to, as fit_datamodels reads them."""
  return lambda: subset_models.load_converged(run.subsets.fitted_rows())


def _fit_margins(run: Run) -> Work:
  """The part of that which looks for margins that are not finite."""
  return lambda: margins.usable(run.subsets.fitted_rows().margins_mt)


def _held_out_data(run: Run) -> Work:
  """Masks and margins of the models to judge on."""
  return lambda: subset_models.join(run.subsets.held_out_rows())


def _open(run: Run) -> Work:
  """One method's scores of the searched targets."""

  def work() -> np.ndarray:
    targets = _targets(run)
    return methods.scores(run, ("influence",))["influence"][targets]

  return work


def _targets(run: Run) -> np.ndarray:
  """The targets that both searches choose."""
  margins_rt, experiment = base_models.load(run).margins_rt, run.experiment
  return search_targets.choose_right(margins_rt, experiment.search, experiment.compare)


def _datamodels(run: Run) -> Work:
  """All datamodels."""
  return lambda: datamodels.load(run.workdir)


def _predict(run: Run) -> Work:
  """What one method predicts for the held-out models."""
  masks, _ = subset_models.join(run.subsets.held_out_rows())
  scores_tn = methods.scores(run, ("influence",))["influence"]
  return lambda: predictions_by_subset(masks, scores_tn)


def _evaluate(run: Run) -> Work:
  """How well one method predicts the held-out models."""
  masks, margins_mt = subset_models.join(run.subsets.held_out_rows())
  noise_mt = np.random.default_rng(2).standard_normal(margins_mt.shape, np.float32)
  guess_mt = margins_mt + noise_mt
  return lambda: metrics.evaluate(guess_mt, margins_mt, masks)


def _cases(run: Run) -> Work:
  """Rankings of all methods for the searched targets, and checks of their scores."""

  def work() -> list[Case]:
    base = base_models.load(run).margins_rt
    inputs = SearchInputs(run.dataset.train_labels, run.dataset.test_labels, base)
    return cases_of(
      methods.scores(run, _names(run)),
      inputs,
      _targets(run),
      run.experiment.search,
    )

  return work


def _searches(run: Run) -> Work:
  """Both searches with their cases, rounds and tables; models take no time."""

  def work() -> None:
    targets, base = _targets(run), base_models.load(run)
    path = run.workdir.path / "targets.csv"
    tables.write_targets(path, base.margins_rt, run.dataset)
    models = datamodels.load(run.workdir)
    scores = methods.scores(run, _names(run), models)
    scores_by_name = {k: models if k == "datamodel" else v for k, v in scores.items()}
    t, n = len(run.dataset.test_labels), len(run.dataset.train_labels)
    flip = {"relabel": random_rows(t, n, seed=run.trainer.seed + 1)}
    problem = run.dataset.train_labels, run.dataset.test_labels
    config, retrain = run.experiment.search, _simulated_retrain(run)
    new_labels = (run.dataset.test_labels + 1) % run.dataset.num_classes
    removed = find_removals(
      scores_by_name, retrain, *problem, targets, config, base_margins=base.margins_rt
    )
    flipped = find_label_flips(
      scores | flip,
      retrain,
      *problem,
      new_labels,
      targets,
      config,
      base_margins=base.margins_rt,
    )
    for stage, verdicts in ((brittleness, removed), (label_flip, flipped)):
      table = run.workdir.path / f"{stage.STAGE}.csv"
      summary = searches.report_search(table, verdicts, run.dataset, base.margins_rt)
      inputs = searches.inputs(run)
      random_workdir.record(run, stage.STAGE, stage.GROUPS, summary, inputs)

  return work


def _simulated_retrain(run: Run) -> Retrain:
  """Margins that fall with the size of a change, and have noise."""
  rng, t = np.random.default_rng(3), len(run.dataset.test_labels)
  share = run.experiment.search.max_share
  most = share * len(run.dataset.train_labels) / run.dataset.num_classes

  def margins(masks: np.ndarray, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    changed_m = (~masks | (labels != run.dataset.train_labels)).sum(axis=1)
    margins_m1 = (1 - 2 * changed_m / most)[:, None]
    return np.broadcast_to(
      margins_m1 + rng.standard_normal((len(seeds), 1)) / 2, (len(seeds), t)
    )

  return margins


def _page(run: Run) -> Work:
  """Figures, summary.json and report.html."""
  return lambda: report.main(run)


def _names(run: Run) -> tuple[str, ...]:
  """The methods that the preset compares."""
  return run.experiment.compare.names


_FIRST = "write"
_STEPS = {
  _FIRST: Step(_write, "making numbers up (counted apart)"),
  "fit": Step(_fit, "masks and margins for a fit"),
  "fit_margins": Step(_fit_margins, "of these, margins alone"),
  "held_out": Step(_held_out_data, "held-out rows"),
  "open": Step(_open, "scores of one method, searched targets"),
  "datamodels": Step(_datamodels, "opening the datamodels"),
  "predict": Step(_predict, "predictions of one method"),
  "evaluate": Step(_evaluate, "evaluation of one method"),
  "cases": Step(_cases, "cases of all methods"),
  "searches": Step(_searches, "both searches without training, their cases and tables"),
  "page": Step(_page, "report page"),
}


def run_step(step: str, folder: str) -> dict[str, Any]:
  """Runs one step in this process.

  Args:
    step: its name.
    folder: the workdir, written before unless this is the first step.

  Returns:
    step, seconds, cpu_seconds, peak_bytes of the process and added_bytes of the step.
  """
  run = open_run(folder)
  with contextlib.ExitStack() as stack:
    stack.enter_context(run.workdir.lock())
    work = _STEPS[step].prepare(run)
    before = measure.forget_peak()
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = measure.status_bytes("VmHWM")
    del result
  return {
    "step": step,
    "seconds": seconds,
    "cpu_seconds": cpu,
    "peak_bytes": peak,
    # The kernel counts pages of each thread in batches.
    "added_bytes": max(0, peak - before),
  }


def table(results: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  lines = ["step | | seconds | CPU seconds | peak GB | of these added"]
  lines.append(" | ".join(["---"] * 6))
  for r in results:
    peak, added = r["peak_bytes"] / 1e9, r["added_bytes"] / 1e9
    cells = f"{r['step']} | {_STEPS[r['step']].about} | {r['seconds']:,.1f} | "
    lines.append(f"{cells}{r['cpu_seconds']:,.1f} | {peak:.2f} | {added:.2f}")
  return "\n".join(f"| {line} |" for line in lines)


def _all_steps(folder: str, names: list[str]) -> list[dict[str, Any]]:
  """Measures steps one after another, each in a process of its own."""
  results = []
  for name in names:
    result = measure.run_child("experiments.bench.host", f"{name},{folder}")
    if not result:
      break  # Later steps read what earlier ones wrote.
    results.append(result)
    print(f"  {name}: {result['seconds']:.1f} s", file=sys.stderr)
  return results


def _size(run: Run) -> str:
  """What is measured, in words."""
  collect, search = run.experiment.collect, run.experiment.search
  return (
    f"n = {len(run.dataset.train_labels):,}, t = {len(run.dataset.test_labels):,}, "
    f"{collect.num_models:,} models, {collect.num_held_out:,} held-out subsets x "
    f"{collect.held_out_seeds}, {search.num_targets} searched targets, "
    f"{len(_names(run))} methods; {os.cpu_count()} CPU cores"
  )


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  program.check_no_arguments(argv)
  measure.check()
  names = STEPS.value or list(_STEPS)
  if unknown := set(names) - set(_STEPS):
    raise UserError(
      "steps", f"must be some of {', '.join(_STEPS)}, got {sorted(unknown)}"
    )
  if measure.CHILD.value:
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file.
    devices.use_all_devices()
    print(json.dumps(run_step(*measure.CHILD.value)))
    return
  with contextlib.ExitStack() as stack:
    make_folder = tempfile.TemporaryDirectory
    folder = experiment_flags.WORKDIR.value or stack.enter_context(make_folder())
    print(_size(open_run(folder)), flush=True)
    results = _all_steps(folder, [_FIRST, *(s for s in names if s != _FIRST)])
  print(table(results))
  measure.write(results)


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit(
    measure,
    extra=experiment_flags.PLACES + experiment_flags.SOURCES,
    groups=experiment_flags.GROUPS,
  )
  program.run(main)
