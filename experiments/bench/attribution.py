"""Attribution methods of several packages on the same trained models.

  python -m experiments.bench.attribution --json=bench_attribution.json   (extra `bench`)

Models are trained on all data of an included problem, and PyTorch networks hold their
weights. Each side scores all training examples for all targets, in a process of its own,
with 1, 4, 16 and 32 of the models. The scores are judged on the problem's held-out
models. A tuned side first chooses its options: those with the best LDS of one model's
scores on 200 models that are not held out. CPU seconds are of all cores, without
training, without the compilation of ours, and without tuning; memory is what the process
adds at its peak (Linux). Results of sides are stored in --bench_dir, so that the same
command continues. So are the scores of the most models, as SIDE.npy, for
`experiments.leaderboard --scores`.

  influence      ours, averaged over 12 moments of training
  influence-end  ours, at the end of training
  traker, dattri, kronfluence               the package's defaults
  traker-tuned, dattri-tuned, kronfluence-tuned
"""

import functools
import importlib
import json
import pathlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags, logging
from etils import epath

from experiments import leaderboard
from experiments.bench import measure
from experiments.config import experiment_flags
from experiments.config.number_lists import whole_numbers
from experiments.config.path_flags import define_path
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm import devices, identity
from jaxdm.attribution import full_data
from jaxdm.attribution.registry import METHODS
from jaxdm.datamodels.evaluate import evaluate_scores
from jaxdm.problems.problem import Problem, load_problem
from jaxdm.report import summary_text
from jaxdm.storage import atomic_io, checksummed_json
from jaxdm.training.trainer import Trainer

COUNTS = flags.DEFINE_list(
  "score_models", ["1", "4", "16", "32"], "Numbers of models on all data to compare."
)
FOLDER = define_path(
  "bench_dir", None, "Folder of finished sides; default: runs/attribution/PROBLEM."
)
_OURS = {"influence": 12, "influence-end": 1}  # Moments of training.
_TRAK_DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)
# Options that a tuned side tries.
_TUNING: Mapping[str, list[dict[str, Any]]] = {
  "traker": [
    {"lambda_reg": x, "proj_dim": 2048, "use_half_precision": False}
    for x in _TRAK_DAMPINGS
  ],
  "dattri": [{"regularization": x, "proj_dim": 2048} for x in _TRAK_DAMPINGS],
  "kronfluence": [
    {"damping_factor": x} for x in (None, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
  ],
}
SIDES = (*_OURS, *(f"{name}{tuned}" for name in _TUNING for tuned in ("", "-tuned")))
_DAMPING = 0.2  # Of ours, the default.
_TUNING_MODELS = 200


def cpu_seconds() -> float:
  """Seconds of this process on all cores."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def measure_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
  """What a function returns, and its CPU seconds."""
  start = cpu_seconds()
  return work(), cpu_seconds() - start


def our_scores(trainer: Trainer, moments: int, count: int) -> np.ndarray:
  """Influence functions, which train the models; at 0 moments nothing but that."""
  total_tn = np.zeros((len(trainer.target_labels), len(trainer.labels)), np.float32)
  terms_of = METHODS["influence"].terms
  assert terms_of is not None
  all_moments = full_data.even_moments(moments)
  for snapshots in full_data.snapshots(trainer, count, all_moments):
    for one in (
      one for one in snapshots if one.moment in all_moments and one.converged()
    ):
      [term] = terms_of(one, _DAMPING)
      if np.isfinite(term.unit):
        total_tn += np.asarray(term.score(term.train_rows, term.target_rows))
  trainer.fleet.settle()
  return total_tn


def our_side(trainer: Trainer, moments: int, counts: list[int]) -> Iterator[Any]:
  """Number of models, scores and CPU seconds without training and compilation."""
  for warm_up in (moments, 0):
    our_scores(trainer, warm_up, 1)
  for count in counts:
    _, training = measure_seconds(functools.partial(our_scores, trainer, 0, count))
    scores_tn, seconds = measure_seconds(
      functools.partial(our_scores, trainer, moments, count)
    )
    yield count, scores_tn, seconds - training


def peer_score(side: str, problem: Problem, path: pathlib.Path) -> Callable[..., Any]:
  """A peer's scores of a number of models with some options."""
  from experiments.bench.peers import torch_models

  dataset = problem.dataset(data_dir=experiment_flags.DATA_DIR.value)
  train, targets = torch_models.examples(dataset)
  with np.load(path) as file:
    nets = [torch_models.network(dataset, one) for one in _split(file)]
  module = importlib.import_module(f"experiments.bench.peers.{side}_scores")
  return lambda count, **options: module.scores(nets[:count], train, targets, **options)


def options_to_try(side: str) -> list[dict[str, Any]]:
  """Those of a tuned side; none for other sides."""
  name = side.removesuffix("-tuned")
  return _TUNING[name] if name != side else []


def tune(
  problem: Problem, choices: list[dict[str, Any]], score: Callable[..., Any]
) -> dict[str, Any]:
  """The options with the best LDS of one model's scores on models not held out."""
  validation = problem.masks[:_TUNING_MODELS], problem.margins[:_TUNING_MODELS]

  def lds(options: dict[str, Any]) -> float:
    scores_tn = np.nan_to_num(score(1, **options))
    return evaluate_scores(scores_tn, *validation).lds.estimate

  return max(choices, key=lds)


def peer_side(
  problem: Problem, side: str, path: pathlib.Path, counts: list[int]
) -> tuple[dict[str, Any], float, Iterator[Any]]:
  """The options that were chosen, CPU seconds of the choice; see `our_side`."""
  score = peer_score(side.removesuffix("-tuned"), problem, path)
  options: dict[str, Any] = {}
  seconds = 0.0
  if choices := options_to_try(side):
    options, seconds = measure_seconds(lambda: tune(problem, choices, score))
  points = (
    (count, *measure_seconds(functools.partial(score, count, **options)))
    for count in counts
  )
  return options, seconds, points


def measure_side(
  problem: Problem, side: str, folder: pathlib.Path, counts: list[int]
) -> dict[str, Any]:
  """All numbers of a side; writes its scores of most models."""
  before = measure.forget_peak()
  options: dict[str, Any] = {}
  tuning = 0.0
  if side in _OURS:
    dataset = problem.dataset(data_dir=experiment_flags.DATA_DIR.value)
    points = our_side(problem.trainer(dataset), _OURS[side], counts)
  else:
    options, tuning, points = peer_side(problem, side, _weights(folder, problem), counts)
  rows = []
  for count, scores_tn, seconds in points:
    finite_tn = np.nan_to_num(np.asarray(scores_tn, np.float32))
    quality = evaluate_scores(finite_tn, *problem.held_out)
    rows.append({"models": count, "lds": quality.lds._asdict(), "cpu_seconds": seconds})
    np.save(folder / f"{side}.npy", finite_tn)
  return {
    "side": side,
    "options": options,
    "tuning_cpu_seconds": tuning,
    "memory_bytes": measure.status_bytes("VmHWM") - before,
    "rows": rows,
  }


def _weights(folder: pathlib.Path, problem: Problem) -> pathlib.Path:
  """The file of a problem's models on all data."""
  return folder / f"weights.{problem.digest}.npz"


def train(problem: Problem, path: pathlib.Path, count: int) -> None:
  """Trains the models on all data, unless a file holds as many."""
  from experiments.bench.peers import torch_models

  if path.exists():
    with np.load(path) as file:
      if len(_split(file)) >= count:
        return
  dataset = problem.dataset(data_dir=experiment_flags.DATA_DIR.value)
  weights = torch_models.weights_on_all_data(problem.trainer(dataset), count)
  names = {f"{i}:{name}": x for i, one in enumerate(weights) for name, x in one.items()}
  with atomic_io.writing(atomic_io.as_path(path)) as file:
    np.savez(file, **names)  # type: ignore[arg-type]


def _split(file: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
  """The weights of each model."""
  arrays_of: dict[int, dict[str, np.ndarray]] = {}
  for key in file:
    number, _, name = key.partition(":")
    arrays_of.setdefault(int(number), {})[name] = file[key]
  return [arrays_of[i] for i in sorted(arrays_of)]


def read_or_run(
  path: epath.Path, depends_on: dict[str, Any], run: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
  """A side's result from its file, or else measured and written; empty if it failed."""
  if path.exists():
    stored = checksummed_json.read(path)
    if stored["depends_on"] == depends_on:
      return dict(stored["result"])
  if result := run():
    made_by = {"made_by": identity.made_by(), "depends_on": depends_on}
    checksummed_json.write(path, made_by | {"result": result})
  return result


def table(results: list[dict[str, Any]], problem: Problem) -> str:
  """The results as Markdown."""
  ceiling = evaluate_scores(np.ones(_shape(problem)), *problem.held_out).ceiling
  lines: list[tuple[str, ...]] = [
    ("side", "models", "LDS", "CPU seconds", "MB at the peak", "options")
  ]
  lines.append(("---",) * len(lines[0]))
  for one in results:
    options = ", ".join(f"{k}={v}" for k, v in one["options"].items())
    for row in one["rows"]:
      lds = summary_text.interval(row["lds"])
      cells = one["side"], str(row["models"]), lds, f"{row['cpu_seconds']:.1f}"
      lines.append((*cells, f"{one['memory_bytes'] / 1e6:,.0f}", options))
  text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
  return f"{text}\nnoise ceiling: {ceiling.estimate:.3f}" if ceiling else text


def _shape(problem: Problem) -> tuple[int, int]:
  """(t, n)."""
  return len(problem.target_labels), len(problem.labels)


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Measures; a child process prints its one result as JSON."""
  logging.set_verbosity(logging.WARNING)
  program.check_no_arguments(argv)
  measure.check()
  sides = measure.select_sides(list(SIDES))
  counts = sorted(set(whole_numbers("score_models", COUNTS.value, "positive numbers")))
  problem = load_problem(leaderboard.PROBLEM.value)
  folder = pathlib.Path(FOLDER.value or f"runs/attribution/{problem.name}")
  if measure.CHILD.value:
    [side] = measure.CHILD.value
    print(json.dumps(measure_side(problem, side, folder, counts)))
    return
  folder.mkdir(parents=True, exist_ok=True)
  if set(sides) - set(_OURS):
    train(problem, _weights(folder, problem), counts[-1])
  results = []
  for side in sides:
    depends_on = {"problem": problem.digest, "models": counts, "side": side}
    if choices := options_to_try(side):
      depends_on["options"] = choices
    path = atomic_io.as_path(folder / f"{side}.json")
    child = functools.partial(measure.run_child, "experiments.bench.attribution", side)
    start = time.perf_counter()
    if result := read_or_run(path, depends_on, child):
      results.append(result)
      print(f"{side}: {time.perf_counter() - start:.0f} s", flush=True)
  print(table(results, problem))
  measure.write({"problem": problem.name, "digest": problem.digest, "sides": results})


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  flags.declare_key_flag("problem")
  flags.declare_key_flag("data_dir")
  devices.use_all_devices()
  help_page.print_and_exit()
  program.run(main)
