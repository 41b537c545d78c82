"""Times the trainer beside PyTorch, a plain vmap and the machine's matmul peak.

  python -m experiments.bench.trainer --json=bench_trainer.json       (extra `bench`)

All sides run in one run, on the same images and recipe, each in processes of its own,
one at a time. Rounds repeat everything; a figure is the median over rounds.

  fleet   this trainer
  torch   PyTorch, one model at a time, one process a core (on a GPU: one process,
          compiled, channels last)
  torch-best  the same at the batch size from 64 to 512 that is fastest for it
  vmap    jax.vmap over 8 models, with Flax's own convolution
  matmul  the fastest of several square products: the peak that shares refer to

`--scaling=64,512,4096` instead times the collection of so many models of the preset
`fashion`, store included, and then as many on removals, five seeds each, as a search
verifies them.
"""

import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from experiments.bench import cost, measure, sides
from experiments.config import experiment_flags, presets
from experiments.runtime import data_source, program, progress_bar
from experiments.runtime import help as help_page
from experiments.runtime.run import Run, make_run
from experiments.runtime.workdir import Workdir
from jaxdm import cgroups, devices, prng, training_sets
from jaxdm.errors import UserError

ROUNDS = flags.DEFINE_integer("rounds", 3, "How often every side is timed.", 1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "Least duration of one timing.", 0.01)
ROWS = flags.DEFINE_list("rows", None, "Only these rows, such as w8-8x8-b32.")
SCALING = flags.DEFINE_list("scaling", None, "Numbers of models to collect instead.")
_SEEDS = 5
_COMPARED = ["fleet", "torch", "torch-best", "vmap"]


def _measure(side: str, row: sides.Row, cache: str) -> dict[str, Any]:
  """One side of one row in a process of its own, which forwards all flags."""
  what = f"{side},{row.name}"
  measured = measure.run_child("experiments.bench.trainer", what, XDG_CACHE_HOME=cache)
  if not measured:
    return {}
  print(f"  {row.name} {side}: {_phrase(measured)}", file=sys.stderr)
  return measured


def _phrase(measured: dict[str, float]) -> str:
  """One measurement in words."""
  if "flops_per_second" in measured:
    return f"{measured['flops_per_second'] / 1e9:,.0f} GFLOP/s"
  return f"{measured['samples_per_second']:,.0f} samples/s"


def table(results: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  columns = "row | side | samples/s | models/h | share of peak | fleet is x times | "
  columns += "compile s: cold, cached | memory MB | fleet width"
  lines = [columns, " | ".join(["---"] * len(columns.split(" | ")))]
  ours = {r["row"]: r["samples_per_second"] for r in results if r["side"] == "fleet"}
  for r in results:
    speed = r["samples_per_second"]
    cells = [
      r["row"],
      r["side"] + (f", batch {r['batch_size']}" if r["side"] == "torch-best" else ""),
      f"{speed:,.0f}",
      f"{r['models_per_hour']:,.0f}",
      f"{r['share_of_peak']:.0%}",
      f"{ours.get(r['row'], float('nan')) / speed:.2f}",
      f"{r['cold_compile_seconds']:.1f}, {r['cached_compile_seconds']:.1f}",
      f"{r['memory_bytes'] / 1e6:,.0f}",
      str(r.get("vmap_width", "")),
    ]
    lines.append(" | ".join(cells))
  return "\n".join(f"| {line} |" for line in lines)


def summary(row: sides.Row, side: str, runs: list[dict[str, Any]], peak: float) -> Any:
  """Medians over rounds, and what follows from them."""
  speed = statistics.median(r["samples_per_second"] for r in runs)
  experiment = presets.PRESETS[row.preset]()
  num_train = cost.problem_size(experiment).num_train
  samples = cost.samples_per_model(experiment, num_train)
  flops = cost.flops_per_sample(row.recipe, row.image_shape, sides.NUM_CLASSES)
  return {
    "row": row.name,
    "side": side,
    **dataclasses.asdict(row),
    "samples_per_second": speed,
    "all_samples_per_second": [r["samples_per_second"] for r in runs],
    "samples_per_model": samples,
    "models_per_hour": 3600 * speed / samples,
    "flops_per_sample": flops,
    "share_of_peak": speed * flops / peak,
    "cold_compile_seconds": runs[0]["compile_seconds"],
    "cached_compile_seconds": runs[-1]["compile_seconds"],
    "memory_bytes": max(r["memory_bytes"] for r in runs),
    "vmap_width": runs[0].get("vmap_width", ""),
    "batch_size": runs[0].get("batch_size", row.batch_size),
  }


def machine() -> dict[str, Any]:
  """Where and when this ran; every core of a CPU is a device of the sides."""
  on_cpu, cores = jax.default_backend() == "cpu", cgroups.cpu_count()
  return {
    "device": jax.devices()[0].device_kind,
    "devices": cores if on_cpu else jax.local_device_count(),
    "cores": cores,
    "processor": platform.processor() or platform.machine(),
    "jax": jax.__version__,
    "python": platform.python_version(),
    "date": time.strftime("%Y-%m-%d"),
  }


def compare() -> dict[str, Any]:
  """All sides of all rows."""
  rows = sides.all_rows()
  rows_to_run = [rows[name] for name in ROWS.value or rows]
  runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
  peaks: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as cache:
    for number in range(ROUNDS.value):
      print(f"round {number + 1} of {ROUNDS.value}", file=sys.stderr)
      for row in rows_to_run:
        peak = _measure("matmul", row, cache)["flops_per_second"]
        peaks.setdefault(row.compute_dtype, []).append(peak)
        for side in measure.select_sides(_COMPARED):
          if measured := _measure(side, row, cache):
            runs.setdefault((row.name, side), []).append(measured)
          # What there is so far, for a run that is stopped.
          so_far = [[*key, result] for key, result in runs.items()]
          measure.write({"unfinished": so_far, "peaks": peaks})
  peak_of = {dtype: statistics.median(values) for dtype, values in peaks.items()}
  results = [
    summary(rows[name], side, measured, peak_of[rows[name].compute_dtype])
    for (name, side), measured in runs.items()
  ]
  for dtype, peak in peak_of.items():
    print(f"matmul peak, {dtype}: {peak / 1e9:,.0f} GFLOP/s")
  print(table(results))
  return {"peak_flops_per_second": peak_of, "results": results}


def scale(sizes: list[int]) -> dict[str, Any]:
  """Collects models of the preset `fashion` into stores of several sizes."""
  experiment = presets.PRESETS["fashion"]()
  results = []
  for m in sizes:
    with tempfile.TemporaryDirectory() as folder:
      collect = dataclasses.replace(experiment.collect, num_models=m)
      run = make_run(
        Workdir(folder),
        dataclasses.replace(experiment, collect=collect),
        data_source.load(experiment.data, {"data_dir": None, "arrays": None}),
        experiment_flags.speed(),
      )
      [collection, *_] = run.subsets.make_collections()
      trainer, labels = run.trainer, run.dataset.train_labels
      first = collection.subsets.masks(collect.seed, len(labels), np.array([m]))
      trainer(first, labels, prng.model_seeds("bench", 1, m))
      start = time.perf_counter()
      bar = progress_bar.make(f"{m} models")
      trainer.collect(collection._replace(models=m), progress=bar)
      speed = m / (time.perf_counter() - start)
      masks, seeds = _removals(run, m)
      start = time.perf_counter()
      bar = progress_bar.make(f"{m} on removals")
      trainer(masks, labels, seeds, progress=bar)
      verified = m / (time.perf_counter() - start)
    results.append(
      {
        "models": m,
        "models_per_second": speed,
        "models_per_second_on_removals": verified,
        "memory_bytes": devices.peak_bytes(),
      }
    )
  print("| models | models/s | on removals | peak memory so far, MB |")
  print("|---|---|---|---|")
  for r in results:
    speeds = r["models_per_second"], r["models_per_second_on_removals"]
    cells = f"{speeds[0]:.2f} | {speeds[1]:.2f} ({speeds[1] / speeds[0]:.2f}x)"
    print(f"| {r['models']} | {cells} | {r['memory_bytes'] / 1e6:,.0f} |")
  return {"scaling": results}


def _removals(run: Run, m: int) -> tuple[np.ndarray, np.ndarray]:
  """Training sets and seeds as searches verify them, up to a quarter of a class."""
  rng, n = np.random.default_rng(0), len(run.dataset.train_labels)
  most = n // run.dataset.num_classes // 4
  removed = [
    rng.permutation(n)[: rng.integers(1, most + 1)] for _ in range(-(-m // _SEEDS))
  ]
  masks = np.repeat(training_sets.removal_masks(n, removed), _SEEDS, axis=0)[:m]
  return masks, np.resize(prng.model_seeds("bench", _SEEDS), m)


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  program.check_no_arguments(argv)
  measure.check()
  logging.set_verbosity(logging.WARNING)
  # Several processes look at one GPU here; none may take all of its memory.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if SCALING.value or (measure.CHILD.value and measure.CHILD.value[0] == "fleet"):
    devices.use_all_devices()
  if measure.CHILD.value:
    side, name = measure.CHILD.value
    row = sides.all_rows()[name]
    print(json.dumps(sides.SIDES[side](row, SECONDS.value, experiment_flags.speed())))
    return
  measure.select_sides(_COMPARED)
  rows = sides.all_rows()
  if unknown := set(ROWS.value or ()) - rows.keys():
    raise UserError("rows", f"must be some of {', '.join(rows)}, got {unknown}")
  sizes = [int(m) for m in SCALING.value or ()]
  report = {"machine": machine(), **(scale(sizes) if sizes else compare())}
  measure.write(report)


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit(
    measure, extra=experiment_flags.SOURCES, groups=experiment_flags.GROUPS
  )
  program.run(main)
