"""How good datamodels are by the number of models they cost, fitted in many ways.

  python -m experiments.studies.efficiency --workdir=runs/fashion --save=published@1200
  python -m experiments.brittleness --workdir=runs/fashion \\
      --scores=published=runs/fashion/efficiency.scores/published@1200.npy

Fits the first so many models of a finished train_subsets in every way of --ways, judges
each on the held-out models (LDS with 95 % intervals), says how many models each needs
for what the published method reaches with more, and draws efficiency.png. --save writes
the weights of some fits as scores, which experiments.brittleness puts to the other test:
the share of targets flipped, verified by retraining.

The published method is 'published': a lasso without a prior, penalties chosen on one
split. 'none' is the same with the preset's folds. 'ridge' and 'components' (ridge on
principal components of the margins) need scikit-learn: pip install -e '.[run,bench]'.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.config import settings as settings_lib
from experiments.config.number_lists import whole_numbers
from experiments.runtime import (
  base_models,
  datamodels,
  launcher,
  stages,
  subset_models,
)
from experiments.runtime.own_training import needs_networks
from experiments.runtime.run import Run
from experiments.runtime.workdir import Workdir
from jaxdm import identity, training_sets
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.model import predictions
from jaxdm.errors import UserError
from jaxdm.report import figures, page, tables
from jaxdm.storage import atomic_io, cache

STAGE = "efficiency"
GROUPS = ("fit",)
OTHERS = ("published", "ridge", "components", "adaptive", "denoised", "half-ridge")
WAYS = (*OTHERS[:1], *settings_lib.PRIORS, *OTHERS[1:])

SIZES = flags.DEFINE_list(
  "sizes", None, "Numbers of models; default: num_models / 16, / 8, / 4, / 2 and all."
)
SELECTION = flags.DEFINE_list(
  "ways",
  None,
  "Ways of fitting; default: published and the experiment's priors. All: "
  + ", ".join(WAYS),
)
SAVED = flags.DEFINE_list(
  "save", [], "Fits whose weights are written to WORKDIR/efficiency.scores: way@models."
)


class Problem(NamedTuple):
  """Some of the models, and what a fit may use beside them."""

  config: FitConfig
  data: Dataset
  scores: Mapping[str, np.ndarray]
  masks: training_sets.PackedMasks
  margins_mt: np.ndarray


class Point(NamedTuple):
  """One fit, judged."""

  way: str
  models: int
  lds: float
  low: float
  high: float


def lasso(problem: Problem, prior: priors.Prior, **changes: Any) -> np.ndarray:
  """Weights of a lasso."""
  config = dataclasses.replace(problem.config, **changes)
  fit = fit_datamodels(
    problem.masks, problem.margins_mt, config=config, candidates={"": prior}
  )
  return fit.weights_tn


def ridge(problem: Problem, margins_mt: np.ndarray | None = None) -> np.ndarray:
  """Weights of ridge regressions whose penalties leave-one-out chooses, one a target."""
  from sklearn import linear_model

  masks = problem.masks[:].astype(float)
  alphas = np.geomspace(1e-3, 30, 25) * len(masks)
  peer = linear_model.RidgeCV(alphas, alpha_per_target=True)
  peer.fit(masks, problem.margins_mt if margins_mt is None else margins_mt)
  return np.asarray(peer.coef_, np.float32)


def components(problem: Problem) -> np.ndarray:
  """Ridge on the margins' principal components: targets that move together share."""
  centred = problem.margins_mt - problem.margins_mt.mean(axis=0)
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  return axes.T @ ridge(problem, centred @ axes.T)


def denoise(problem: Problem) -> np.ndarray:
  """A lasso on margins less the main component of a first lasso's residuals.

  The luck of one model's initialisation moves the margins of many targets together.
  """
  first = lasso(problem, priors.Prior())
  residuals_mt = problem.margins_mt - predictions(problem.masks, first)
  residuals_mt -= residuals_mt.mean(axis=0)
  _, _, axes = np.linalg.svd(residuals_mt, full_matrices=False)
  shared = np.outer(residuals_mt @ axes[0], axes[0])
  return lasso(problem._replace(margins_mt=problem.margins_mt - shared), priors.Prior())


def weights(way: str, problem: Problem) -> dict[str, np.ndarray]:
  """Weights float32[t, n] of one of `WAYS`, by the name 'weights'."""
  return {"weights": _weights(way, problem)}


def _weights(way: str, problem: Problem) -> np.ndarray:
  """The same."""
  if way == "published":
    return lasso(problem, priors.Prior(), folds=1)
  if way == "ridge":
    return ridge(problem)
  if way == "components":
    return components(problem)
  if way == "half-ridge":
    return (lasso(problem, priors.Prior()) + components(problem)) / 2
  if way == "denoised":
    return denoise(problem)
  if way == "adaptive":
    first = lasso(problem, priors.Prior())
    return lasso(problem, priors.Prior(priors.by_size(first)))
  labels = problem.data.train_labels, problem.data.test_labels
  return lasso(problem, datamodels.prior_of(way, *labels, problem.scores))


def evaluate(
  way: str,
  models: int,
  weights_tn: np.ndarray,
  held_out: tuple[training_sets.PackedMasks, np.ndarray],
) -> Point:
  """The LDS of weights; 0 models: scores that need none on subsets."""
  quality = evaluate_scores(weights_tn, *held_out)
  return Point(way, models, *quality.lds)


def models_needed(curve: Mapping[int, float], lds: float) -> float | None:
  """Models at which a curve reaches an LDS, between its points by their logarithms."""
  sizes = sorted(curve)
  for before, after in zip([None, *sizes], sizes, strict=False):
    if curve[after] >= lds:
      if before is None:
        return after  # Or fewer.
      place = (lds - curve[before]) / (curve[after] - curve[before])
      return float(np.exp((1 - place) * np.log(before) + place * np.log(after)))
  return None


def savings(points: list[Point]) -> dict[str, dict[int, float | None]]:
  """How many times fewer models each way needs than the published one, by its size."""
  curves: dict[str, dict[int, float]] = {}
  for point in points:
    if point.models:
      curves.setdefault(point.way, {})[point.models] = point.lds
  published = curves.get("published", {})
  ratios: dict[str, dict[int, float | None]] = {}
  for way, curve in curves.items():
    sizes = {m: models_needed(curve, lds) for m, lds in published.items()}
    ratios[way] = {m: round(m / k, 1) if k else None for m, k in sizes.items()}
  return ratios


def _sizes_and_ways(experiment: settings_lib.Experiment) -> tuple[list[int], list[str]]:
  """Sizes and ways of the flags.

  Raises:
    UserError: on any that cannot be fitted or compared.
  """
  most, fit = experiment.collect.num_models, experiment.fit
  if most < 10:
    raise UserError("num_models", f"={most} of this workdir are too few; 10 are needed")
  share = min(fit.validation_share, 1 - fit.validation_share)
  least = min(most, max(10, 2 * fit.folds, math.ceil(2 / share)))
  texts = SIZES.value or [str(max(least, most // 2**i)) for i in range(5)]
  allowed = f"numbers from 10 to num_models={most}"
  sizes = whole_numbers("sizes", texts, allowed, least=10, most=most)
  ways = SELECTION.value or ["published", *experiment.prior.priors.split(",")]
  unknown = set(ways) - set(WAYS)
  if unknown:
    raise UserError("ways", f"must be some of {', '.join(WAYS)}, got {sorted(unknown)}")
  fits = {f"{way}@{size}" for way in ways for size in texts}
  unknown = set(SAVED.value) - fits
  if unknown:
    raise UserError("save", f"must be fits that are made, got {sorted(unknown)}")
  return sorted(set(sizes)), ways


def main(run: Run) -> dict[str, Any]:
  """Fits and judges; a killed run continues with the next fit."""
  settings, inputs = run.settings(*GROUPS), run.inputs("train_subsets")
  sizes, ways = _sizes_and_ways(run.experiment)
  _check_scores(ways, base_models.score_names(run))
  # Of one fit, beside the models that it is fitted to.
  depends_on = settings | {"base_models": inputs["base_models"]}

  def work() -> dict[str, Any]:
    points = _fit_all(run, sizes, ways, depends_on)
    _write(run.workdir, points)
    return {"times_fewer_models": savings(points)}

  flags_given = {"sizes": sizes, "ways": ways, "save": SAVED.value}
  saved = map(_scores_file, SAVED.value)
  return stages.run(
    run.workdir,
    STAGE,
    settings | {"efficiency": flags_given},
    work,
    inputs,
    files=(*tables.files_of(STAGE), f"{STAGE}.png", *saved),
  )


def _check_scores(ways: list[str], names: Sequence[str]) -> None:
  """Raises UserError on ways of fitting whose scores are not computed."""
  needed = [way for way in ways if way in settings_lib.PRIORS and needs_networks(way)]
  lacking = [way for way in needed if way.partition("+")[0] not in names]
  if lacking:
    raise UserError(
      "ways",
      f": {', '.join(lacking)} need scores of networks, which --retrain does not give",
    )


def _fit_all(
  run: Run, sizes: list[int], ways: list[str], depends_on: Mapping[str, Any]
) -> list[Point]:
  """Every fit, judged; and writes the weights of some."""
  scores = base_models.load(run).scores
  masks, margins_mt = subset_models.load_converged(run.subsets.fitted_rows())
  held_out = subset_models.join(run.subsets.held_out_rows())
  # Not relabel, which scores another change.
  names = [name for name in scores if name in settings_lib.METHODS]
  points = [evaluate(name, 0, scores[name], held_out) for name in names]
  bar, total = run.bar(STAGE, unit="fit"), len(sizes) * len(ways)
  for i, (size, way) in enumerate((m, way) for m in sizes for way in ways):
    rows = np.arange(min(size, len(margins_mt)))
    problem = Problem(
      run.experiment.fit, run.dataset, scores, masks.take(rows), margins_mt[rows]
    )
    cache, name = _parts(run.workdir, problem, depends_on), f"{way}@{size}"
    arrays = cache(name, functools.partial(weights, way, problem))
    if name in SAVED.value:
      path = run.workdir.path / _scores_file(name)
      atomic_io.make_folder(path.parent)
      with atomic_io.writing(path) as file:
        np.save(file, arrays["weights"])
    points.append(evaluate(way, size, arrays["weights"], held_out))
    bar(i + 1, total)
  return points


def _scores_file(name: str) -> str:
  """The file of a fit that is saved, in the workdir."""
  return f"efficiency.scores/{name}.npy"


def _parts(
  workdir: Workdir, problem: Problem, depends_on: Mapping[str, Any]
) -> cache.Cache:
  """The stored fits to these models; those to others, or of other settings, stay."""
  rows = identity.digest([problem.masks, problem.margins_mt])
  of = {**depends_on, "rows": rows}
  return cache.Cache(workdir.path / "efficiency.parts" / cache.name_of(of), of)


def _write(workdir: Workdir, points: list[Point]) -> None:
  """The table, on the screen and as efficiency.csv, and the figure."""
  tables.write_rows(workdir.path / "efficiency.csv", Point._fields, points)
  for p in points:
    estimate = f"{p.lds:.3f} [{p.low:.3f}, {p.high:.3f}]"
    print(f"{p.way:>16} {p.models:>7} models: LDS {estimate}")
  picture = page.png(figures.efficiency([p._asdict() for p in points]))
  with atomic_io.writing(workdir.path / "efficiency.png") as file:
    file.write(picture)


PROGRAM = launcher.Program(main, groups=GROUPS)

if __name__ == "__main__":
  PROGRAM.run()
