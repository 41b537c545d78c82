"""Influence functions by moments of training, models on all data, and damping.

  python -m experiments.studies.moments --workdir=runs/fashion --gradient_dim=1024

Trains models on all data again, computes influence functions at many moments of their
training, and judges the means of some of these on the workdir's held-out models: a table
of LDS, also written to the workdir as moments.csv. Rows for fewer models than
--most_models are means over up to four disjoint groups of models.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.runtime import launcher, stages, subset_models
from experiments.runtime.run import Run
from jaxdm import progress as progress_lib
from jaxdm.attribution import full_data, gradient
from jaxdm.attribution.registry import METHODS
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.errors import UserError
from jaxdm.report import tables
from jaxdm.training.trainer import Trainer

STAGE = "moments"
MOST_MODELS = flags.DEFINE_integer(
  "most_models", 32, "Number of models on all data.", lower_bound=1
)
COUNTS = flags.DEFINE_list(
  "moment_counts", ["1", "2", "4", "6", "12", "24"], "Numbers of even moments to compare."
)
DAMPINGS = flags.DEFINE_list(
  "dampings", ["0.1", "0.2", "0.5", "1"], "Dampings to compare."
)
_GROUPS = 4


class Point(NamedTuple):
  """The LDS of one mean of influence functions."""

  gradient_dim: int
  models: int
  moments: int
  damping: float
  lds: float


def group_sizes(most: int) -> list[int]:
  """Numbers of models to compare: 1, 4, 16, ... and all."""
  return sorted({4**i for i in range(most) if 4**i < most} | {most})


def model_scores(
  trainer: Trainer,
  counts: list[int],
  dampings: list[float],
  most: int,
  progress: progress_lib.Progress = progress_lib.silent,
) -> dict[tuple[int, float], np.ndarray]:
  """By number of moments and damping, each model's mean scores, float32[r, t, n].

  Those of models that diverged are NaN. All stay in memory.
  """
  t, n = len(trainer.target_labels), len(trainer.labels)
  keys = list(itertools.product(counts, dampings))
  total = {key: np.zeros((most, t, n), np.float32) for key in keys}
  at = {count: full_data.even_moments(count) for count in counts}
  needed = {moment for moments in at.values() for moment in moments}
  first = 0
  terms_of = METHODS["influence"].terms
  assert terms_of is not None
  for snapshots in full_data.snapshots(trainer, most, needed):
    for i, one in enumerate(snapshots, first):
      for damping in dampings:
        [term] = terms_of(one, damping)
        scores_tn = np.asarray(term.score(term.train_rows, term.target_rows))
        for count in counts:
          if one.moment in at[count]:
            total[count, damping][i] += scores_tn / count
    if snapshots[0].moment == 1:
      first += len(snapshots)
      progress(first, most)
  return total


def without_diverged(
  scores_of: dict[tuple[int, float], np.ndarray],
) -> tuple[dict[tuple[int, float], np.ndarray], int]:
  """Scores of `model_scores` of the models whose scores are all finite; their number.

  Raises:
    UserError: if there are none.
  """
  finite = [np.isfinite(scores).all(axis=(1, 2)) for scores in scores_of.values()]
  [kept] = np.nonzero(np.all(finite, axis=0))
  if not kept.size:
    raise UserError("peak_learning_rate", "is too large: all models on all data diverged")
  return {key: scores[kept] for key, scores in scores_of.items()}, len(kept)


def main(run: Run) -> dict[str, Any]:
  """Trains, judges, writes the table."""
  trainer = run.networks
  if trainer is None:
    raise UserError("retrain", ": this study needs the gradients of networks")
  for flag in (COUNTS, DAMPINGS):
    if not all(_is_positive(text, whole=flag is COUNTS) for text in flag.value):
      raise UserError(flag.name, f"must be positive numbers, got {flag.value}")
  counts, dampings = [int(x) for x in COUNTS.value], [float(x) for x in DAMPINGS.value]
  for damping in dampings:
    gradient.check_damping(damping)
  most, dim = MOST_MODELS.value, run.experiment.gradient.gradient_dim

  def work() -> dict[str, Any]:
    held_out = subset_models.join(run.subsets.held_out_rows())
    scores_of = model_scores(trainer, counts, dampings, most, run.bar(STAGE))
    trainer.fleet.settle()
    scores_of, models = without_diverged(scores_of)
    if models < most:
      print(f"note: {most - models} models diverged and are left out")
    points = []
    for (count, damping), scores_rtn in scores_of.items():
      for size in group_sizes(models):
        starts = range(0, min(models, _GROUPS * size) - size + 1, size)
        means = [scores_rtn[start : start + size].mean(axis=0) for start in starts]
        lds = [evaluate_scores(mean, *held_out).lds.estimate for mean in means]
        points.append(Point(dim, size, count, damping, round(float(np.mean(lds)), 4)))
    points.sort()
    tables.write_rows(run.workdir.path / f"{STAGE}.csv", Point._fields, points)
    print("\n".join(_lines(points, dampings)))
    return {"best": max(points, key=lambda point: point.lds)._asdict()}

  # A group of its own, since the experiment's gradients may have other dimensions.
  settings = {
    STAGE: {
      "most_models": most,
      "moment_counts": counts,
      "dampings": dampings,
      "gradient_dim": dim,
    }
  }
  inputs, files = run.inputs("train_subsets"), tables.files_of(STAGE)
  return stages.run(run.workdir, STAGE, settings, work, inputs, files=files)


def _is_positive(text: str, *, whole: bool) -> bool:
  """Whether a text is a positive number, or a positive whole number."""
  try:
    return (int(text) if whole else float(text)) > 0
  except ValueError:
    return False


def _lines(points: list[Point], dampings: list[float]) -> list[str]:
  """A Markdown table, one column a damping."""
  head = ["models", "moments", *(f"damping {damping}" for damping in dampings)]
  rows = [head, ["---"] * len(head)]
  for (models, count), row in itertools.groupby(points, lambda p: (p.models, p.moments)):
    cells = {point.damping: f"{point.lds:.3f}" for point in row}
    rows.append([str(models), str(count), *(cells[damping] for damping in dampings)])
  return [f"| {' | '.join(row)} |" for row in rows]


PROGRAM = launcher.Program(main, groups=("gradient",))

if __name__ == "__main__":
  PROGRAM.run()
