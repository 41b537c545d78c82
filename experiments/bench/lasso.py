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
that of jaxdm.fit_lasso at the path's middle, is what `solver_plan.choose` announces.

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
from typing import Any

import numpy as np
from absl import flags

from experiments.bench import lasso_sides, measure, planted_lassos
from experiments.bench.lasso_sides import SIDES, TOGETHER
from experiments.bench.planted_lassos import Case
from experiments.runtime import help as help_page
from experiments.runtime import program

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
_REFERENCE_TOL = 1e-12


def _make_case(shape: str) -> Case:
  """The case of a shape, with the paths that the flags ask for."""
  return planted_lassos.make_case(shape, PATH_POINTS.value, PATH_END.value)


def smallest_objectives(case: Case) -> np.ndarray:
  """What scikit-learn's coordinate descent reaches for the first targets, as [l, t]."""
  few = case.first(planted_lassos.CHECKED_TARGETS)
  return planted_lassos.objectives(few, SIDES["sklearn"](few, _REFERENCE_TOL)[0])


def _calibrate(side: str, case: Case, distance: float) -> float:
  """The loosest of a side's tolerances that comes so close on the targets judged."""
  few, tol = case.first(planted_lassos.CHECKED_TARGETS), 1.0

  def reaches(tol: float) -> bool:
    return planted_lassos.largest_distance(few, SIDES[side](few, tol)[0]) <= distance

  while tol > 1e-14 and not reaches(tol):
    tol /= 10
  return next((looser for looser in (5 * tol, 2 * tol) if reaches(looser)), tol)


def _fit_once(case: Case) -> int:
  """Runs `fit_lasso` at one penalty; returns the bytes that were there before."""
  from jaxdm.lasso.fit import fit_lasso

  def fit() -> None:
    lam_t = case.lam_lt[len(case.lam_lt) // 2]
    form: Any = lasso_sides.FORM.value
    fit_lasso(case.masks, case.outcomes, lam_t, form=form)

  fit()  # Compiles.
  before = measure.forget_peak()
  fit()
  return before


def _child(side: str, case: Case, shape: str, distance: float) -> dict[str, Any]:
  """Measures one side in this process."""
  t = case.outcomes.shape[1]
  timed = t if side in TOGETHER else min(t, PEER_TARGETS.value or t)
  part = case.first(timed)
  tol = _calibrate(side, case, distance)
  SIDES[side](part if side in TOGETHER else case.first(2), tol)  # Compiles.
  before = measure.forget_peak()
  took: list[float] = []
  # One timing of a fraction of a second says little.
  while not took or (len(took) < 5 and sum(took) < 2):
    start = time.perf_counter()
    weights, steps = SIDES[side](part, tol)
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
    "reached_distance": planted_lassos.largest_distance(part, weights),
    "tol": tol,
    "memory_bytes": own + children,
    "announced_bytes": lasso_sides.expected_bytes(case) if side == "jaxdm" else 0,
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
  program.check_no_arguments(argv)
  measure.check()
  sides = measure.select_sides(list(SIDES))
  if not measure.SIDES.value:
    sides.remove("saga")
  if measure.CHILD.value:
    side, shape, distance, path = measure.CHILD.value
    if side == "jaxdm":
      from jaxdm import devices

      devices.use_all_devices()
    case = dataclasses.replace(_make_case(shape), best_lt=np.load(path))
    print(json.dumps(_child(side, case, shape, float(distance))))
    return
  results = []
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "best.npy")
    for shape in SHAPES.value:
      np.save(path, smallest_objectives(_make_case(shape)))
      for distance in DISTANCES.value:
        for side in sides:
          what = f"{side},{shape},{distance},{path}"
          if result := measure.run_child("experiments.bench.lasso", what):
            results.append(result)
            seconds = f"{result['seconds']:.2f} s"
            print(f"  {shape} {distance} {side}: {seconds}", file=sys.stderr)
  print(table(results))
  measure.write(results)


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  flags.adopt_module_key_flags(lasso_sides)
  help_page.print_and_exit()
  program.run(main)
