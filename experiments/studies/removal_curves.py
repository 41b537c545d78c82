"""What equal numbers of removals do to the margin, by who chose the images.

  python -m experiments.studies.removal_curves --workdir=runs/fashion \\
      --curve_sizes=12,25 --methods=influence,datamodel,random

A search says how few removals are enough; this asks every method for as many, which
tells methods apart that flip the same targets. Trains fresh models for every target,
method and size, on the same seeds, writes their mean margins to removal_curves.csv and
prints the mean over targets, and each method's difference from the first one with its
standard error: targets are the sample.
"""

from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.config.number_lists import whole_numbers
from experiments.runtime import base_models, launcher, methods, search_targets, stages
from experiments.runtime.run import Run
from jaxdm import prng
from jaxdm.attribution import registry
from jaxdm.brittleness import removals
from jaxdm.brittleness.cases import largest_change, make_cases
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.retraining import TrainChanges
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.report import tables

SIZES = flags.DEFINE_list(
  "curve_sizes",
  None,
  "Numbers of images to remove; default: half of the largest removal that a search tries "
  "(--max_share), and all of it.",
)
MODELS = flags.DEFINE_integer(
  "curve_models", 8, "Models trained for each target, method and size.", lower_bound=1
)
STAGE = "removal_curves"
_ALL = 1 - 1e-9  # Of a class.


class Row(NamedTuple):
  """One target after one removal.

  Attributes:
    target: its index.
    method: who chose the examples.
    removed: how many.
    mean_margin: of the models that did not diverge, in logits.
    models: how many those are.
  """

  target: int
  method: str
  removed: int
  mean_margin: float
  models: int


def _sizes(data: Dataset, targets: np.ndarray, max_share: float) -> list[int]:
  """What --curve_sizes asks for.

  Raises:
    UserError: on sizes that the smallest of the targets' classes does not hold.
  """
  labels = data.test_labels[targets]
  size = int(np.bincount(data.train_labels)[labels].min())
  most = min(largest_change(data.train_labels, k, max_share) for k in set(labels))
  if size < 2:
    raise UserError(
      "search_targets",
      "must be of classes with two training images and more, one of which "
      "stays; here is a target whose class has one",
    )
  texts = SIZES.value or [str(max(1, most // 2)), str(most)]
  allowed = f"numbers in [1, {size})"
  return sorted(set(whole_numbers("curve_sizes", texts, allowed, most=size - 1)))


def train(run: Run, targets: np.ndarray, sizes: list[int]) -> list[Row]:
  """Trains all of them, a method at a time."""
  names, data = run.experiment.compare.names, run.dataset
  scores = methods.scores(run, names)
  count = MODELS.value
  edit, t = removals.without_first(data.train_labels), len(data.test_labels)
  remove, seeds = TrainChanges(run.trainer, edit, t), prng.model_seeds("curve", count)
  rows = []
  for method in names:
    cases = make_cases(
      method,
      scores[method],
      targets,
      data.train_labels,
      data.test_labels,
      config=SearchConfig(max_share=_ALL),
      same_class=not registry.all_classes(method),
    )
    changes = [(case, k) for case in cases for k in sizes]
    margins_m = remove(
      [pair for pair in changes for _ in seeds],
      np.tile(seeds, len(changes)),
      progress=run.bar(f"removals by {method}"),
    )
    groups = margins_m.reshape(len(changes), count)
    for (case, k), group in zip(changes, groups, strict=True):
      finite = group[np.isfinite(group)]
      mean = float(finite.mean()) if finite.size else np.nan
      rows.append(Row(case.target, method, k, mean, len(finite)))
  return rows


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
  """Means over targets, by method and size, and differences from the first method.

  Returns:
    One mapping a method and size: method, removed, mean_margin, share of targets with a
    mean margin of at most 0, and difference with standard_error, of the pairs of targets.
  """
  curves: dict[tuple[str, int], dict[int, float]] = {}
  for row in rows:
    curves.setdefault((row.method, row.removed), {})[row.target] = row.mean_margin
  first, summary = rows[0].method, []
  for (method, k), means in curves.items():
    means_t = np.array(list(means.values()))
    pairs = means_t - np.array([curves[first, k][target] for target in means])
    error = float(pairs.std(ddof=1) / np.sqrt(len(pairs))) if len(pairs) > 1 else np.nan
    summary.append(
      {
        "method": method,
        "removed": k,
        "mean_margin": float(means_t.mean()),
        "flipped": float((means_t <= 0).mean()),
        "difference": float(pairs.mean()),
        "standard_error": error,
      }
    )
  return summary


def main(run: Run) -> dict[str, Any]:
  """Trains, writes the table, sums it up."""
  inputs = run.inputs("train_subsets", "fit_datamodels")
  base_margins_rt = base_models.load(run).margins_rt
  search, compare = run.experiment.search, run.experiment.compare
  targets = search_targets.choose_right(base_margins_rt, search, compare)
  sizes = _sizes(run.dataset, targets, search.max_share)

  def work() -> dict[str, Any]:
    rows = train(run, targets, sizes)
    sources = run.dataset.test_sources
    tables.write_rows(
      run.workdir.path / f"{STAGE}.csv",
      (*Row._fields, "target_source"),
      [(*row, sources[row.target]) for row in rows],
    )
    summary = summarise(rows)
    print(f"{'method':<12}{'removed':>8}{'margin':>9}{'flipped':>9}  less the first's")
    for s in summary:
      difference = "{difference:+.2f} +- {standard_error:.2f}".format(**s)
      numbers = "{removed:>8}{mean_margin:>9.2f}{flipped:>9.2f}".format(**s)
      print(f"{s['method']:<12}{numbers}  {difference}")
    return {"targets": len(targets), "curves": summary}

  # A group of its own: what is compared here is not what a search compares.
  groups = run.settings("search", "compare").values()
  settings = {key: value for group in groups for key, value in group.items()}
  settings |= {"curve_sizes": sizes, "curve_models": MODELS.value}
  files = tables.files_of(STAGE)
  return stages.run(run.workdir, STAGE, {STAGE: settings}, work, inputs, files=files)


PROGRAM = launcher.Program(main, hold="job", groups=("search", "compare"))

if __name__ == "__main__":
  PROGRAM.run()
