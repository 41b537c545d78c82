"""What `python -m experiments.NAME` runs, seen from outside.

Other tests start each launcher's PROGRAM in their own process; these see that PROGRAM
says what it must, and that the module runs it.
"""

import importlib
import pathlib
from typing import Any

import jax
import pytest
from absl import flags
from support import programs

from experiments.runtime.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]
ALONE = (
  "audit",
  "ops.bank",
  "ops.make_problem",
  "studies.efficiency",
  "studies.explain",
  "studies.label_errors",
  "studies.memorisation",
  "studies.moments",
  "studies.planted_repairs",
  "report",
)
JOB = (
  "brittleness",
  "fit_datamodels",
  "label_flip",
  "pipeline",
  "repair",
  "studies.removal_curves",
)
READS_FILES = ("audit", "ops.bank", "fit_datamodels")
LAUNCHERS = (*ALONE, *JOB, "ops.status", "train_subsets")
TAKES_SETTINGS = (
  "bench.aot",
  "bench.accuracy",
  "bench.host",
  "bench.trainer",
  "bench.plan",
  "studies.full_size",
)
# Those whose own settings say how far a search goes.
SEARCHES = (
  "pipeline",
  "brittleness",
  "label_flip",
  "repair",
  "studies.explain",
  "studies.removal_curves",
  *TAKES_SETTINGS,
)
# Flags of their own.
OTHERS = {
  "bench.accuracy": "--against",
  "bench.attribution": "--score_models",
  "bench.coverage": "--simulations",
  "bench.host": "--scale",
  "bench.lasso": "--shapes",
  "bench.trainer": "--scaling",
  "ops.cut_fashion": "--source",
  "ops.image_files": "--archive",
  "ops.drill": "--drill_times",
  "studies.full_size": "--fresh_models",
  "bench.plan": "--bench",
  "bench.searches": "--searches",
  "bench.aot": "--target",
  "leaderboard": "--verify",
  "studies.compare_methods": "--pairs",
}

# Module, arguments, and what its one line on stderr says.
ONE_LINE = [
  *(
    (name, "--shard=0/2", "--shard and --distributed are for programs") for name in ALONE
  ),
  ("ops.status", "--shard=0/2", "--shard and --distributed are for programs"),
  *((name, "--shard=0/2", "--shard: processes that work together must") for name in JOB),
  *((name, "--own_disk", "--own_disk is for train_subsets") for name in JOB),
  ("train_subsets", "--shard=2/2", "--shard must be i/N with 0 <= i < N, got '2/2'"),
  # Whom the workdir is held against: here, a process that does not share its work.
  *((name, "--workdir=HELD", "--workdir=HELD is in use by another") for name in ALONE),
  ("pipeline", "--workdir=HELD", "--workdir=HELD is in use by another"),
  ("train_subsets", "--workdir=HELD --shard=0/2", "--workdir=HELD is in use by another"),
  # What is opened.
  ("fit_datamodels", "--masks=no.npy --margins=no.npy", "--masks=no.npy is not a whole"),
  ("ops.bank", "--do=import", "--masks and --margins are needed"),
  ("ops.status", "--workdir=NONE", "--workdir=NONE holds no experiment"),
  ("ops.status", "--workdir=NONE --alpha=2", "--alpha has no effect in this program"),
  ("pipeline", "--masks=m.npy", "--masks has no effect in this program"),
  ("pipeline", "--out=NONE", "--out has no effect in this program"),
  (
    "studies.removal_curves",
    "--budget_models=3",
    "Unknown command line flag",
  ),
  ("train_subsets", "--own_disk", "--own_disk is for processes of one job"),
  ("train_subsets", "--arrays=NONE", "--arrays=NONE cannot be read"),
  ("train_subsets", "--arrays=NONE --dataset=cifar10", "--arrays is for --dataset=ar"),
  ("train_subsets", "--data_dir=NONE", "--data_dir is for --dataset=folder and for"),
  ("train_subsets", "--background=black", "--background is for image files"),
  ("fit_datamodels", "--masks=no.npy --margins=no.npy --arrays=NONE", "--arrays has no"),
  ("report", "--workdir=NONE --alpha=2", "--alpha must be in (0, 1), got 2.0"),
  ("bench.attribution", "--sides=no", "--sides must be some of influence"),
  ("bench.plan", "--bench=NONE", "--bench=NONE cannot be read"),
  ("bench.trainer", "--rows=w9", "--rows must be some of"),
  ("leaderboard", "", "--scores is needed"),
  ("studies.compare_methods", "", "--tables is needed"),
  ("studies.compare_methods", "--tables=NONE", "NONE is missing"),
  ("leaderboard", "--problem=no", "--problem must be "),
  ("ops.drill", "--drill=nothing", "flag --drill=nothing: value should be one of"),
]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_module_that_a_program_names_for_its_flags_has_some(name) -> None:
  own = importlib.import_module(f"experiments.{name}").PROGRAM.flag_modules
  by_module = flags.FLAGS.flags_by_module_dict()
  assert [m.__name__ for m in own if not by_module.get(m.__name__)] == []


@pytest.mark.parametrize("name", ["brittleness", "label_flip"])
def test_the_pipeline_takes_the_flags_of_its_searches(name) -> None:
  of = {
    program: set(importlib.import_module(f"experiments.{program}").PROGRAM.flag_modules)
    for program in (name, "pipeline")
  }
  assert of[name] <= of["pipeline"]


# What JAX_PLATFORMS may say on a machine without accelerators, and in all programs that
# compute.
MACHINES = [
  ("train_subsets", "cuda"),
  ("pipeline", "rocm"),
  ("report", "tpu"),
  ("ops.bank", "no_such_thing"),
  ("brittleness", "cpu,no_such_thing"),
  ("studies.explain", "CPU"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
  """What HELD and NONE stand for: a workdir that this process holds, and no folder."""
  folder = tmp_path_factory.mktemp("programs")
  return {"HELD": str(folder / "held"), "NONE": str(folder / "none")}


@pytest.fixture(scope="module")
def ran(places) -> dict[tuple[str, ...], dict[str, Any]]:
  """What every program did, by its module, arguments and JAX_PLATFORMS, if it is set."""
  asked = [(name, arguments) for name, arguments, _ in ONE_LINE]
  asked += [(name, "--help") for name in (*LAUNCHERS, *OTHERS)]
  asked += [("ops.status", "--workdir=HELD"), ("ops.status", "--workdir=HELD", "cuda")]
  asked += [(name, "", platforms) for name, platforms in MACHINES]
  parts = []
  for name, text, *platforms in asked:
    for word, path in places.items():
      text = text.replace(word, path)
    if "--workdir" not in text and name in LAUNCHERS:
      text += f" --workdir={places['NONE']}"
    parts.append([name, text.split(), *(platforms or [""])])
  held = Workdir(places["HELD"])
  with held.lock():
    return dict(zip(asked, programs.in_forks(parts), strict=True))


def test_every_program_is_looked_at() -> None:
  mark = 'if __name__ == "__main__":'
  root = ROOT / "experiments"
  files = [path for path in root.rglob("*.py") if mark in path.read_text()]
  programs = {".".join(path.relative_to(root).with_suffix("").parts) for path in files}
  assert programs == {*LAUNCHERS, *OTHERS}


@pytest.mark.parametrize("name", [*LAUNCHERS, *OTHERS])
def test_help_lists_the_flags_that_a_program_has(ran, name) -> None:
  text = ran[name, "--help"]["out"]
  expected = {
    "--workdir": name in (*LAUNCHERS, "bench.host"),
    "--alpha": name in ("pipeline", "train_subsets", *TAKES_SETTINGS),
    "--max_share": name in SEARCHES,
    "--shard": name in (*JOB, "train_subsets"),
    "--own_disk": name in (*JOB, "train_subsets"),
    "--margins": name in READS_FILES,
    OTHERS.get(name, "--bank_dir"): True,
  }
  found = {
    flag: f"\n  {flag}:" in text or f"\n  --[no]{flag[2:]}:" in text for flag in expected
  }
  assert found == expected
  is_partial = name in LAUNCHERS and name not in ("pipeline", "ops.status")
  assert ("python -m experiments.pipeline\n--help lists all" in text) == is_partial


def test_help_teaches_every_setting(ran) -> None:
  for words in (
    "--alpha: Share of the training set",
    "--workdir: Folder",
    "--max_share: The largest",
  ):
    assert words in ran["pipeline", "--help"]["out"]


@pytest.mark.parametrize("name,arguments,message", ONE_LINE)
def test_bad_input_ends_in_one_line(ran, places, name, arguments, message) -> None:
  done = ran[name, arguments]
  for word, path in places.items():
    message = message.replace(word, path)
  assert done["status"] == 1, done
  [line] = done["err"].splitlines()
  assert line.startswith(f"error: {message}")
  assert not pathlib.Path(places["NONE"]).exists()


def test_status_reads_a_workdir_that_is_in_use(ran) -> None:
  done = ran["ops.status", "--workdir=HELD"]
  assert done["status"] == 0 and "store" in done["out"], done


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="here JAX finds accelerators")
@pytest.mark.parametrize("name,platforms", MACHINES)
def test_devices_that_are_not_there_are_one_line(ran, places, name, platforms) -> None:
  done = ran[name, "", platforms]
  assert done["status"] == 1, done
  [line] = done["err"].splitlines()
  assert line.startswith(f"error: JAX_PLATFORMS={platforms} names what this machine, or")
  assert "unset it, or name others" in line
  assert not pathlib.Path(places["NONE"]).exists()


def test_status_needs_no_device(ran) -> None:
  assert ran["ops.status", "--workdir=HELD", "cuda"]["status"] == 0
