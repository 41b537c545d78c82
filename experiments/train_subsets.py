"""Trains the models: some on all data, many on random subsets.

  python -m experiments.train_subsets --workdir=runs/fashion

A killed run continues where it was. Several processes share the work with --shard=i/N,
or as one job with --distributed. Later stages: fit_datamodels, brittleness, label_flip;
`experiments.pipeline` runs them all.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.runtime import (
  base_models,
  first_look,
  forecast,
  launcher,
  processes,
  progress_bar,
  stages,
  unfinished,
  workdir_models,
)
from experiments.runtime.run import Run
from experiments.runtime.subset_models import SubsetModels
from jaxdm import identity, training_sets
from jaxdm.margins import Margins
from jaxdm.report import tables
from jaxdm.training.base_trainer import CHANGES, BaseTrainer
from jaxdm.training.collection import Collection, missing_in_store, missing_models

STAGE = "train_subsets"
GROUPS = ("data", "collect", "audit", "retrain", "network", "train", "gradient", "start")
_BLOCK_ROWS = 4096


def count_missing(run: Run) -> int:
  """Models that no process has stored yet; those on all data count as one."""
  return int(not base_models.exist(run)) + run.subsets.count_missing()


def _report_repeated(collection: Collection) -> None:
  """Says how many models are trained again for what was not predicted with them."""
  new = sum(map(len, missing_in_store(collection.store, collection.models)))
  if again := sum(map(len, missing_models(collection))) - new:
    print(
      f"{again} models of {collection.store.path.name} are trained again, to predict the "
      "training examples too"
    )


def check_stores(trainer: BaseTrainer, subsets: SubsetModels) -> None:
  """Opens the stores that exist; raises StoreError if one of them holds other models."""
  if trainer.has_store(CHANGES):
    _ = trainer.changes
  subsets.existing_collections()


def open_stores(run: Run) -> None:
  """Makes every store that does not exist, once those that exist are checked.

  Raises:
    StoreError: if one of those that exist holds other models; then none is made.
  """
  check_stores(run.trainer, run.subsets)
  run.subsets.make_collections()
  _ = run.trainer.changes


def main(run: Run, then: Callable[[Run], None] = lambda run: None) -> dict[str, Any]:
  """Fills the stores; returns what is worth knowing of the models.

  Args:
    run: the experiment.
    then: announces what follows, if there is anything to train here.

  Raises:
    WorkdirError: if the models are recorded as complete, and no store exists.
  """
  workdir_models.check_stores(run.workdir)
  share = processes.share()

  def prepare() -> None:
    if share[1] == 1 and not workdir_models.exist(run.workdir):
      # Which other settings may have begun.
      workdir_models.forget_empty_stores(run.workdir)
    open_stores(run)

  def work() -> dict[str, Any]:
    if count_missing(run):
      _announce(run, share)
      then(run)
    if share[0] == 0:
      tables.write_examples(run.workdir.path / "examples.csv", run.dataset)
    if share[0] == 0 and not base_models.exist(run):
      margins_rt = base_models.train_all(run).margins_rt
      labels = run.dataset.test_labels
      progress_bar.say(base_models.describe_accuracy(margins_rt, labels))
    collections = run.subsets.collections()
    for collection in collections:
      _report_repeated(collection)
      bar = run.bar(f"models of {collection.store.path.name}")
      if share[0] == 0 and collection.store is collections[0].store:
        bar = first_look.after_some(collection, bar)
      run.trainer.collect(collection, progress=bar)
    processes.wait_until(lambda: not count_missing(run), "its share of the models")
    if num_missing := count_missing(run):
      print(
        f"shard {share[0]}/{share[1]} is done; others have {num_missing} models to train"
      )
      return {stages.UNFINISHED: num_missing}
    # Of hosts that did not come back.
    unfinished.remove_checkpoints(run.workdir)
    return _summary(run)

  def lacks() -> str:
    count = count_missing(run)
    return f"{count} models are missing" if count else ""

  settings, inputs = _depends_on(run)
  return stages.run(
    run.workdir,
    STAGE,
    settings,
    work,
    inputs,
    files=(*tables.files_of("examples"), *tables.files_of("targets")),
    lacks=lacks,
    prepare=prepare,
    stored=lambda: workdir_models.stored(run.workdir),
  )


def begin(run: Run) -> None:
  """Records the settings of models that come from elsewhere, unless some are recorded."""
  stages.begin(run.workdir, STAGE, *_depends_on(run))


def _depends_on(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
  """All settings that the models depend on, and the digests of what they read."""
  inputs = {
    "models": identity.digest(run.trainer.identity()),
    "methods": identity.digest(sorted(base_models.score_names(run))),
  }
  return run.settings(*GROUPS), inputs


def _announce(run: Run, share: tuple[int, int]) -> None:
  """Says what is trained, and after the first steps how long it takes here."""
  collect, num_train = run.experiment.collect, len(run.dataset.train_labels)
  num_targets = len(run.dataset.test_labels)
  for line in forecast.describe(collect, num_train, num_targets):
    progress_bar.say(line)
  if share[0] == 0 and not base_models.exist(run):
    moments = run.experiment.gradient.moments if base_models.need_gradients(run) else 0
    base = collect.num_base, moments, num_train + num_targets
    run.announce(lambda *of_model: forecast.base_costs(*base, *of_model), num_train)
  count = sum(
    len(chunk)
    for collection in run.subsets.collections()
    for chunk in missing_models(collection, share)
  )
  numbers = collect.num_models, count, share[1]
  size = training_sets.subset_size(num_train, collect.alpha)
  run.announce(lambda seconds, _: forecast.costs(*numbers, seconds), size)


def _summary(run: Run) -> dict[str, Any]:
  """Says how good the models are, and lists the targets."""
  base = base_models.load(run)
  path = run.workdir.path / "targets.csv"
  tables.write_targets(path, base.margins_rt, run.dataset)
  parts = [run.subsets.fitted_rows(), *run.subsets.held_out_rows()]
  right = num_diverged = 0
  for margins_mt in itertools.chain(*(_blocks(part.margins_mt) for part in parts)):
    finite = np.isfinite(margins_mt).all(axis=1)
    num_diverged += int((~finite).sum())
    right += int((margins_mt[finite] > 0).sum())
  num_converged = sum(len(part.numbers) for part in parts) - num_diverged
  num_lost = run.experiment.collect.num_base - len(base.margins_rt)
  if num_lost or num_diverged:
    print(
      f"diverged, and left out of every fit: {num_lost} models on all data, "
      f"{num_diverged} on subsets"
    )
  outputs = base.margins_rt if base.logits_rtk is None else base.logits_rtk
  return {
    "num_train": len(run.dataset.train_labels),
    "num_targets": len(run.dataset.test_labels),
    "base_accuracy": float((base.margins_rt > 0).mean()),
    "subset_accuracy": right / max(1, num_converged * len(run.dataset.test_labels)),
    "diverged_models": num_lost + num_diverged,
    stages.OUTPUTS: {"base_models": identity.digest([outputs, base.scores])},
  }


def _blocks(margins_mt: Margins) -> Iterator[np.ndarray]:
  """Some rows at a time."""
  for start in range(0, len(margins_mt), _BLOCK_ROWS):
    yield margins_mt[start : start + _BLOCK_ROWS]


PROGRAM = launcher.Program(main, hold="shared", groups=GROUPS)

if __name__ == "__main__":
  PROGRAM.run()
