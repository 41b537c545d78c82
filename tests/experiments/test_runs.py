"""Runs that are shared, stopped, damaged and looked after."""

import functools
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from absl.testing import flagsaver
from support import programs
from support.programs import TOY_OF_DRILL as TOY
from support.programs import store_of

from experiments import fit_datamodels, train_subsets
from experiments.ops import bank, drill, status, toy_runs
from experiments.runtime import launcher
from experiments.runtime.workdir import Workdir
from jaxdm.datamodels.model import Datamodels
from jaxdm.storage import checksummed_json, maintenance, store, zarr_arrays

start = functools.partial(programs.start, toy=TOY)


def of_base_models(folder: pathlib.Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in (folder / "base_models").iterdir()}


def complete(folder: pathlib.Path) -> bool:
  return json.loads((folder / "stages" / "train_subsets.json").read_text())["complete"]


@pytest.mark.slow
def test_shards_meet_in_the_store(trained, tmp_path, capsys) -> None:
  folder = tmp_path / "run"
  start(train_subsets.PROGRAM, folder, shard="1/2")
  assert "others have 55 models to train" in capsys.readouterr().out
  assert not complete(folder)
  with pytest.raises(SystemExit, match="lacks a finished train_subsets"):
    start(fit_datamodels.PROGRAM, folder)
  start(train_subsets.PROGRAM, folder, shard="0/2")
  assert complete(folder)
  assert toy_runs.store_files(folder) == toy_runs.store_files(trained)
  assert of_base_models(folder) == of_base_models(trained)
  hosts = [line["host"] for line in status.last_lines(epath_of(folder))]
  assert hosts == ["0/2", "1/2"]


@pytest.mark.slow
def test_what_the_environment_tells_jax_changes_no_bit(tmp_path) -> None:
  told = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_RANDOM_SEED_OFFSET": "3",
  }
  with flagsaver.as_parsed(drill_models="40"):
    for name, more in (("plain", {}), ("told", told)):
      more = {**os.environ, **more}
      toy_runs.finish([toy_runs.start(tmp_path / name, env=more)])
  plain, other = (toy_runs.store_files(tmp_path / name) for name in ("plain", "told"))
  assert plain == other and len(plain) > 10
  plain, other = (of_base_models(tmp_path / name) for name in ("plain", "told"))
  for name in plain.keys() - {"record.json"}:  # Which says what made them.
    assert plain[name] == other[name]


def epath_of(folder: pathlib.Path):
  return Workdir(str(folder)).path


@pytest.mark.slow
def test_one_job_of_two_processes_makes_the_same_store(tmp_path) -> None:
  with flagsaver.as_parsed(drill_models="70"):
    toy_runs.finish([toy_runs.start(tmp_path / "one")])
    toy_runs.finish(toy_runs.start_job(tmp_path / "two", 2))
  assert complete(tmp_path / "two")
  assert toy_runs.store_files(tmp_path / "one") == toy_runs.store_files(tmp_path / "two")
  # And they fit together what one process fits alone.
  with flagsaver.flagsaver(drill_models=70):
    toy_runs.finish([toy_runs.start(tmp_path / "one", launcher="fit_datamodels")])
    toy_runs.finish(toy_runs.start_job(tmp_path / "two", 2, launcher="fit_datamodels"))
  one, two = (Datamodels.load(tmp_path / name / "datamodels") for name in ("one", "two"))
  np.testing.assert_allclose(one.lambdas_t, two.lambdas_t, rtol=1e-5)
  np.testing.assert_allclose(one.weights_tn, two.weights_tn, atol=2e-3)
  assert len(list((tmp_path / "two" / "datamodels.parts").glob("*/fit-*"))) == 2


@pytest.mark.slow
def test_one_job_of_two_processes_searches_as_one_does(trained, tmp_path) -> None:
  some = {"methods": "influence,random"}
  folders = tmp_path / "one", tmp_path / "two"
  for folder in folders:
    shutil.copytree(trained, folder)
    start(fit_datamodels.PROGRAM, folder)
  more = [f"--{name}={value}" for name, value in {**some, "epochs": "1"}.items()]
  with flagsaver.flagsaver(drill_models=70):
    toy_runs.finish([toy_runs.start(folders[0], *more, launcher="pipeline")])
    toy_runs.finish(toy_runs.start_job(folders[1], 2, *more, launcher="pipeline"))
  one, two = map(toy_runs.result_files, folders)
  assert one == two and {"brittleness.csv", "label_flip.csv"} <= set(one)
  # And each process has trained some of the models.
  logs = [path.read_text() for path in folders[1].glob("logs/host-*-of-2.jsonl")]
  assert len(logs) == 2 and all("label_flip" in text for text in logs)
  stores = [maintenance.summary(folder / "bank" / "changes") for folder in folders]
  assert stores[0].rows == stores[1].rows


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_that_can_be_continued(tmp_path, number) -> None:
  run = tmp_path / "run"
  with flagsaver.as_parsed(drill_models="5000"):
    process = toy_runs.start(run)
    deadline = time.monotonic() + 120
    while not list(run.glob("bank/subsets/done/*")) and time.monotonic() < deadline:
      time.sleep(0.02)
    process.send_signal(number)
    sent = time.monotonic()
    assert process.wait(20) == 75
    assert time.monotonic() - sent < 10
  kept = toy_runs.markers(run)
  assert kept and not complete(run)
  for path in run.glob("bank/*"):
    assert list(maintenance.damage(path)) == []


@pytest.mark.slow
def test_a_signal_ends_all_processes_of_a_job_in_order(tmp_path) -> None:
  run = tmp_path / "run"
  with flagsaver.flagsaver(drill_models=5000):
    job = toy_runs.start_job(run, 2)
    deadline = time.monotonic() + 120
    while len(toy_runs.markers(run)) < 4 and time.monotonic() < deadline:
      time.sleep(0.02)
    for process in job:
      process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    assert [process.wait(20) for process in job] == [75, 75]
    assert time.monotonic() - sent < 10
  assert not complete(run)


@pytest.mark.slow
def test_flipped_bits_are_noticed_and_repaired(tmp_path) -> None:
  with flagsaver.flagsaver(drill_models=70):
    drill.flip_bytes(tmp_path, 8, np.random.default_rng(0))


@pytest.mark.slow
def test_writers_of_one_store_tear_nothing(tmp_path, capsys) -> None:
  drill.writers(tmp_path, 1.0)
  assert "none torn" in capsys.readouterr().out


@pytest.mark.slow
def test_a_drill_sees_what_is_wrong(tmp_path, monkeypatch) -> None:
  monkeypatch.setattr(maintenance, "damage", lambda path: iter(()))
  with flagsaver.flagsaver(drill_models=20), pytest.raises(SystemExit, match="WRONG"):
    drill.flip_bytes(tmp_path, 1, np.random.default_rng(0))


@pytest.mark.slow
def test_a_damaged_bank_is_repaired(trained, tmp_path, capsys) -> None:
  folder = tmp_path / "run"
  shutil.copytree(trained, folder)
  whole = toy_runs.store_files(folder)
  start(bank.PROGRAM, folder, do="verify")
  for name in ("subsets/masks/c/1/0", "subsets/manifest.json"):
    path = folder / "bank" / name
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
      start(bank.PROGRAM, folder, do="verify")
    assert caught.value.code == 1
    assert name in capsys.readouterr().out
    start(bank.PROGRAM, folder, do="repair")
    start(train_subsets.PROGRAM, folder)
    assert toy_runs.store_files(folder) == whole


@pytest.mark.slow
def test_damage_to_the_models_on_all_data_is_named_and_repaired(
  trained, tmp_path, capsys
) -> None:
  folder = tmp_path / "run"
  shutil.copytree(trained, folder)
  whole = of_base_models(folder)
  path = folder / "base_models" / "logits.npy"
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  with pytest.raises(SystemExit, match="logits.npy is damaged: .*--do=repair"):
    start(fit_datamodels.PROGRAM, folder)
  path = folder / "base_models" / "trak.npy"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(SystemExit) as caught:
    start(bank.PROGRAM, folder, do="verify")
  printed = capsys.readouterr().out
  assert caught.value.code == 1 and "trak.npy" in printed and "logits.npy" in printed
  assert "influence.npy" not in printed
  start(bank.PROGRAM, folder, do="repair")
  assert not path.exists()
  start(train_subsets.PROGRAM, folder)
  assert of_base_models(folder) == whole
  (folder / "base_models" / "record.json").unlink()
  with pytest.raises(SystemExit) as caught:
    start(bank.PROGRAM, folder, do="verify")
  assert caught.value.code == 1 and "record.json" in capsys.readouterr().out
  start(bank.PROGRAM, folder, do="repair")
  assert not complete(folder)
  start(bank.PROGRAM, folder, do="verify")  # As after a kill: nothing is damaged.


@pytest.mark.slow
def test_training_sets_of_another_seed_are_noticed(trained, tmp_path, capsys) -> None:
  folder = tmp_path / "run"
  shutil.copytree(trained, folder)
  with flagsaver.as_parsed(workdir=str(folder), **TOY):
    collection = launcher.open_run().subsets.collections()[0]
  rows = slice(32, 64)
  masks = collection.store.read("masks", rows)
  masks[3] ^= 255
  margins = collection.store.read("margins", rows)
  collection.store.write(1, {"masks": masks, "margins": margins}, {"diverged": 0})
  with pytest.raises(SystemExit):
    start(bank.PROGRAM, folder, do="verify")
  assert "subsets/masks/c/1/0: not the subsets of its seed" in capsys.readouterr().out


@pytest.mark.slow
def test_workdirs_of_one_experiment_are_merged(trained, tmp_path, capsys) -> None:
  for index in (0, 1):
    folder = tmp_path / str(index)
    start(train_subsets.PROGRAM, folder, shard=f"{index}/2")
  start(bank.PROGRAM, tmp_path / "0", do="merge", other=str(tmp_path / "1"))
  assert "no model is missing" in capsys.readouterr().out
  start(train_subsets.PROGRAM, tmp_path / "0")
  assert toy_runs.store_files(tmp_path / "0") == toy_runs.store_files(trained)
  other = tmp_path / "other"
  start(train_subsets.PROGRAM, other, shard="1/2", seed="1")
  with pytest.raises(
    SystemExit, match="--other=.*other models .--seed: stored 1, asked 0"
  ):
    start(bank.PROGRAM, tmp_path / "0", do="merge", other=str(other))


@pytest.mark.slow
def test_what_is_exported_can_be_fitted_as_files(trained, tmp_path, capsys) -> None:
  start(bank.PROGRAM, trained, do="export", other=str(tmp_path / "npy"))
  masks = np.load(tmp_path / "npy" / "masks.npy")
  margins = np.load(tmp_path / "npy" / "margins.npy")
  assert (masks.shape, masks.dtype) == ((78, 48), bool)
  assert (margins.shape, margins.dtype) == ((78, 20), np.float16)
  assert (masks.sum(axis=1) == 24).all()
  with flagsaver.as_parsed(workdir=str(trained), **TOY):
    opened = launcher.open_run()
    expected = opened.subsets.fitted_rows().margins_mt[:]
  np.testing.assert_array_equal(margins[:70], expected.astype(np.float16))
  np.testing.assert_array_equal(
    masks[:70],
    opened.subsets.collections()[0].subsets.masks(0, masks.shape[1], np.arange(70)),
  )


@pytest.mark.slow
def test_logits_and_half_precision_by_choice(trained, tmp_path) -> None:
  folder = tmp_path / "run"
  asked = {"margin_dtype": "float16", "keep_logits": "true"}
  start(train_subsets.PROGRAM, folder, **asked)
  start(bank.PROGRAM, folder, do="verify", **asked)
  start(bank.PROGRAM, folder, do="export", other=str(tmp_path / "npy"), **asked)
  whole, half = store_of(trained), store_of(folder, **asked)
  expected = whole.read("margins", slice(0, 70))
  margins = half.read("margins", slice(0, 70))
  assert margins.dtype == np.float16
  np.testing.assert_array_equal(margins, expected.astype(np.float16))
  logits = np.load(tmp_path / "npy" / "logits.npy")[:70].astype(np.float32)
  assert logits.shape == (70, 20, 2)
  with flagsaver.as_parsed(workdir=str(folder), **TOY):
    labels = launcher.open_run().dataset.test_labels
  right = logits[:, np.arange(20), labels] - logits[:, np.arange(20), 1 - labels]
  np.testing.assert_allclose(right, expected, atol=0.02)
  # And what is fitted to them is what is fitted to the others.
  start(fit_datamodels.PROGRAM, folder, **asked)


@pytest.mark.slow
def test_show_and_status_tell_what_there_is(trained, capsys) -> None:
  start(bank.PROGRAM, trained, do="show")
  assert "subsets" in capsys.readouterr().out
  start(status.PROGRAM, trained, toy={})
  printed = capsys.readouterr().out
  assert "finished" in printed and "78" in printed and "0/1" in printed


def test_the_drill_of_scale_finds_what_it_left_out(tmp_path, monkeypatch, capsys) -> None:
  monkeypatch.setattr(drill, "_SIZES", ((3_200, 600),))
  drill.scale(tmp_path)
  assert "3,200" in capsys.readouterr().out
  sparse = drill._sparse
  monkeypatch.setattr(drill, "_sparse", lambda *args: (*sparse(*args)[:1], 2))
  with pytest.raises(SystemExit, match="WRONG: another chunk is missing"):
    drill.scale(tmp_path)
  monkeypatch.setattr(drill, "_sparse", sparse)
  sparse(tmp_path / "3200-600", 3_200, 600)
  numbers = drill._column_numbers
  monkeypatch.setattr(drill, "_column_numbers", lambda targets: numbers(targets) + 1)
  monkeypatch.setattr(drill, "_sparse", lambda *args: (100, 1))
  with pytest.raises(SystemExit, match="WRONG: other numbers are read"):
    drill.scale(tmp_path)


def test_opening_and_reading_a_part_do_not_grow_with_the_whole(
  tmp_path, monkeypatch
) -> None:
  columns = {"margins": zarr_arrays.ArraySpec("float32", 10_000)}
  opened = store.Store(tmp_path, columns=columns, settings={}, rows_per_chunk=32)
  margins = np.zeros((32, 10_000), np.float32)
  margins[:, 9_000] = np.arange(32)
  for chunk in (0, 4_000, 9_374):  # Of 300,000 models.
    opened.write(chunk, {"margins": margins})
  read, looked_at = checksummed_json.read, []
  monkeypatch.setattr(
    checksummed_json, "read", lambda path: looked_at.append(path.name) or read(path)
  )
  opened = store.Store(tmp_path, columns=columns, settings={})
  assert opened.chunks() == {0: 32, 4_000: 32, 9_374: 32}
  rows = slice(9_374 * 32, 300_000)
  np.testing.assert_array_equal(
    opened.read("margins", rows, slice(9_000, 9_001))[:, 0], np.arange(32)
  )
  # And the marker of the chunk that was read, for its digests.
  assert looked_at == ["manifest.json", "00000000009374-32.json"]


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(trained, tmp_path, monkeypatch) -> None:
  jumps = itertools.cycle([0.0, -1e6, 1e9, 3.0])
  # What tells the time, for logs and for progress bars.
  monkeypatch.setattr(time, "time", lambda: next(jumps))
  monkeypatch.setattr("tqdm.std.time", lambda: next(jumps))
  start(train_subsets.PROGRAM, tmp_path / "run")
  assert toy_runs.store_files(tmp_path / "run") == toy_runs.store_files(trained)


@pytest.mark.slow
@pytest.mark.skipif(
  not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode,
  reason="mounting a small disk needs user namespaces",
)
def test_a_full_disk_ends_a_run_that_can_be_continued(trained, tmp_path) -> None:
  disk, out = tmp_path / "disk", tmp_path / "out"
  disk.mkdir()
  flags = " ".join(f"--{name}={value}" for name, value in TOY.items())
  run = f"{sys.executable} -m experiments.train_subsets --workdir={disk}/run {flags}"
  script = f"""
    mount -t tmpfs -o size=112k none {disk}
    {run} > /dev/null && exit 3
    echo $(ls {disk}/run/bank/subsets/done | grep json$)
    mount -o remount,size=100m {disk}
    {run} > /dev/null && cp -r {disk}/run {out}
  """
  command = ["unshare", "-rm", "sh", "-c", script]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 1 <= len(done.stdout.splitlines()[0].split()) < 3  # Of three chunks.
  message = (
    "cannot be written: the disk is full; make room, and the same command continues"
  )
  assert done.stderr.count(message) == 1 and done.stderr.count(f"error: {disk}/run/") == 1
  assert "Traceback" not in done.stderr
  for path in (out / "bank").iterdir():
    maintenance.sweep(path)
  assert toy_runs.store_files(out) == toy_runs.store_files(trained)


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/dev/shm").exists(), reason="needs a second disk")
def test_stores_may_be_on_another_filesystem(trained, tmp_path) -> None:
  with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
    folder = tmp_path / "run"
    assert os.stat(other).st_dev != os.stat(tmp_path).st_dev
    start(train_subsets.PROGRAM, folder, bank_dir=f"{other}/bank")
    assert not (folder / "bank").exists()
    assert toy_runs.files(pathlib.Path(other) / "bank") == toy_runs.store_files(trained)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_ends_what_does_not_end_by_itself(name) -> None:
  code = "from experiments.runtime import preemption; import time; "
  code += "preemption.GRACE_SECONDS = 0.5; "
  code += "preemption.listen(); print('ready', flush=True); time.sleep(60)"
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout and process.stdout.readline() == "ready\n"
  process.send_signal(signal.Signals[name])
  assert process.wait(10) == 75
  assert process.stderr and f"{name}: ending within" in process.stderr.read()


ROOT = pathlib.Path(__file__).parents[2]


def fake(folder: pathlib.Path, name: str, body: str) -> None:
  path = folder / name
  path.write_text(f"#!/bin/sh\n{body}\n")
  path.chmod(0o755)


@pytest.mark.parametrize(
  "env,expected",
  [
    (
      {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
      | {"SLURM_ARRAY_JOB_ID": "70"},
      ["py -m experiments.train_subsets --shard=3/8 --workdir=w", "requeue 70_3"],
    ),
    (
      {"SLURM_JOB_ID": "71"},
      ["py -m experiments.pipeline --distributed --workdir=w", "requeue 71"],
    ),
  ],
)
def test_the_slurm_script_shares_and_queues_again(tmp_path, env, expected) -> None:
  fake(tmp_path, "srun", f'echo "$@" >> {tmp_path}/log; exit 75')
  fake(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/log')
  env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "py", **env}
  command = ["bash", str(ROOT / "experiments" / "ops" / "slurm.sbatch"), "--workdir=w"]
  assert subprocess.run(command, env=env).returncode == 75
  assert (tmp_path / "log").read_text().splitlines() == expected


def test_the_pod_script_prints_what_it_would_run() -> None:
  script, found = str(ROOT / "experiments" / "ops" / "tpu_pod.sh"), []
  for action in (
    ["create", "n", "z", "v5litepod-16"],
    ["install", "n", "z"],
    ["launch", "n", "z", "--preset=cifar10"],
    ["collect", "n", "z", "2", "out", "--data_dir=here"],
    ["delete", "n", "z"],
  ):
    env = {"DRY_RUN": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
      ["bash", script, *action], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found += done.stdout.splitlines()
  text = "\n".join(found)
  assert "tpu-vm create n --zone=z --accelerator-type=v5litepod-16" in text
  assert "--distributed\\ --own_disk\\ --preset=cifar10" in text
  merge = (
    "experiments.ops.bank --workdir=out/run --do=merge --other=out/worker-{} --data_dir"
  )
  assert all(merge.format(worker) in text for worker in (0, 1))
  assert text.index("rm -rf out/worker-1") < text.index("jaxdm/run out/worker-1")
  assert subprocess.run(["bash", script, "fly"], capture_output=True).returncode == 2


@pytest.mark.slow
def test_parts_are_collected_again_and_again(tmp_path) -> None:
  """With another program in place of gcloud, which copies as scp does."""
  folder, pod = tmp_path / "out", tmp_path / "pod"
  copy = "n=; for a; do case $a in --worker=*) n=${a#*=};; esac; done; shift 5; "
  fake(tmp_path, "gcloud", copy + f'cp -r "{pod}/$n" "$2"')
  toy = [f"--{name}={value}" for name, value in TOY.items()]
  env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable}
  command = [
    "bash",
    str(ROOT / "experiments" / "ops" / "tpu_pod.sh"),
    "collect",
    "n",
    "z",
    "2",
  ]

  def collected() -> int:
    done = subprocess.run([*command, str(folder), *toy], env={**os.environ, **env})
    assert done.returncode == 0
    return store_of(folder / "run").chunks().__len__()

  for i in range(2):
    start(train_subsets.PROGRAM, pod / str(i), shard=f"{i}/4")
  first = collected()
  for i in range(2):
    start(train_subsets.PROGRAM, pod / str(i), shard=f"{i + 2}/4")
  assert collected() > first
  assert of_base_models(folder / "run") == of_base_models(pod / "0")
  start(train_subsets.PROGRAM, folder / "run")
  assert complete(folder / "run")


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_job(tmp_path) -> None:
  with flagsaver.flagsaver(drill_models=70):
    first, second = toy_runs.start_job(tmp_path / "run", 2, "--peak_learning_rate=1e30")
  assert first.wait(300) == 1
  assert second.wait(300) not in (0, 75)


@pytest.mark.slow
def test_processes_on_disks_of_their_own_do_not_wait(tmp_path) -> None:
  with flagsaver.flagsaver(drill_models=70):
    first, second = toy_runs.start_job(tmp_path, 2, own_disks=True)
    toy_runs.finish([first, second])
  assert not complete(tmp_path / "0") and not complete(tmp_path / "1")
  start(bank.PROGRAM, tmp_path / "0", do="merge", other=str(tmp_path / "1"), epochs="4.0")
  start(train_subsets.PROGRAM, tmp_path / "0", epochs="4.0")
  assert complete(tmp_path / "0")
