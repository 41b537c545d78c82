"""Breaks runs on purpose, and checks that nothing is lost, doubled or silently wrong.

  python -m experiments.ops.drill --drill=kills --drill_times=100
  python -m experiments.ops.drill --drill=searches --drill_times=30
  python -m experiments.ops.drill --drill=bytes --drill_times=1000
  python -m experiments.ops.drill --drill=hosts
  python -m experiments.ops.drill --drill=writers --drill_seconds=600
  python -m experiments.ops.drill --drill=scale

  kills    runs killed with -9 at random moments and begun again: what was stored stays,
           and the finished store has the bits of an undisturbed one
  searches the same with the whole pipeline: its tables, too, have the same bits
  bytes    a random bit of a store is flipped: it is noticed, and training again only what
           it touched gives back the same bits
  hosts    2 and 4 processes, as shards and as one job, one killed half-way, 4 changed to
           2, either way: the bits of one process
  writers  4 processes write chunks of one store, the same ones, too: none is torn, none
           is there twice
  scale    stores of up to 300,000 models on 10,000 targets, whole by their markers though
           few numbers are there: seconds to open them, to find what is missing and to
           read 256 targets of 1,024 models, and what that adds to the peak of memory

Everything happens in a temporary folder, on tiny models. Exits with 1 at the first thing
that is wrong.
"""

import contextlib
import multiprocessing
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from experiments.ops import toy_runs
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm import devices
from jaxdm.storage import bank, maintenance, store
from jaxdm.storage.matrix_view import MatrixView
from jaxdm.training.collection import missing_in_store

WHAT = flags.DEFINE_enum(
  "drill",
  "kills",
  ["kills", "searches", "bytes", "hosts", "writers", "scale"],
  "What to break; see above.",
)
TIMES = flags.DEFINE_integer(
  "drill_times", 100, "kills, searches, bytes: how often.", lower_bound=1
)
SECONDS = flags.DEFINE_float("drill_seconds", 600, "writers: how long.", lower_bound=0.1)

_WRITERS = 4
_HEARTBEATS = 400  # Seconds, in which JAX ends a job that has lost a process.
_WIDTH = 700
_SIZES = ((3_200, 1_000), (32_000, 1_000), (32_000, 10_000), (300_000, 10_000))
_READ_MODELS = 1024


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Does the drill that was asked for."""
  program.check_no_arguments(argv)
  rng = np.random.default_rng()
  with tempfile.TemporaryDirectory() as text:
    folder = pathlib.Path(text)
    if WHAT.value == "kills":
      kills(folder, TIMES.value, rng, "train_subsets", toy_runs.store_files)
    elif WHAT.value == "searches":
      kills(folder, TIMES.value, rng, "pipeline", toy_runs.result_files)
    elif WHAT.value == "bytes":
      flip_bytes(folder, TIMES.value, rng)
    elif WHAT.value == "hosts":
      many_hosts(folder)
    elif WHAT.value == "writers":
      writers(folder, SECONDS.value)
    else:
      scale(folder)


def kills(
  folder: pathlib.Path,
  times: int,
  rng: np.random.Generator,
  launcher: str,
  outcome: Callable[[pathlib.Path], dict[str, bytes]],
) -> None:
  """Kills runs, and begins them again until they finish, until so many were killed.

  Args:
    folder: for the runs.
    times: how many to kill.
    rng: says when.
    launcher: what to run.
    outcome: the files of a finished run that must have an undisturbed one's bits.
  """
  expected, seconds = _run_to_the_end(folder / "whole", launcher, outcome)
  killed, finished, run = 0, 0, folder / "0"
  while killed < times or run.exists():
    before = toy_runs.markers(run)
    process = toy_runs.start(run, launcher=launcher)
    if killed < times:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, seconds))
    if killed < times and process.poll() is None:
      process.kill()
      killed += 1
    toy_runs.check(process.wait() in (0, -signal.SIGKILL), "a run failed")
    toy_runs.check(before <= toy_runs.markers(run), "chunks that were stored are gone")
    if process.returncode == 0:
      toy_runs.check(
        outcome(run) == expected, "the outcome differs from an undisturbed one's"
      )
      finished += 1
      run = folder / str(finished)
    print(f"\r{killed} of {times} killed, {finished} finished", end="", file=sys.stderr)
  print(
    f"\n{killed} runs killed, {finished} finished, each with the bits of an undisturbed "
    f"one in {len(expected)} files; 0 chunks lost"
  )


def flip_bytes(folder: pathlib.Path, times: int, rng: np.random.Generator) -> None:
  """Flips bits of a store, and repairs it each time."""
  devices.use_all_devices()
  run = toy_runs.open_toy(folder)
  [collection, *_] = run.subsets.make_collections()
  run.trainer.collect(collection)
  path, trained = pathlib.Path(collection.store.path), 0
  originals = toy_runs.files(path)
  names = sorted(originals)
  shares = np.array([len(originals[name]) for name in names], float)
  for done in range(1, times + 1):
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    content = bytearray(originals[name])
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    (path / name).write_bytes(content)
    damages = list(maintenance.damage(path))
    toy_runs.check([damage.file for damage in damages] == [name], f"{name}: {damages}")
    maintenance.forget(path, damages[0])
    [collection, *_] = run.subsets.make_collections()
    chunks = missing_in_store(collection.store, collection.models)
    toy_runs.check(len(chunks) == int(damages[0].chunk is not None), f"{name}: {chunks}")
    trained += sum(map(len, chunks))
    run.trainer.collect(collection)
    toy_runs.check(
      toy_runs.files(path) == originals, f"{name} was not repaired to the same bits"
    )
    print(f"\r{done} of {times}", end="", file=sys.stderr)
  size = sum(map(len, originals.values()))
  print(
    f"\n{times} of {times} flipped bits in {size:,} bytes noticed and repaired, by "
    f"training {trained / times:.1f} of {collection.models} models each"
  )


def many_hosts(folder: pathlib.Path) -> None:
  """Shares a run in several ways."""
  expected, _ = _run_to_the_end(folder / "whole", "train_subsets", toy_runs.store_files)

  def same(name: str) -> None:
    toy_runs.check(
      toy_runs.store_files(folder / name) == expected,
      f"{name}: other bits than one process",
    )
    print(f"{name}: the bits of one process")

  for count in (2, 4):
    name = f"{count} shards"
    toy_runs.finish(toy_runs.start_shards(folder / name, count))
    same(name)
  for count in (2, 4):
    name = f"one job of {count}"
    toy_runs.finish(toy_runs.start_job(folder / name, count))
    same(name)
  half = len(toy_runs.markers(folder / "whole")) // 2

  def kill_half_way(processes: list[subprocess.Popen[bytes]], run: pathlib.Path) -> None:
    """Once half of the run's chunks are there."""
    while len(toy_runs.markers(run)) < half:
      ended = all(process.poll() is not None for process in processes)
      toy_runs.check(not ended, f"{run.name}: it ended before it was killed")
      time.sleep(0.02)
    for process in processes:
      process.kill()
      process.wait()
    print(f"killed with {len(toy_runs.markers(run))} of {2 * half} chunks stored")

  run = folder / "2 shards, one killed"
  first, second = toy_runs.start_shards(run, 2)
  kill_half_way([first], run)
  toy_runs.finish([second])
  toy_runs.finish(toy_runs.start_shards(run, 2))
  same(run.name)
  run = folder / "4 shards changed to 2"
  kill_half_way(toy_runs.start_shards(run, 4), run)
  toy_runs.finish(toy_runs.start_shards(run, 2))
  same(run.name)
  run = folder / "a job of 4 changed to 2"
  kill_half_way(toy_runs.start_job(run, 4), run)
  toy_runs.finish(toy_runs.start_job(run, 2))
  same(run.name)
  run = folder / "a job of 2, one killed"
  first, second = toy_runs.start_job(run, 2)
  kill_half_way([second], run)
  toy_runs.check(
    first.wait(_HEARTBEATS) != 0, "a job went on without one of its processes"
  )
  toy_runs.finish(toy_runs.start_job(run, 2))
  same(run.name)


def writers(folder: pathlib.Path, seconds: float) -> None:
  """Has several processes write to one store, and reads all of it."""
  context = multiprocessing.get_context("spawn")
  counts: multiprocessing.Queue[int] = context.Queue()
  processes = [
    context.Process(target=_write, args=(folder / "store", i, seconds, counts))
    for i in range(_WRITERS)
  ]
  for process in processes:
    process.start()
  written = [counts.get() for _ in processes]
  for process in processes:
    process.join()
  store = _open(folder / "store")
  toy_runs.check(not list(maintenance.damage(store.path)), "a chunk is torn")
  chunks = store.chunks()
  names = list((pathlib.Path(store.path) / "done").glob("*.json"))
  toy_runs.check(len(names) == len(chunks), "a chunk is there twice")
  for chunk, rows in chunks.items():
    first = chunk * store.rows_per_chunk
    margins = store.read("margins", slice(first, first + rows))
    toy_runs.check(
      np.array_equal(margins, _content(chunk)["margins"]), f"chunk {chunk} is wrong"
    )
  print(
    f"{_WRITERS} processes wrote {sum(written):,} chunks in {seconds:.0f} s, "
    f"{len(chunks):,} different ones; none torn, none double"
  )


def scale(folder: pathlib.Path) -> None:
  """Prints what the same requests cost on stores of several sizes."""
  costs: list[np.ndarray] = []
  columns = f"{'opening':>10}{'missing':>10}{'reading':>10}{'memory':>10}"
  print(f"{'models':>9}{'targets':>9}{'chunks':>8}{columns}")
  for models, targets in _SIZES:
    path = folder / f"{models}-{targets}"
    chunks, lacking = _sparse(path, models, targets)
    before = devices.peak_bytes()
    seconds = [time.perf_counter()]
    toy = bank.open_store(path, num_targets=targets, num_train=50_000, settings={})
    seconds.append(time.perf_counter())
    ranges = missing_in_store(toy, models)
    seconds.append(time.perf_counter())
    read = MatrixView(toy, "margins", np.arange(models))[-_READ_MODELS:, 256:512]
    seconds.append(time.perf_counter())
    toy_runs.check(
      [part.start // 32 for part in ranges] == [lacking], "another chunk is missing"
    )
    toy_runs.check(
      (read == _column_numbers(targets)[256:512]).all(), "other numbers are read"
    )
    costs.append(np.diff(seconds))
    cells = "".join(f"{cost * 1e3:>7.1f} ms" for cost in costs[-1])
    memory = (devices.peak_bytes() - before) / 1e6
    print(f"{models:>9,}{targets:>9,}{chunks:>8,}{cells}{memory:>7.1f} MB")
  largest = np.prod(_SIZES[-1]) / np.prod(_SIZES[0])
  ratios = "".join(f"{ratio:>8.1f} x" for ratio in costs[-1] / costs[0])
  print(f"{'the last, ' + format(largest, ',.0f') + ' times the first:':>26}{ratios}")


def _sparse(path: pathlib.Path, models: int, targets: int) -> tuple[int, int]:
  """A store whose last chunks hold numbers, one lacks its marker, and the rest just that.

  Returns:
    Chunks, and the one that is missing.
  """
  store = bank.open_store(path, num_targets=targets, num_train=50_000, settings={})
  size, missing = store.rows_per_chunk, 1
  chunks = models // size
  margins_mt = np.tile(_column_numbers(targets), (size, 1))
  masks_mn = np.zeros((size, 50_000), bool)
  for chunk in range(chunks):
    if chunk >= chunks - _READ_MODELS // size:
      bank.write(store, chunk, masks_mn, margins_mt)
    elif chunk != missing:
      (path / "done" / f"{chunk:014d}-{size}.json").touch()
  return chunks, missing


def _column_numbers(targets: int) -> np.ndarray:
  """A row of margins that tells where it is read."""
  return np.arange(targets, dtype=np.float32)


def _write(path: pathlib.Path, index: int, seconds: float, counts: object) -> None:
  """One writer: chunks of its own, and some that others write too."""
  store, end, count = _open(path), time.monotonic() + seconds, 0
  rng = np.random.default_rng(index)
  while time.monotonic() < end:
    common = rng.random() < 0.5
    own = 1000 + _WRITERS * (count % 500) + index
    chunk = int(rng.integers(200)) if common else own
    store.write(chunk, _content(chunk))
    count += 1
  counts.put(count)  # type: ignore[attr-defined]


def _open(path: pathlib.Path) -> store.Store:
  """The writers' store."""
  return bank.open_store(path, num_targets=_WIDTH, num_train=16, settings={})


def _content(chunk: int) -> dict[str, np.ndarray]:
  """What belongs into a chunk."""
  rng = np.random.default_rng(chunk)
  margins = rng.normal(size=(1 + chunk % 32, _WIDTH)).astype(np.float32)
  masks = rng.integers(0, 256, (len(margins), 2)).astype(np.uint8)
  return {"margins": margins, "masks": masks}


def _run_to_the_end(
  run: pathlib.Path, launcher: str, outcome: Callable[[pathlib.Path], dict[str, bytes]]
) -> tuple[dict[str, bytes], float]:
  """The outcome of a run that is left alone, and how long the run takes."""
  # Compiles, and keeps what is compiled.
  toy_runs.finish([toy_runs.start(run, launcher=launcher)])
  for path in sorted(run.rglob("*"), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  start = time.monotonic()
  toy_runs.finish([toy_runs.start(run, launcher=launcher)])
  return outcome(run), time.monotonic() - start


if __name__ == "__main__":
  flags.adopt_module_key_flags(toy_runs)
  help_page.print_and_exit()
  program.run(main)
