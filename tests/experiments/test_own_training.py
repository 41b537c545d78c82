"""Experiments whose models a function of the user trains (--retrain)."""

import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from absl.testing import flagsaver
from support.programs import ROOT, contents, start
from support.tables import read_twice

from experiments import fit_datamodels, pipeline, repair, train_subsets
from experiments.config import presets
from experiments.config import settings as settings_lib
from experiments.config.settings import RetrainConfig
from experiments.ops import bank as bank_launcher
from experiments.runtime import launcher, own_training
from experiments.runtime.own_training import OwnTrainer, full_data_margins
from experiments.studies import efficiency, explain
from jaxdm import prng
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.storage import store
from jaxdm.training import networks
from jaxdm.training.collection import Subsets

# Nearest class means, in place of training; each call is written down.
_MEANS = """
import json, os, pathlib, signal
import numpy as np

HERE = pathlib.Path(__file__).parent

def means(dataset):
  x, targets = dataset.train_images, dataset.test_images

  def retrain(masks, labels, seeds):
    kill = HERE / "kill"
    with (HERE / "calls").open("a") as file:
      for mask, label, seed in zip(masks, labels, seeds):
        file.write(json.dumps([mask.tolist(), label[mask].tolist(), int(seed)]) + chr(10))
    if kill.exists() and len((HERE / "calls").read_text().splitlines()) > 100:
      kill.unlink()
      os.kill(os.getpid(), signal.SIGKILL)
    margins = np.zeros((len(masks), len(targets)))
    for row, (mask, label, seed) in enumerate(zip(masks, labels, seeds)):
      logits = [
        -((targets - x[mask & (label == k)].mean(axis=0)) ** 2).sum(axis=1)
        for k in range(dataset.num_classes)
      ]
      own = np.take_along_axis(np.array(logits), dataset.test_labels[None], axis=0)[0]
      for target, k in enumerate(dataset.test_labels):
        other = max(logits[j][target] for j in range(dataset.num_classes) if j != k)
        margins[row, target] = own[target] - other
      margins[row] += 0.1 * np.random.default_rng(int(seed)).normal(size=len(targets))
    return margins

  return retrain
"""
_LOGISTIC = """
import numpy as np
from sklearn.linear_model import LogisticRegression

class Logistic:
  def __init__(self, dataset):
    self.data = dataset

  def __call__(self, masks, labels, seeds):
    x, signs = self.data.train_images, 2 * self.data.test_labels - 1
    margins = []
    for mask, label in zip(masks, labels):
      model = LogisticRegression().fit(x[mask], label[mask])
      margins.append(model.decision_function(self.data.test_images) * signs)
    return np.array(margins)
"""
TINY = {
  "alpha": "0.8",
  "num_models": "100",
  "num_held_out": "10",
  "num_base": "4",
  "max_share": "0.5",
  "num_lambdas": "8",
}


def problem(classes: int = 2) -> Dataset:
  """24 vectors around the means of their classes, and a target of each class."""
  rng = np.random.default_rng(0)
  labels = np.arange(24, dtype=np.int32) % classes
  centres = np.array([[0.0, 0.0], [1.5, 1.5], [-1.5, 1.5]])
  x = (rng.normal(size=(24, 2)) + centres[labels]).astype(np.float32)
  targets = np.arange(classes, dtype=np.int32)
  middle = centres[:classes].mean(axis=0)
  near = (0.3 * centres[targets] + 0.7 * middle).astype(np.float32)
  names = tuple(f"class {k}" for k in range(classes))
  return Dataset("vectors", x, labels, near, targets, names)


@pytest.fixture
def module(tmp_path, monkeypatch) -> Callable[[str, str], pathlib.Path]:
  """Writes a module into a folder of the Python path; it is forgotten afterwards."""
  folder = tmp_path / "code"
  folder.mkdir()
  monkeypatch.syspath_prepend(str(folder))

  def write(name: str, text: str) -> pathlib.Path:
    monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / f"{name}.py").write_text(text)
    return folder

  return write


@pytest.fixture
def arrays(tmp_path) -> Callable[..., str]:
  """Writes the problem as a file."""

  def write(classes: int = 2) -> str:
    data, path = problem(classes), tmp_path / f"{classes}.npz"
    np.savez(
      path,
      train_images=data.train_images,
      train_labels=data.train_labels,
      test_images=data.test_images,
      test_labels=data.test_labels,
    )
    return str(path)

  return write


def trainer(folder, name: str, data: Dataset | None = None, **config) -> OwnTrainer:
  share = config.pop("share", (0, 1))
  given = RetrainConfig(retrain=name, retrain_version=config.pop("version", ""))
  seed = config.pop("seed", 0)
  return OwnTrainer(given, data or problem(), folder, seed=seed, share=share)


@pytest.mark.slow
def test_no_smaller_removal_flips_a_logistic_regression(tmp_path, module, arrays) -> None:
  from sklearn.linear_model import LogisticRegression

  module("own_logistic", _LOGISTIC)
  folder, data = tmp_path / "run", problem()
  given = TINY | {"arrays": arrays(), "retrain": "own_logistic:Logistic"}
  start(pipeline.PROGRAM, folder, toy=given)

  def margin(target: int, removed: tuple[int, ...]) -> float:
    mask = np.ones(24, bool)
    mask[list(removed)] = False
    model = LogisticRegression().fit(data.train_images[mask], data.train_labels[mask])
    sign = 2 * data.test_labels[target] - 1
    return float(sign * model.decision_function(data.test_images[[target]])[0])

  found = [
    r for r in read_twice(folder / "brittleness.csv") if r["method"] == "datamodel"
  ]
  assert len(found) == 2
  for row in found:
    target, k = int(row["target"]), int(row["k"])
    removed = tuple(int(i) for i in row["examples"].split()[:k])
    assert margin(target, removed) <= 0
    smaller = (s for size in range(1, k) for s in itertools.combinations(range(24), size))
    assert all(margin(target, s) > 0 for s in smaller)
  # What needs networks is left out, and the report has the rest.
  for stage in ("brittleness", "label_flip"):
    record = json.loads((folder / "stages" / f"{stage}.json").read_text())
    assert record["summary"]["methods"].keys() == {"datamodel", "random"}
  summary = json.loads((folder / "summary.json").read_text())
  assert summary["settings"]["retrain"]["retrain"] == "own_logistic:Logistic"
  assert not {"network", "train", "gradient"} & summary["settings"].keys()
  start(bank_launcher.PROGRAM, folder, toy={}, do="verify")


@pytest.mark.slow
def test_no_smaller_repair_makes_a_logistic_regression_right(tmp_path, module) -> None:
  from sklearn.linear_model import LogisticRegression

  module("own_logistic", _LOGISTIC)
  data = problem()
  wrong = 1 - data.test_labels  # As if each target were of the other class.
  np.savez(
    tmp_path / "wrong.npz",
    train_images=data.train_images,
    train_labels=data.train_labels,
    test_images=data.test_images,
    test_labels=wrong,
  )
  given = TINY | {"retrain": "own_logistic:Logistic", "methods": "datamodel,random"}
  given["arrays"] = str(tmp_path / "wrong.npz")
  for stage in (train_subsets, fit_datamodels, repair):
    start(stage.PROGRAM, tmp_path / "run", toy=given)

  def margin(row: dict[str, str], changed: tuple[int, ...]) -> float:
    mask, labels, target = np.ones(24, bool), data.train_labels.copy(), int(row["target"])
    if row["change"] == "removal":
      mask[list(changed)] = False
    else:
      labels[list(changed)] = wrong[target]
    model = LogisticRegression().fit(data.train_images[mask], labels[mask])
    sign = 2 * wrong[target] - 1
    return float(sign * model.decision_function(data.test_images[[target]])[0])

  table = read_twice(tmp_path / "run" / "repair.csv")
  assert {row["method"] for row in table} == {"datamodel", "random"}
  claims = [r for r in table if r["method"] == "datamodel" and r["censored"] == "False"]
  assert {row["change"] for row in claims} == {"removal", "relabel"}
  for row in claims:
    changed, k = tuple(json.loads(row["changed"])), int(row["k"])
    assert len(changed) == k and margin(row, changed) > 0
    others = np.flatnonzero(data.train_labels != wrong[int(row["target"])])
    allowed = range(24) if row["change"] == "removal" else others.tolist()
    smaller = (s for size in range(1, k) for s in itertools.combinations(allowed, size))
    assert all(margin(row, s) <= 0 for s in smaller)


@pytest.mark.slow
def test_a_killed_run_continues_and_trains_nothing_twice(
  tmp_path, module, arrays
) -> None:
  code, found = module("own_means", _MEANS), {}
  for name in ("whole", "killed"):
    folder = tmp_path / name
    flags = TINY | {"arrays": arrays(3), "retrain": "own_means:means"}
    flags |= {"workdir": str(folder), "methods": "datamodel,random"}
    command = [sys.executable, "-m", "experiments.pipeline"]
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    path = os.pathsep.join([str(ROOT), str(code)])
    run = functools.partial(
      subprocess.run,
      command,
      cwd=ROOT,
      env={**os.environ, "PYTHONPATH": path},
      capture_output=True,
    )
    if name == "killed":
      (code / "kill").touch()
      assert run().returncode == -signal.SIGKILL
      assert not (folder / "report.html").exists()
    done = run()
    assert done.returncode == 0, done.stderr.decode()
    calls = (code / "calls").read_text().splitlines()
    (code / "calls").unlink()
    tables = {p.name: p.read_bytes() for p in folder.glob("*.csv")}
    stored = contents(folder / "bank" / "subsets" / "margins")
    found[name] = calls, tables, stored
  (calls, *whole), (again, *killed) = found["whole"], found["killed"]
  assert whole == killed
  assert len(set(calls)) == len(calls)
  # Only the part that the kill interrupted is trained again.
  assert set(again) == set(calls) and len(again) - len(calls) <= 32


def test_flags_that_say_nothing_of_a_function_are_refused(
  tmp_path, module, arrays
) -> None:
  module("own_means", _MEANS)
  module("own_typo", "def f(:")
  given = TINY | {"arrays": arrays()}
  for more, message in (
    (
      {"retrain": "own_means:means", "width": "4"},
      "--width has no effect with --retrain",
    ),
    ({"retrain": "own_means:means", "keep_logits": "true"}, "--keep_logits has no ef"),
    (
      {"retrain": "own_means:means", "chunk": "4"},
      "--chunk has no effect with --retrain",
    ),
    ({"retrain": "own_means:means", "flip_to": "best"}, "--flip_to must be runner-up"),
    ({"retrain": "own_means:means", "methods": "trak"}, "--methods=trak need gradients"),
    ({"retrain": "own_means:nobody"}, "--retrain=own_means:nobody cannot be imported"),
    ({"retrain": "no_such:f"}, "--retrain=no_such:f cannot be imported: No module"),
    ({"retrain": "own_means"}, "--retrain must be package.module:factory, got"),
    ({"retrain": "own_means:HERE"}, "--retrain=own_means:HERE must be a function that"),
    ({"retrain": "sys:exit"}, "--retrain=sys:exit is in a module without a source"),
    ({"retrain": "own_typo:f"}, "--retrain=own_typo:f raised SyntaxError: "),
    ({"retrain": "own_means:means", "priors": "trak"}, "--priors=trak need scores of"),
    ({"retrain_version": "2"}, "--retrain_version is for --retrain"),
  ):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
      start(train_subsets.PROGRAM, tmp_path / "run", toy=given | more)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_models_of_networks_and_of_functions_never_mix(tmp_path, module, arrays) -> None:
  module("own_means", _MEANS)
  own = {"retrain": "own_means:means"}
  linear = {"network": "linear", "batch_size": "4"}
  toy = {"arrays": arrays(), "num_models": "12", "num_held_out": "2", "num_base": "2"}
  start(train_subsets.PROGRAM, tmp_path / "own", toy=toy | own)
  start(train_subsets.PROGRAM, tmp_path / "own", toy={})  # It is remembered.
  start(train_subsets.PROGRAM, tmp_path / "net", toy=toy | linear)
  for folder, more in (("own", linear | {"retrain": ""}), ("net", own)):
    with pytest.raises(SystemExit, match="holds other models .*--retrain: stored"):
      start(train_subsets.PROGRAM, tmp_path / folder, toy=more)
  with pytest.raises(SystemExit, match="holds other models .*--retrain_version"):
    start(train_subsets.PROGRAM, tmp_path / "own", toy={"retrain_version": "2"})
  for study, message, more in (
    (explain, "--retrain: this study needs the logits", {}),
    (efficiency, "--ways: trak need scores of networks", {"ways": "trak"}),
  ):
    with pytest.raises(SystemExit, match=message):
      start(study.PROGRAM, tmp_path / "own", toy=more)
  np.save(tmp_path / "masks.npy", np.random.default_rng(0).random((30, 9)) < 0.5)
  np.save(tmp_path / "margins.npy", np.zeros((30, 2), np.float32))
  files = {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}
  with pytest.raises(SystemExit, match="is an experiment on images"):
    start(fit_datamodels.PROGRAM, tmp_path / "own", toy=files)


@pytest.mark.slow
def test_the_largest_root_seed_gives_seeds_of_its_own(tmp_path, module, arrays) -> None:
  code = module("own_means", _MEANS)
  toy = {"arrays": arrays(), "num_models": "12", "num_held_out": "2", "num_base": "2"}
  toy |= {"retrain": "own_means:means", "seed": str(2**32 - 1)}
  start(train_subsets.PROGRAM, tmp_path / "run", toy=toy)
  calls = (code / "calls").read_text().splitlines()
  seeds = [json.loads(line)[-1] for line in calls]
  assert len(seeds) == len(set(seeds)) == 12 + 2 * 2 + 2


@pytest.mark.parametrize(
  "body,message",
  [
    ("return np.zeros((len(masks), 3))", r"retrain must return margins .*\[2, 3\]$"),
    (
      "return [['a', 'b']] * len(masks)",
      "retrain must return margins .*: they must hold .*<U1",
    ),
    ("return masks.sum()", "retrain must return margins"),
    ("return [[1.0], [1.0, 2.0]]", "retrain=wrong:factory raised ValueError: "),
    (
      "return type('T', (), {'__array__': lambda s, *a, **k: 1 / 0})()",
      "retrain=wrong:factory raised ZeroDivisionError",
    ),
    ("raise KeyError('x')", "retrain=wrong:factory raised KeyError: 'x'"),
  ],
)
def test_margins_that_are_none_end_in_one_line(tmp_path, module, body, message) -> None:
  text = "import numpy as np\ndef factory(dataset):\n  def f(masks, labels, seeds):\n"
  module("wrong", f"{text}    {body}\n  return f\n")
  with pytest.raises(UserError, match=f"^{message}"):
    trainer(tmp_path / "bank", "wrong:factory")(
      np.ones((2, 24), bool), problem().train_labels, [0, 1]
    )


def test_a_factory_that_returns_no_function_is_named(tmp_path, module) -> None:
  module("wrong", "def factory(dataset):\n  return 3\n")
  with pytest.raises(UserError, match="^retrain=wrong:factory must return a function"):
    trainer(tmp_path, "wrong:factory")(
      np.ones((1, 24), bool), problem().train_labels, [0]
    )


def test_rows_that_are_not_finite_are_models_that_diverged(tmp_path, module) -> None:
  text = "import numpy as np\ndef {}(dataset):\n  return lambda m, l, s: {}\n"
  some = "np.where(np.arange(len(m))[:, None] % 2, [[1.0, np.nan]], [[1.0, 1e300]])"
  fine = "np.where(np.arange(len(m))[:, None] < 2, [[1.0, 2.0]], [[np.inf, 0.0]])"
  module("rows", text.format("some", some) + text.format("fine", fine))
  bad = trainer(tmp_path / "some", "rows:some")
  with pytest.raises(UserError, match="not finite for 4 of 4 models on all data"):
    full_data_margins(bad, "rows:some", 4, lambda *_: None)
  assert bad.diverged == 4
  good = trainer(tmp_path / "fine", "rows:fine")
  found = full_data_margins(good, "rows:fine", 5, lambda *_: None)
  np.testing.assert_array_equal(found, [[1, 2], [1, 2]])
  assert good.diverged == 3


def test_shards_make_the_store_of_one_process(tmp_path, module) -> None:
  module("own_means", _MEANS)
  subsets = Subsets(alpha=0.8)
  stores = []
  for name, shares in (("one", [(0, 1)]), ("three", [(2, 3), (0, 3), (1, 3)])):
    for share in shares:
      own = trainer(tmp_path / name, "own_means:means", share=share)
      collection = own.open_subsets("subsets", subsets, 70)
      own.collect(collection)
    stores.append(contents(tmp_path / name / "subsets" / "margins"))
  assert stores[0] == stores[1] and len(stores[0]) > 1
  # What is stored is what the function says of the set, the labels and the seed.
  masks = np.unpackbits(collection.store.read("masks", slice(0, 70)), axis=1, count=24)
  labels = np.tile(problem().train_labels, (70, 1))
  seeds = prng.model_seeds("subset", 70)
  function = sys.modules["own_means"].means(problem())
  expected = function(masks.astype(bool), labels, seeds).astype(np.float32)
  np.testing.assert_array_equal(collection.store.read("margins", slice(0, 70)), expected)


def test_every_model_has_a_seed_of_its_own(tmp_path, module) -> None:
  numbers = np.arange(1000)
  families = [Subsets(alpha=0.5, family=f"subset{r}") for r in ("", "-1", "-2", "-9")]
  seeds = [own_training._seeds(one, numbers) for one in families]
  seeds += [prng.model_seeds(f, 1000) for f in ("search", "verify", "base", "curve")]
  assert len(np.unique(np.concatenate(seeds))) == 1000 * len(seeds)
  assert max(map(np.max, seeds)) < 2**32
  # Another root seed, other seeds; nothing is drawn twice under either.
  module(
    "seen", "def f(d):\n  return lambda m, l, s: s[:, None] % 2**20 * [[1.0, 1.0]]\n"
  )
  masks, labels = np.ones((50, 24), bool), problem().train_labels
  first, other = (
    trainer(tmp_path / str(seed), "seen:f", seed=seed)(masks, labels, numbers[:50])
    for seed in (0, 1)
  )
  assert (first != other).all() and len(np.unique(other[:, 0])) == 50


def test_all_that_margins_depend_on_is_in_the_identity(tmp_path, module) -> None:
  module("own_means", _MEANS)
  data, name = problem(), "own_means:means"
  moved = Dataset(
    data.name,
    data.train_images + 1,
    data.train_labels,
    data.test_images,
    data.test_labels,
    data.class_names,
  )
  base = trainer(tmp_path, name)
  _ = base.changes
  others = [trainer(tmp_path, name, moved), trainer(tmp_path, name, seed=1)]
  others.append(trainer(tmp_path, name, version="2"))
  module("own_means", _MEANS + "\nagain = means\n")
  others += [trainer(tmp_path, name), trainer(tmp_path, "own_means:again")]
  found = [json.dumps(one.identity()) for one in (base, *others)]
  assert len(set(found)) == len(found)
  for other in others:
    with pytest.raises(store.StoreError, match="holds other models"):
      _ = other.changes


def test_what_needs_networks_is_left_out_and_named(capsys) -> None:
  experiment = presets.PRESETS["fashion"]()
  found = own_training.adapt(experiment)
  assert found.compare.names == ("datamodel", "random")
  assert found.prior.priors == "none"
  [line] = capsys.readouterr().out.splitlines()
  assert line.startswith("left out: influence, similar, prior influence+covariance, si")
  assert own_training.adapt(found) == found and not capsys.readouterr().out
  free = [name for name in settings_lib.PRIORS if not own_training.needs_networks(name)]
  assert free == ["none", "class"]


def test_a_module_is_lowered_once_when_a_workdir_is_opened(
  tmp_path, module, arrays, monkeypatch
) -> None:
  module("own_net", "from flax import linen as nn\ndef net(k):\n  return nn.Dense(k)\n")
  lowered, identity = [], networks._identity

  def counted(*arguments) -> object:
    lowered.append(arguments)
    return identity(*arguments)

  monkeypatch.setattr(networks, "_identity", counted)
  flags = {"arrays": arrays(), "network": "own_net:net", "batch_size": "4"}
  with flagsaver.as_parsed(workdir=str(tmp_path / "run"), **flags):
    run = launcher.open_run()
  assert "network" in run.trainer.identity() and run.trainer.fleet.recipe
  assert len(lowered) == 1
