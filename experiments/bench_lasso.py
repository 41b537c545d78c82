"""Times the lasso solver beside scikit-learn, celer and skglm.

  python -m experiments.bench_lasso --json=bench_lasso.json           (extra `bench`)

All sides solve the same paths of penalties on the same planted data, each in a process
of its own, one at a time, with all cores. Every side stops as late as it must for its
largest duality gap, relative to the objective at 0 and recomputed in float64, to be at
most the one asked for: a peer's own tolerance is found on a few targets first, among
1, 2 and 5 times the powers of ten. Times under two seconds are medians of up to five.
Peers solve one target after another, so that --peer_targets may time some of them; their
time is then given in proportion. Memory is what a second run adds at its peak (Linux);
ours, that of jaxdm.fit_lasso at the path's middle, which is what `design.plan` announces.

  jaxdm    all targets at once
  sklearn  lasso_path on the precomputed Gram, joblib over targets
  celer    celer_path, joblib over targets
  skglm    AndersonCD warm-started along the path, joblib over targets
  saga     minibatch SAGA on all targets at once; for GPUs, and only if --sides names it
"""

import ctypes
import dataclasses
import gc
import json
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import bench, program

SHAPES = flags.DEFINE_list(
  "shapes",
  ["300x1600x500", "1500x6000x500", "1500x1500x300", "4000x2000x200"],
  "Columns x rows x targets.",
)
GAPS = flags.DEFINE_list("gaps", ["1e-4", "1e-6"], "Relative duality gaps to reach.")
PATH_POINTS = flags.DEFINE_integer("path_points", 30, "Penalties of every path.", 1)
PATH_END = flags.DEFINE_float("path_end", 0.02, "End of every path over its start.")
PEER_TARGETS = flags.DEFINE_integer(
  "peer_targets", None, "Targets that peers are timed on; all by default."
)
FORM = flags.DEFINE_enum("form", None, ["gram", "rows", "bits"], "Of the design; ours.")
_CALIBRATION_TARGETS = 6
_CHECKED_TARGETS = 20
_BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Case:
  """Planted lassos: 5 % of the weights are not 0, and explain 40 % of the variance.

  Attributes:
    masks: bool[m, n].
    outcomes: float64[m, t].
    lam_lt: float64, penalties.
  """

  masks: np.ndarray
  outcomes: np.ndarray
  lam_lt: np.ndarray

  def first(self, t: int) -> "Case":
    """Its first t targets."""
    return Case(self.masks, self.outcomes[:, :t], self.lam_lt[:, :t])


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
  return Case(masks, outcomes, ratios[:, None] * top_t)


def largest_gap(case: Case, weights_ltn: np.ndarray) -> float:
  """Over the path and at most twenty targets, in float64."""
  mean_n, m = case.masks.mean(axis=0), len(case.masks)
  weights_ltn = weights_ltn[:, :_CHECKED_TARGETS].astype(np.float64)
  t = weights_ltn.shape[1]
  y_mt = case.outcomes[:, :t] - case.outcomes[:, :t].mean(axis=0)
  square_lt = aligned_lt = slope_ltn = np.float64(0)
  for part in _parts(m):
    x = case.masks[part] - mean_n
    left_ltm = y_mt[part].T - weights_ltn @ x.T
    square_lt = square_lt + (left_ltm**2).sum(axis=2) / m
    aligned_lt = aligned_lt + (left_ltm * y_mt[part].T).sum(axis=2) / m
    slope_ltn = slope_ltn + left_ltm @ x / m
  lam_lt = case.lam_lt[:, :t]
  scale_lt = np.minimum(aligned_lt / square_lt, lam_lt / np.abs(slope_ltn).max(axis=2))
  dual_lt = scale_lt * aligned_lt - scale_lt**2 * square_lt / 2
  primal_lt = square_lt / 2 + lam_lt * np.abs(weights_ltn).sum(axis=2)
  return float(((primal_lt - dual_lt) / ((y_mt**2).sum(axis=0) / (2 * m))).max())


def _plan(case: Case) -> Any:
  """Ours."""
  from jaxdm import design

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  form: Any = FORM.value
  return design.plan(m, n, t, is_bool=True, form=form)


def _announced_bytes(case: Case) -> int:
  """The peak memory that our plan expects."""
  from jaxdm import design

  return design.peak_bytes(_plan(case), *case.masks.shape)


def _jaxdm(case: Case, tol: float) -> tuple[np.ndarray, int]:
  """All targets in tiles; the tolerance is the gap itself."""
  from jaxdm import lasso, solver

  (m, n), t = case.masks.shape, case.outcomes.shape[1]
  plan = _plan(case)
  made = solver.Solver(case.masks, np.arange(m), plan)
  checked = min(t, _CHECKED_TARGETS)
  weights, steps = np.zeros((len(case.lam_lt), checked, n), np.float32), 0
  for part in lasso.tiles(t, plan.tile):
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
    return w.T.astype(np.float32), int(np.sum(steps))

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
  from experiments import saga

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
# Those that take all targets at once, and float32's own word for the gap.
_TOGETHER = ("jaxdm", "saga")


def _calibrated(side: str, case: Case, gap: float) -> float:
  """The loosest of a peer's tolerances that reaches the gap on a few targets."""
  if side in _TOGETHER:
    return gap * 0.99 - 1e-7  # What float32 may be off.
  few, tol = case.first(_CALIBRATION_TARGETS), 1e-1

  def reaches(tol: float) -> bool:
    return largest_gap(few, _SIDES[side](few, tol)[0]) <= gap

  while tol > 1e-14 and not reaches(tol):
    tol /= 10
  return next((looser for looser in (5 * tol, 2 * tol) if reaches(looser)), tol)


def _status(name: str) -> int:
  """Bytes of this process that Linux counts under a name."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _forget_peak() -> int:
  """Gives freed memory back and forgets the peak; returns the bytes that remain."""
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _status("VmRSS")


def _fit_once(case: Case) -> int:
  """Runs `fit_lasso` at one penalty; returns the bytes that were there before."""
  from jaxdm import lasso

  def fit() -> None:
    lam_t = case.lam_lt[len(case.lam_lt) // 2]
    form: Any = FORM.value
    lasso.fit_lasso(case.masks, case.outcomes, lam_t, form=form)

  fit()  # Compiles.
  before = _forget_peak()
  fit()
  return before


def _child(side: str, shape: str, gap: float) -> dict[str, Any]:
  """Measures one side in this process."""
  case = planted(shape)
  t = case.outcomes.shape[1]
  timed = t if side in _TOGETHER else min(t, PEER_TARGETS.value or t)
  part = case.first(timed)
  tol = _calibrated(side, case, gap)
  _SIDES[side](part if side in _TOGETHER else case.first(2), tol)  # Compiles.
  before = _forget_peak()
  took: list[float] = []
  # One timing of a fraction of a second says little.
  while not took or (len(took) < 5 and sum(took) < 2):
    start = time.perf_counter()
    weights, steps = _SIDES[side](part, tol)
    took.append(time.perf_counter() - start)
  seconds = float(np.median(took)) * t / timed
  if side == "jaxdm":
    before = _fit_once(case)
  own = _status("VmHWM") - before
  children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
  return {
    "side": side,
    "shape": shape,
    "gap": gap,
    "seconds": seconds,
    "timings": len(took),
    "targets_timed": timed,
    "steps_per_target": steps / timed,
    "reached_gap": largest_gap(part, weights),
    "tol": tol,
    "memory_bytes": own + children,
    "announced_bytes": _announced_bytes(case) if side == "jaxdm" else 0,
  }


def table(results: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  lines = [
    "n x m x t | gap | side | seconds | jaxdm is x times | reached gap | steps a target "
    "| memory MB | announced MB | targets timed"
  ]
  lines.append(" | ".join(["---"] * 10))
  ours = {(r["shape"], r["gap"]): r["seconds"] for r in results if r["side"] == "jaxdm"}
  for r in results:
    times = r["seconds"] / ours.get((r["shape"], r["gap"]), float("nan"))
    cells = f"{r['shape']} | {r['gap']:.0e} | {r['side']} | {r['seconds']:.2f} | "
    cells += f"{times:.1f} | {r['reached_gap']:.1e} | {r['steps_per_target']:.0f} | "
    cells += f"{r['memory_bytes'] / 1e6:,.0f} | {r['announced_bytes'] / 1e6:,.0f} | "
    lines.append(f"{cells}{r['targets_timed']}")
  return "\n".join(f"| {line} |" for line in lines)


def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  if argv[1:]:
    sys.exit(f"error: arguments must be flags, got {argv[1]!r}; see --help")
  try:
    sides = bench.chosen_sides(list(_SIDES))
    if not bench.SIDES.value:
      sides.remove("saga")
  except ValueError as error:
    sys.exit(f"error: --{error}")
  if bench.CHILD.value:
    side, shape, gap = bench.CHILD.value
    if side == "jaxdm":
      from jaxdm import devices

      devices.use_all_devices()
    print(json.dumps(_child(side, shape, float(gap))))
    return
  results = []
  for shape in SHAPES.value:
    for gap in GAPS.value:
      for side in sides:
        what = f"{side},{shape},{gap}"
        if found := bench.measured("experiments.bench_lasso", what):
          results.append(found)
          print(f"  {shape} {gap} {side}: {found['seconds']:.2f} s", file=sys.stderr)
  print(table(results))
  bench.write(results)


if __name__ == "__main__":
  flags.adopt_module_key_flags(bench)
  program.run(main)
