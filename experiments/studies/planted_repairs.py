"""Whether repairs of wrong predictions name wrong labels: errors are planted and counted.

  python -m experiments.studies.planted_repairs --workdir=runs/planted

changes the labels of some training examples to any other class, and then does what
`experiments.train_subsets`, `fit_datamodels` and `repair` do, on targets with right
labels: each set of errors has a workdir of its own in WORKDIR/planted_repairs. The table
says, by method and change: which share of the examples that repairs name have planted
errors; that share among all examples without the target's label, to compare; how many
repairs name a planted error; and how many of the planted errors some repair names.
Settings of the experiment are flags, as for `experiments.pipeline`. A study that was
killed goes on where it stopped.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import fit_datamodels, repair, train_subsets
from experiments.config import experiment_flags, number_lists
from experiments.runtime import launcher, stages
from experiments.runtime.run import Run, make_run
from experiments.runtime.workdir import Workdir
from experiments.studies.noisy_labels import plant_errors
from jaxdm import identity
from jaxdm.brittleness import verification
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.report import tables

RATES = flags.DEFINE_list(
  "planted_rates", ["0.05", "0.1"], "Shares of the labels that are wrong."
)
SEEDS = flags.DEFINE_integer(
  "planted_seeds", 3, "Choices of the wrong labels, and of the models' seed.", 1
)
STAGE = "planted_repairs"


class Row(NamedTuple):
  """What the repairs of one method name, in one set of errors; see `csv_columns`."""

  rate: float
  seed: int
  change: str
  method: str
  targets: int
  repaired: int
  named: int
  named_errors: int
  by_chance: float
  repairs_with_errors: int
  found: int
  planted: int


def count(
  verdicts: list[Verdict],
  is_error: np.ndarray,
  labels: np.ndarray,
  target_labels: np.ndarray,
) -> dict[str, Any]:
  """The fields of `Row` from 'targets' on, of one method's verdicts.

  Args:
    verdicts: of all targets.
    is_error: bool[n], which labels are planted errors.
    labels: int[n], with the errors.
    target_labels: int[t].
  """
  repairs = [v for v in verdicts if not v.censored]
  named = [np.array(v.examples[: v.k], int) for v in repairs]
  others = [is_error[labels != target_labels[v.target]].mean() for v in repairs]
  together = np.concatenate([np.zeros(0, int), *named])
  return {
    "targets": len(verdicts),
    "repaired": len(repairs),
    "named": len(together),
    "named_errors": int(is_error[together].sum()),
    "by_chance": float(np.mean(others)) if others else float("nan"),
    "repairs_with_errors": sum(bool(is_error[one].any()) for one in named),
    "found": int(is_error[np.unique(together)].sum()),
    "planted": int(is_error.sum()),
  }


def study_case(run: Run, rate: float, seed: int) -> list[Row]:
  """Repairs of one set of errors, in a workdir of its own."""
  data = run.dataset
  right = data.train_labels
  noisy = plant_errors(right, rate, seed, data.num_classes, np.zeros(0, int))
  experiment = dataclasses.replace(
    run.experiment, collect=dataclasses.replace(run.experiment.collect, seed=seed)
  )
  workdir = Workdir(run.workdir.path / STAGE / f"{rate:g}-{seed}")
  planted = dataclasses.replace(data, train_labels=noisy)
  case = make_run(
    workdir, experiment, planted, experiment_flags.speed(), preset=run.preset
  )
  with workdir.lock():
    for stage in (train_subsets, fit_datamodels, repair):
      stage.main(case)
  rows = []
  for change, verdicts in repair.read_verdicts(workdir).items():
    for method in dict.fromkeys(v.method for v in verdicts):
      own = [v for v in verdicts if v.method == method]
      counts = count(own, noisy != right, noisy, data.test_labels)
      rows.append(Row(rate, seed, change, method, **counts))
  return rows


def table(rows: list[Row]) -> str:
  """Sums over seeds, as Markdown."""
  lines = [
    "| errors | change | method | repaired | named: errors | by chance | repairs with "
    "errors | errors found |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for key in dict.fromkeys((row.rate, row.change, row.method) for row in rows):
    own = [row for row in rows if (row.rate, row.change, row.method) == key]

    def total(name: str, own: list[Row] = own) -> int:
      return sum(getattr(row, name) for row in own)

    chances = [row.by_chance for row in own if row.repaired]
    weights = [row.repaired for row in own if row.repaired]
    chance = f"{np.average(chances, weights=weights):.2f}" if chances else ""
    named = total("named")
    share = f"{total('named_errors') / named:.2f} of {named}" if named else ""
    rate, change, method = key
    lines.append(
      f"| {rate:.0%} | {change} | {method} | {total('repaired')} of {total('targets')} | "
      f"{share} | {chance} | {total('repairs_with_errors')} | "
      f"{total('found')} of {total('planted')} |"
    )
  return "\n".join(lines)


def main(run: Run) -> dict[str, Any]:
  """Studies all sets of errors, and prints the table."""
  rates = number_lists.shares("planted_rates", RATES.value, below=0.5)
  groups = *train_subsets.GROUPS, *fit_datamodels.GROUPS, "search", "compare"

  def work() -> dict[str, Any]:
    rows = [
      row
      for rate in rates
      for seed in range(SEEDS.value)
      for row in study_case(run, rate, seed)
    ]
    tables.write_rows(run.workdir.path / f"{STAGE}.csv", Row._fields, rows)
    print(table(rows))
    return {"sets of errors": len(rates) * SEEDS.value}

  # One group, so that nothing here is taken for a setting of the workdir's models.
  settings = run.settings(*dict.fromkeys(groups))
  options = {"rates": rates, "seeds": SEEDS.value, "settings": settings}
  files = tables.files_of(STAGE)
  inputs = {
    "models": identity.digest(run.trainer.identity()),
    "verification rules": str(verification.RULES_VERSION),
  }
  return stages.run(run.workdir, STAGE, {STAGE: options}, work, inputs, files=files)


PROGRAM = launcher.Program(main)

if __name__ == "__main__":
  PROGRAM.run()
