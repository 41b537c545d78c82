"""Trains the models: some on all data, many on random subsets.

  python -m experiments.train_subsets --workdir=runs/fashion

A killed run continues where it was. Several processes share the work with --shard=i/N,
or as one job with --distributed. Later stages: fit_datamodels, brittleness, label_flip;
`experiments.pipeline` runs them all.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.runtime import base_models, lab, launcher, processes, workdir
from jaxdm.attribution.registry import from_full_data
from jaxdm.margins import Margins
from jaxdm.report import tables
from jaxdm.storage import atomic_io, identity
from jaxdm.training.collection import missing

STAGE = "train_subsets"
GROUPS = ("data", "collect", "network", "train", "gradient")
_BLOCK_ROWS = 4096


def lacking(opened: lab.Lab) -> int:
  """Models that no process has stored yet; those on all data count as one."""
  found = int(not base_models.exist(opened))
  for collection in opened.collections():
    chunks = missing(collection.store, collection.models)
    found += sum(len(chunk) for chunk in chunks)
  return found


def main(opened: lab.Lab) -> dict[str, Any]:
  """Fills the stores; returns what is worth knowing of the models."""
  shard = processes.mine()

  def work() -> dict[str, Any]:
    if shard[1] == 1 and not opened.holds_models():
      opened.forget_empty_stores()  # Which other settings may have begun.
    opened.open_stores()
    if shard[0] == 0:
      tables.write_examples(opened.workdir.path / "examples.csv", opened.dataset)
    if shard[0] == 0 and not base_models.exist(opened):
      base_models.train_all(opened)
    for collection in opened.collections():
      bar = opened.bar(f"models of {collection.store.path.name}")
      opened.trainer.collect(collection, shard=shard, progress=bar)
    processes.wait_until(lambda: not lacking(opened), "its share of the models")
    if left := lacking(opened):
      print(f"shard {shard[0]}/{shard[1]} is done; others have {left} models to train")
      return {workdir.UNFINISHED: left}
    # Of hosts that did not come back.
    atomic_io.remove_folder(opened.workdir.path / "checkpoints")
    return _summary(opened)

  settings = opened.settings(*GROUPS) | {"start": {"preset": opened.preset}}
  inputs = {
    "models": identity.digest(opened.trainer.identity()),
    "methods": identity.digest(sorted(from_full_data())),
  }
  return opened.workdir.run(
    STAGE, settings, work, inputs, left_something=opened.holds_models
  )


def _summary(opened: lab.Lab) -> dict[str, Any]:
  """Says how good the models are, and lists the targets."""
  base = base_models.load(opened)
  path = opened.workdir.path / "targets.csv"
  tables.write_targets(path, base.margins_rt, opened.dataset)
  parts = [opened.fitted_rows(), *opened.held_out_rows()]
  right = diverged = 0
  for margins_mt in itertools.chain(*(_blocks(part.margins_mt) for part in parts)):
    finite = np.isfinite(margins_mt).all(axis=1)
    diverged += int((~finite).sum())
    right += int((margins_mt[finite] > 0).sum())
  converged = sum(len(part.numbers) for part in parts) - diverged
  num_lost = opened.experiment.collect.num_base - len(base.margins_rt)
  if num_lost or diverged:
    print(
      f"diverged, and left out of every fit: {num_lost} models on all data, "
      f"{diverged} on subsets"
    )
  return {
    "num_train": len(opened.labels),
    "num_targets": len(opened.target_labels),
    "base_accuracy": float((base.margins_rt > 0).mean()),
    "subset_accuracy": right / max(1, converged * len(opened.target_labels)),
    "diverged_models": num_lost + diverged,
    workdir.OUTPUTS: {"base_models": identity.digest([base.logits_rtk, base.scores])},
  }


def _blocks(margins_mt: Margins) -> Iterator[np.ndarray]:
  """Some rows at a time."""
  for start in range(0, len(margins_mt), _BLOCK_ROWS):
    yield margins_mt[start : start + _BLOCK_ROWS]


PROGRAM = launcher.Program(main, hold="shared")

if __name__ == "__main__":
  PROGRAM.run()
