import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from etils import epath

from jaxdm import devices, numerics
from jaxdm.datamodels import path, priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit import fit_datamodels
from jaxdm.datamodels.fit_plan import FitPlan, agree
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError
from jaxdm.lasso import fista, solver_plan
from jaxdm.storage import polling

M, N, T = 100, 30, 200
CONFIG = FitConfig(num_lambdas=4)
# So much is free that a tile is of some 40 targets, and of some 60.
LITTLE, MORE = 500_000, 800_000


class WaitError(Exception):
  """Stands for a process that waits for another one."""


def problem() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  masks = rng.random((M, N)) < 0.5
  weights = rng.normal(size=(N, T)) * (rng.random((N, T)) < 0.2)
  return masks, (masks @ weights + rng.normal(size=(M, T))).astype(np.float32)


def fit(**options) -> Datamodels:
  return fit_datamodels(*problem(), config=CONFIG, **options)


def equal(a: Datamodels, b: Datamodels) -> None:
  for name, value in vars(a).items():
    np.testing.assert_array_equal(getattr(b, name), value, err_msg=name)


def plan(free_bytes: int) -> solver_plan.Plan:
  return solver_plan.choose(M, N, T, is_bool=True, processes=2, free_bytes=free_bytes)


def in_turns(calls: list) -> list:
  """Runs what would wait for each other by turns, each as far as it comes."""

  def until(ready, what: str) -> None:
    if not ready():
      raise WaitError(what)

  found: dict[int, object] = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(polling, "until", until)
    for i in itertools.islice(itertools.cycle(range(len(calls))), 6 * len(calls)):
      if i not in found:
        try:
          found[i] = calls[i](patch)
        except WaitError:
          continue
  assert len(found) == len(calls), "they wait for parts that nobody makes"
  return [found[i] for i in range(len(calls))]


def test_processes_with_other_memory_follow_one_plan(tmp_path) -> None:
  assert plan(LITTLE).tile < plan(MORE).tile

  def process(i: int, free: int):
    def call(patch) -> Datamodels:
      patch.setattr(devices, "free_bytes", lambda: free)
      return fit(folder=tmp_path, share=(i, 2))

    return call

  # The first has less, so that the second could do more at a time and must not.
  both = in_turns([process(0, LITTLE), process(1, MORE)])
  alone = fit(tile=plan(LITTLE).tile)
  equal(alone, both[0])
  equal(alone, both[1])


def test_a_resume_with_other_memory_makes_no_part_again(tmp_path, monkeypatch) -> None:
  monkeypatch.setattr(devices, "free_bytes", lambda: LITTLE)

  def killed(done: int, total: int) -> None:
    if done == 3:
      raise WaitError

  with pytest.raises(WaitError):
    fit(folder=tmp_path, progress=killed)
  before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
  assert len(before) == 3
  monkeypatch.setattr(devices, "free_bytes", lambda: 10**10)
  made = []
  found = fit(folder=tmp_path, progress=lambda done, total: made.append(total))
  assert made[0] == 2 * -(-T // plan(LITTLE).tile)
  for name, time in before.items():
    assert (tmp_path / name).stat().st_mtime_ns == time
  equal(fit(tile=plan(LITTLE).tile), found)


def test_less_memory_than_planned_is_said_and_none_is_an_error(
  tmp_path, monkeypatch
) -> None:
  monkeypatch.setattr(devices, "free_bytes", lambda: MORE)
  first = fit(folder=tmp_path)
  peak = solver_plan.peak_bytes(plan(MORE), M, N)
  monkeypatch.setattr(devices, "free_bytes", lambda: peak - 1000)
  with pytest.warns(UserWarning, match="needs about 0.00 GB.*it is followed"):
    equal(first, fit(folder=tmp_path))
  monkeypatch.setattr(devices, "free_bytes", lambda: 50_000)
  for options in ({"folder": tmp_path}, {"form": "gram"}):
    with pytest.raises(ValueError, match="100 x 30 in form gram needs .* are free"):
      fit(**options)


class Untouched:
  """Data that nothing may look at."""

  shape, ndim, dtype = (M, N), 2, bool

  def __len__(self) -> int:
    raise AssertionError

  def __getitem__(self, key):
    raise AssertionError


@pytest.mark.parametrize(
  "share", [(2, 2), (-1, 2), (0, 0), (0,), (0.5, 2), "0/2", None, (0, 1, 2)]
)
def test_a_share_that_is_none_is_refused_before_any_work(share, tmp_path) -> None:
  with pytest.raises(ValueError, match=r"share must be \(i, N\), integers .* got"):
    fit_datamodels(Untouched(), Untouched(), share=share, folder=tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_a_share_without_a_folder_is_refused_before_any_work() -> None:
  with pytest.raises(ValueError, match=r"share=\(0, 2\) needs a folder"):
    fit_datamodels(Untouched(), Untouched(), share=(0, 2))


def test_priors_in_another_order_are_no_other_job(tmp_path) -> None:
  # Three tiles each: in another order the second process would make the same parts.
  candidates = {
    name: priors.Prior(offset=np.ones((T, N)) * i) for i, name in enumerate("abc")
  }

  def process(i: int, names: str):
    chosen = {name: candidates[name] for name in names}
    return lambda patch: fit(folder=tmp_path, share=(i, 2), tile=70, candidates=chosen)

  one, other = in_turns([process(0, "abc"), process(1, "cab")])
  np.testing.assert_array_equal(one.weights_tn, other.weights_tn)
  assert "abc"[one.choice_t[0]] == "cab"[other.choice_t[0]]


def test_a_folder_is_not_continued_with_another_form_or_tile(tmp_path) -> None:
  folder = tmp_path / "parts"
  agree(folder, lambda: FitPlan(solver_plan.Plan("gram", 8, 2), ("a",)), tile=7)
  made = agree(folder, lambda: 1 / 0, tile=7)  # Rounded up, as before.
  assert made == FitPlan(solver_plan.Plan("gram", 8, 2), ("a",))
  assert agree(folder, lambda: 1 / 0) == made
  for options, message in [
    ({"tile": 16}, "tile must be 8, .* got 16; leave it out"),
    ({"form": "rows"}, "form must be gram, .* got rows"),
  ]:
    with pytest.raises(ValueError, match=message):
      agree(folder, lambda: 1 / 0, **options)
  (folder / "plan.json").unlink()
  (folder / "manifest.json").write_text("{}")
  with pytest.raises(ValueError, match="without a plan; remove it"):
    agree(folder, lambda: 1 / 0)


def test_parts_of_other_margins_are_not_used_where_the_manifest_is_lost(tmp_path) -> None:
  masks, margins = problem()
  first = fit_datamodels(masks, margins, config=CONFIG, folder=tmp_path)
  (tmp_path / "manifest.json").unlink()
  with pytest.raises(ValueError, match="may be of another fit, .*; remove it"):
    fit_datamodels(masks, 2 * margins, config=CONFIG, folder=tmp_path)
  equal(first, fit_datamodels(masks, margins, config=CONFIG, folder=tmp_path))


def test_of_plans_made_at_the_same_time_all_follow_one(tmp_path) -> None:
  for i in range(20):
    barrier, found = threading.Barrier(4), []

    def come(
      tile: int,
      folder: epath.Path = epath.Path(tmp_path / str(i)),
      barrier=barrier,
      found=found,
    ) -> None:
      barrier.wait()
      plan = FitPlan(solver_plan.Plan("gram", tile, 1), ("a",))
      found.append(agree(folder, lambda: plan))

    threads = [threading.Thread(target=come, args=(tile,)) for tile in range(1, 5)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert len(found) == 4 and len(set(found)) == 1


def test_the_number_of_devices_changes_no_bit(monkeypatch) -> None:
  if devices.count() < 2:
    pytest.skip("needs two devices")
  caches = devices._mesh, fista._compile, path._squared_errors
  found, tol = [], FitConfig(num_lambdas=2, tol=1e-7)
  for used in (2, 1):
    monkeypatch.setattr(devices, "count_for", lambda lanes=None, used=used: used)
    for cache in caches:
      cache.cache_clear()
    masks, margins = problem()
    found.append(fit_datamodels(masks, margins[:, :20], config=tol, form="bits", tile=10))
  for cache in caches:
    cache.cache_clear()
  equal(*found)


def test_lanes_are_spread_over_the_devices_that_divide_them() -> None:
  count = devices.count()
  assert devices.count_for() == count and devices.count_for(1) == 1
  assert devices.count_for(6 * count) == count
  assert devices.count_for(7) == (7 if count >= 7 else 1)
  rows = np.arange(24.0, dtype=np.float32).reshape(12, 2)
  for lanes in (1, 3, 4, 12):
    # Each lane is told apart by its own sum.
    shifted = devices.shard_map(lambda add, x: x + x.sum() + add, lanes)
    shared = devices.replicate(np.float32(1), lanes)
    sums = rows.reshape(lanes, -1).sum(axis=1).repeat(12 // lanes)[:, None]
    found = shifted(shared, devices.shard_rows(rows, lanes))
    np.testing.assert_array_equal(found, rows + sums + 1)


_PROCESS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
sys.path.insert(0, {tests!r})
import test_fit_plan
from jaxdm import devices
devices.free_bytes = lambda: int(sys.argv[2])
index, count, folder, out = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6]
assert devices.count() == int(sys.argv[1])
test_fit_plan.fit(folder=folder, share=(index, count)).save(out)
"""


@pytest.mark.slow
def test_processes_with_other_memory_and_devices_make_the_same_bits(tmp_path) -> None:
  code = _PROCESS.format(tests=os.path.dirname(__file__))

  def start(name: str, folder: str, devices: int, free: int, share=(0, 1)):
    arguments = [devices, free, *share, tmp_path / folder, tmp_path / name]
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])

  job = [start("0", "job", 2, LITTLE, (0, 2)), start("1", "job", 1, MORE, (1, 2))]
  assert [process.wait(300) for process in job] == [0, 0]
  made = (tmp_path / "job" / "plan.json").read_bytes()
  (tmp_path / "alone").mkdir()
  (tmp_path / "alone" / "plan.json").write_bytes(made)
  assert start("fit", "alone", 2, MORE).wait(300) == 0
  alone, *both = (Datamodels.load(tmp_path / n) for n in ("fit", "0", "1"))
  equal(alone, both[0])
  equal(alone, both[1])


def test_parts_made_with_other_options_of_jax_are_not_used(tmp_path, monkeypatch) -> None:
  rng = np.random.default_rng(0)
  given, config = (
    (rng.random((40, 5)) < 0.5, rng.normal(size=(40, 2))),
    FitConfig(num_lambdas=2),
  )
  fit_datamodels(*given, config=config, folder=tmp_path)
  monkeypatch.setitem(numerics.PINNED, "default_matmul_precision", "highest")
  with pytest.raises(UserError, match="parts of another fit .computation"):
    fit_datamodels(*given, config=config, folder=tmp_path)
