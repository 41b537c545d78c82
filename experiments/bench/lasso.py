"""Times the lasso solver beside scikit-learn, celer and skglm.

  python -m experiments.bench.lasso --json=bench_lasso.json           (extra `bench`)

All sides solve the same paths of penalties on the same planted data, each in a process
of its own, one at a time, with all cores. What is judged is the objective at the returned
weights, in float64: how much larger it is than the smallest one known, relative to the
objective at 0. The smallest one is what scikit-learn's coordinate descent reaches at a
tolerance of 1e-12. Each side's tolerance, whatever it means to that side, is the loosest
of 1, 2 and 5 times the powers of ten that comes as close as asked for on the targets that
are judged, the first twelve. Times under two seconds are medians of up to five. Peers
solve one target after another, so that --peer_targets may time some of them; their time
is then given in proportion. Memory is what a second run adds at its peak (Linux); ours,
that of jaxdm.fit_lasso at the path's middle, which is what `plan.choose` announces.

  jaxdm    all targets at once
  sklearn  lasso_path on the precomputed Gram, joblib over targets
  celer    celer_path, joblib over targets
  skglm    AndersonCD warm-started along the path, joblib over targets
  saga     minibatch SAGA on all targets at once; for GPUs, and only if --sides names it
"""

import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments.bench import measure
from experiments.runtime import program
from jaxdm.errors import UserError

SHAPES = flags.DEFINE_list(
  "shapes",
  ["300x1600x500", "1500x6000x500", "1500x1500x300", "4000x2000x200"],
  "Columns x rows x targets.",
)
DISTANCES = flags.DEFINE_list(
  "distances", ["1e-4", "1e-6"], "Distances of the objective from its smallest, to reach."
)
PATH_POINTS = flags.DEFINE_integer("path_points", 30, "Penalties of every path.", 1)
PATH_END = flags.DEFINE_float("path_end", 0.02, "End of every path over its start.")
PEER_TARGETS = flags.DEFINE_integer(
  "peer_targets", None, "Targets that peers are timed on; all by default."
)
FORM = flags.DEFINE_enum("form", None, ["gram", "rows", "bits"], "Of the design; ours.")
_CHECKED_TARGETS = 12
_REFERENCE_TOL = 1e-12
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Case:
  """Planted lassos: 5 % of the weights are not 0, and explain 40 % of the variance.

  Attributes:
    masks: bool[m, n].
    outcomes: float64[m, t].
    lam_lt: float64, penalties.
    best_lt: float64, the smallest objectives known of the first targets, over those at 0.
  """

  masks: np.ndarray
  outcomes: np.ndarray
  lam_lt: np.ndarray
  best_lt: np.ndarray

  def first(self, t: int) -> "Case":
    """Its first t targets."""
    parts = self.outcomes[:, :t], self.lam_lt[:, :t], self.best_lt[:, :t]
    return Case(self.masks, *parts)


def _parts(rows: int) -> list[slice]:
  """Slices of rows, so that no copy of a large design is made whole."""
  return [slice(i, min(i + _BLOCK_ROWS, rows)) for i in range(0, rows, _BLOCK_ROWS)]


def planted(shape: str) -> Case:
  """The case of a shape such as 300x1600x500."""
  n, m, t = (int(part) for part in shape.split("x"))
  rng = np.random.default_rng(0)
  parts = _parts(m)
  drawn = (rng.random((part.stop - part.start, n), np.float32) for part in parts)
  masks = np.concatenate([draw < 0.5 for draw in drawn])
  weights = rng.normal(size=(t, n)) * (rng.random((t, n)) < 0.05)
  weights_nt = weights.astype(np.float32).T
  signal = np.concatenate([masks[part].astype(np.float32) @ weights_nt for part in parts])
  spread_t = np.where(signal.std(axis=0) > 0, signal.std(axis=0), 1.0)
  outcomes = signal + rng.normal(size=(m, t)) * spread_t * 1.5**0.5
  centred = outcomes - outcomes.mean(axis=0)
  products = sum(masks[part].astype(np.float32).T @ centred[part] for part in parts)
  top_t = np.abs(products).max(axis=0) / m
  ratios = np.geomspace(1, PATH_END.value, PATH_POINTS.value)
  return Case(masks, outcomes, ratios[:, None] * top_t, np.zeros((len(ratios), 0)))


def objectives(case: Case, weights_ltn: np.ndarray) -> np.ndarray:
  """Objectives of the first targets, over those at 0, in float64, as [l, t]."""
  mean_n, m = case.masks.mean(axis=0), len(case.masks)
  weights_ltn = weights_ltn[:, :_CHECKED_TARGETS].astype(np.float64)
  t = weights_ltn.shape[1]
  y_mt = case.outcomes[:, :t] - case.outcomes[:, :t].mean(axis=0)
  square_lt = np.float64(0)
  for part in _parts(m):
    left_ltm = y_mt[part].T - weights_ltn @ (case.masks[part] - mean_n).T
    square_lt = square_lt + (left_ltm**2).sum(axis=2) / m
  sizes_lt = np.abs(weights_ltn).sum(axis=2)
  null_t = (y_mt**2).sum(axis=0) / m / 2
  return np.asarray((square_lt / 2 + case.lam_lt[:, :t] * sizes_lt) / null_t)


def largest_distance(case: Case, weights_ltn: np.ndarray) -> float:
  """From the smallest objectives known, over the path and the first targets."""
  found_lt = objectives(case, weights_ltn)
  return float((found_lt - case.best_lt[:, : found_lt.shape[1]]).max())


def smallest_objectives(case: Case) -> np.ndarray:
  """What scikit-learn's coordinate descent reaches for the first targets, as [l, t]."""
  few = case.first(_CHECKED_TARGETS)
  return objectives(few, _SIDES["sklearn"](few, _REFERENCE_TOL)[0])


def _plan(case: Case) -> Any:
  """Ours."""
  from jaxdm.lasso import plan as plan_lib

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  form: Any = FORM.value
  return plan_lib.choose(m, n, t, is_bool=True, form=form)


def _announced_bytes(case: Case) -> int:
  """The peak memory that our plan expects."""
  from jaxdm.lasso import plan as plan_lib

  return plan_lib.peak_bytes(_plan(case), *case.masks.shape)


def _jaxdm(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """All targets in tiles; the tolerance is the gap itself."""
  from jaxdm.lasso import solver, tiling

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  plan = _plan(case)
  made = solver.Solver(case.masks, np.arange(m), plan)
  checked = min(t, _CHECKED_TARGETS)
  weights, steps = np.zeros((len(case.lam_lt), checked, n), np.float32), 0
  for part in tiling.tiles(t, plan.tile):
    tile, state = made.tile(case.outcomes[:, part]), None
    for row, lam_t in zip(weights, case.lam_lt[:, part], strict=True):
      state = made.solve(tile, lam_t, state, tol=tol, limit=20_000)
      some_tn = np.asarray(state.w_tn)[: tile.size] * tile.scale_t[: tile.size, None]
      row[part] = some_tn[: max(checked - part.start, 0)]
      steps += int(np.asarray(state.steps_t)[: tile.size].sum())
  return weights, steps


def _centred(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """The design, column by column in memory, and the outcomes, as peers want them."""
  x = np.asfortranarray(case.masks - case.masks.mean(axis=0))
  return x, case.outcomes - case.outcomes.mean(axis=0)


def _each_target(case: Case, solve: Callable[[int], Any]) -> tuple[np.ndarray, int]:
  """A peer's solver on every target, over all cores."""
  import joblib

  found = joblib.Parallel(n_jobs=-1)(
    joblib.delayed(solve)(t) for t in range(case.outcomes.shape[1])
  )
  return np.stack([w for w, _ in found], axis=1), sum(steps for _, steps in found)


def _sklearn(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Coordinate descent on the Gram."""
  x, y = _centred(case)
  gram, products = x.T @ x, x.T @ y

  def solve(t: int) -> tuple[np.ndarray, int]:
    from sklearn import linear_model

    warnings.simplefilter("ignore")
    _, w, _, steps = linear_model.lasso_path(
      x,
      y[:, t],
      alphas=case.lam_lt[:, t],
      precompute=gram,
      Xy=products[:, t],
      tol=tol,
      max_iter=100_000,
      return_n_iter=True,
    )
    return w.T, int(np.sum(steps))

  return _each_target(case, solve)


def _celer(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Working sets with dual extrapolation."""
  x, y = _centred(case)

  def solve(t: int) -> tuple[np.ndarray, int]:
    import celer

    warnings.simplefilter("ignore")
    _, w, _, steps = celer.celer_path(
      np.array(x, order="F"),  # joblib's maps are read-only, which celer refuses.
      y[:, t].copy(),
      "lasso",
      alphas=case.lam_lt[:, t],
      tol=tol,
      max_iter=1000,
      max_epochs=100_000,
      return_n_iter=True,
    )
    return w.T.astype(np.float32), int(np.sum(steps))

  return _each_target(case, solve)


def _skglm(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Coordinate descent on working sets with Anderson acceleration."""
  x, y = _centred(case)

  def solve(t: int) -> tuple[np.ndarray, int]:
    import skglm

    warnings.simplefilter("ignore")
    model = skglm.Lasso(1.0, tol=tol, fit_intercept=False, warm_start=True, max_iter=1000)
    rows, steps = [], 0
    for lam in case.lam_lt[:, t]:
      model.alpha = lam
      rows.append(model.fit(x, y[:, t]).coef_.astype(np.float32))
      steps += int(model.n_iter_)
    return np.stack(rows), steps

  return _each_target(case, solve)


def _saga(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """Proximal SAGA, all targets at once; the tolerance is the gap itself."""
  from experiments.bench.peers import saga

  x = case.masks.astype(np.float32)
  x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
  y = (case.outcomes - case.outcomes.mean(axis=0)).astype(np.float32)
  weights, epochs = saga.path(x, y, case.lam_lt, tol, keep=_CHECKED_TARGETS)
  return weights, epochs * case.outcomes.shape[1]


_SIDES: dict[str, Callable[[Case, float], tuple[np.ndarray, int]]] = {
  "jaxdm": _jaxdm,
  "sklearn": _sklearn,
  "celer": _celer,
  "skglm": _skglm,
  "saga": _saga,
}
# Those that take all targets at once.
_TOGETHER = ("jaxdm", "saga")


def _calibrated(side: str, case: Case, distance: float) -> float:
  """The loosest of a side's tolerances that comes so close on the targets judged."""
  few, tol = case.first(_CHECKED_TARGETS), 1.0

  def reaches(tol: float) -> bool:
    return largest_distance(few, _SIDES[side](few, tol)[0]) <= distance

  while tol > 1e-14 and not reaches(tol):
    tol /= 10
  return next((looser for looser in (5 * tol, 2 * tol) if reaches(looser)), tol)


def _fit_once(case: Case) -> int:
  """Runs `fit_lasso` at one penalty; returns the bytes that were there before."""
  from jaxdm.lasso.fit import fit_lasso

  def fit() -> None:
    lam_t = case.lam_lt[len(case.lam_lt) // 2]
    form: Any = FORM.value
    fit_lasso(case.masks, case.outcomes, lam_t, form=form)

  fit()  # Compiles.
  before = measure.forget_peak()
  fit()
  return before


def _child(side: str, case: Case, shape: str, distance: float) -> dict[str, Any]:
  """Measures one side in this process."""
  t = case.outcomes.shape[1]
  timed = t if side in _TOGETHER else min(t, PEER_TARGETS.value or t)
  part = case.first(timed)
  tol = _calibrated(side, case, distance)
  _SIDES[side](part if side in _TOGETHER else case.first(2), tol)  # Compiles.
  before = measure.forget_peak()
  took: list[float] = []
  # One timing of a fraction of a second says little.
  while not took or (len(took) < 5 and sum(took) < 2):
    start = time.perf_counter()
    weights, steps = _SIDES[side](part, tol)
    took.append(time.perf_counter() - start)
  seconds = float(np.median(took)) * t / timed
  if side == "jaxdm":
    before = _fit_once(case)
  own = measure.status_bytes("VmHWM") - before
  children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
  return {
    "side": side,
    "shape": shape,
    "distance": distance,
    "seconds": seconds,
    "timings": len(took),
    "targets_timed": timed,
    "steps_per_target": steps / timed,
    "reached_distance": largest_distance(part, weights),
    "tol": tol,
    "memory_bytes": own + children,
    "announced_bytes": _announced_bytes(case) if side == "jaxdm" else 0,
  }


def table(results: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  lines = [
    "n x m x t | distance | side | seconds | jaxdm is x times | reached | steps a target "
    "| memory MB | announced MB | targets timed"
  ]
  lines.append(" | ".join(["---"] * 10))
  ours = {
    (r["shape"], r["distance"]): r["seconds"] for r in results if r["side"] == "jaxdm"
  }
  for r in results:
    times = r["seconds"] / ours.get((r["shape"], r["distance"]), float("nan"))
    cells = f"{r['shape']} | {r['distance']:.0e} | {r['side']} | {r['seconds']:.2f} | "
    cells += f"{times:.1f} | {r['reached_distance']:.1e} | {r['steps_per_target']:.0f} | "
    cells += f"{r['memory_bytes'] / 1e6:,.0f} | {r['announced_bytes'] / 1e6:,.0f} | "
    lines.append(f"{cells}{r['targets_timed']}")
  return "\n".join(f"| {line} |" for line in lines)


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  if argv[1:]:
    raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")
  measure.check()
  sides = measure.chosen_sides(list(_SIDES))
  if not measure.SIDES.value:
    sides.remove("saga")
  if measure.CHILD.value:
    side, shape, distance, path = measure.CHILD.value
    if side == "jaxdm":
      from jaxdm import devices

      devices.use_all_devices()
    case = dataclasses.replace(planted(shape), best_lt=np.load(path))
    print(json.dumps(_child(side, case, shape, float(distance))))
    return
  results = []
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "best.npy")
    for shape in SHAPES.value:
      np.save(path, smallest_objectives(planted(shape)))
      for distance in DISTANCES.value:
        for side in sides:
          what = f"{side},{shape},{distance},{path}"
          if found := measure.measured("experiments.bench.lasso", what):
            results.append(found)
            seconds = f"{found['seconds']:.2f} s"
            print(f"  {shape} {distance} {side}: {seconds}", file=sys.stderr)
  print(table(results))
  measure.write(results)


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  program.run(main)
