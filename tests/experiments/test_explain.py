"""One target's story."""

import csv
import json
import types

import numpy as np
import PIL.Image
import pytest
import scipy.stats
from absl.testing import flagsaver
from support import planted
from support import tables as planted_tables
from support.programs import TOY, start

from experiments import fit_datamodels, train_subsets
from experiments.report_page import opening
from experiments.runtime import launcher
from experiments.studies import explain
from jaxdm.errors import UserError


def test_outcomes_have_exact_and_student_t_intervals() -> None:
  margins = np.array([1.0, 2.0, -0.5, 0.5, np.nan])
  found = explain.outcome("x", margins)
  t = scipy.stats.t.interval(0.95, 3, 0.75, scipy.stats.sem(margins[:4]))
  np.testing.assert_allclose(found.margin, [0.75, *t])
  # Clopper and Pearson: the upper end for 3 of 4 solves P(at most 3) = .025.
  assert found.accuracy[0] == 0.75 and found.models == 4
  np.testing.assert_allclose(scipy.stats.binom.cdf(3, 4, found.accuracy[2]), 0.025)


@pytest.mark.parametrize("size", [*range(1, 45), 199, 200, 5000])
def test_default_sizes_fit_every_class(size) -> None:
  labels = np.repeat([0, 1], [size, 7])
  data = types.SimpleNamespace(
    train_labels=labels, test_labels=np.array([0]), class_names=("small", "other")
  )
  if size == 1:
    with pytest.raises(UserError, match="^target=0 is of the class small, which has 1"):
      explain._sizes(data, 0, {0})
    return
  ks = explain._sizes(data, 0, {0})
  assert ks == sorted(set(ks)) and len(ks) in (1, 2)
  assert set(ks) <= set(range(1, size))
  if size >= 40:
    assert ks == [size // 20, size // 10]
  # What a user gives is still checked, and named.
  with (
    flagsaver.flagsaver(ks=[str(size)]),
    pytest.raises(UserError, match=rf"^ks must be numbers in \[1, {size}\)"),
  ):
    explain._sizes(data, 0, {0})
  # To repair a target, the class that it is taken for must be large enough, too.
  assert explain._sizes(data, 0, {0, 1}) == explain._sizes(
    data, 0, {0 if size < 7 else 1}
  )


@pytest.mark.slow
def test_a_story_removes_and_relabels_what_each_method_names(finished_copy) -> None:
  start(explain.PROGRAM, finished_copy, target="3", ks="2,4", explain_models="3")
  record = json.loads((finished_copy / "stages/explain_3.json").read_text())["summary"]
  names = [outcome["change"] for outcome in record["outcomes"]]
  kinds = ("removed", "relabelled")
  expected = [
    f"{k} {kind}: {m}" for kind in kinds for m in explain.METHODS for k in (2, 4)
  ]
  assert names == ["nothing changed", *expected]
  assert all(outcome["models"] <= 4 for outcome in record["outcomes"])
  assert (finished_copy / "explain_3.png").stat().st_size > 1000
  with flagsaver.as_parsed(workdir=str(finished_copy)):
    opened = launcher.open_run()
  scores = explain.methods.scores(opened, explain.METHODS)
  with open(finished_copy / "explain_3.csv", newline="", encoding="utf-8") as file:
    table = list(csv.DictReader(file))
  class_name = opened.dataset.class_names[opened.dataset.test_labels[3]]
  assert record["caption"].startswith(
    f"Target 3 ({class_name}, {opened.dataset.test_sources[3]})."
  )
  for row in table:
    index = int(row["index"])
    assert row["source"] == opened.dataset.train_sources[index]
    assert row["class"] == opened.dataset.class_names[opened.dataset.train_labels[index]]
  data, margins_rt = opened.dataset, explain.base_models.load(opened).margins_rt
  is_wrong = margins_rt[:, 3].mean() <= 0
  problem = explain.SearchInputs(data.train_labels, data.test_labels, margins_rt)
  for change in explain.changes_of(problem, scores, 3, [2, 4], is_wrong=is_wrong):
    label = data.test_labels[3] ^ is_wrong  # Of the two classes, the one that loses.
    named = [int(row["index"]) for row in table if row["change"] == change.name]
    assert named == [*change.removed, *change.relabelled]
    assert len(change.removed) + len(change.relabelled) in (2, 4)
    assert (data.train_labels[change.relabelled] == label).all()
    if "datamodel" not in change.name:
      assert (data.train_labels[change.removed] == label).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag,value,message",
  [
    ("target", "20", r"--target must be in \[0, 20\), got 20"),
    ("target", "shirt/7.png", r"--target=shirt/7.png names no target; "),
    ("ks", "2,24", r"--ks must be numbers in \[1, 24\), got 2,24"),
    ("ks", "few", r"--ks must be numbers in \[1, 24\), got few"),
  ],
)
def test_bad_flags_are_named(finished, flag, value, message) -> None:
  with (
    flagsaver.as_parsed(workdir=str(finished), **{flag: value}),
    pytest.raises(SystemExit, match=message),
  ):
    explain.PROGRAM.start(["prog"])


def told(folder, target: str, capsys) -> tuple[dict, list[dict[str, str]], str]:
  """Summary, table and printed text of a planted target's story."""
  with planted.experiment(folder) as opened:
    if not (folder / "datamodels").exists():
      train_subsets.main(opened)
      fit_datamodels.main(opened)
    capsys.readouterr()
    with flagsaver.flagsaver(target=target, ks=["1", "4"], explain_models=24):
      summary = explain.main(opened)
  path = next(iter(folder.glob("explain_*.csv")))
  with open(path, newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  path.unlink()
  return summary, rows, capsys.readouterr().out


def test_a_story_changes_what_helps_and_shows_both_sides(
  tmp_path, capsys, monkeypatch
) -> None:
  monkeypatch.setattr(opening, "_LEAST_GAIN", 1.0)  # All models are poor.
  with planted.experiment(tmp_path / "run") as opened:
    data, weights = opened.dataset, planted.weights(opened)
  full = weights.sum(axis=1)
  for target, is_wrong in ((int(full.argmin()), True), (int(full.argmax()), False)):
    name = data.test_sources[target]
    summary, rows, text = told(tmp_path / "run", name, capsys)
    own, other = (
      data.class_names[c]
      for c in (data.test_labels[target], 1 - data.test_labels[target])
    )
    pictured = tmp_path / "run" / f"explain_{target}.png"
    assert f"{pictured}\nnext: python -m experiments" in text
    assert ("look first whether the target's own label" in text) == is_wrong
    assert "warning: these models are poor" in text
    assert f"target {target} ({own}, {name}): models on all data predict" in text
    assert text.count(f"{other if is_wrong else own} (2 of 2)") == 1
    margins = {o["change"]: o["margin"][0] for o in summary["outcomes"]}
    assert (margins["nothing changed"] < 0) == is_wrong
    # What the datamodel names helps; random images do less.
    sign = 1 if is_wrong else -1
    for kind in ("removed", "relabelled"):
      gain = {
        m: sign * (margins[f"4 {kind}: {m}"] - full[target]) for m in explain.METHODS
      }
      assert gain["datamodel"] > max(gain["random"], 0.3)
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
      groups.setdefault(row["change"], []).append(row)
    high, low = groups.pop(f"supports {own}"), groups.pop(f"opposes {own}")
    assert [len(high), len(low)] == [10, 10]
    assert min(float(r["weight"]) for r in high) > max(float(r["weight"]) for r in low)
    first = (low if is_wrong else high)[0]
    assert first["index"] == groups["4 removed: datamodel"][0]["index"]
    assert f"{first['index']} ({first['class']}, {first['source']})" in text
    for change, members in groups.items():
      if "relabelled" in change or "datamodel" not in change:
        assert {r["class"] for r in members} == {other if is_wrong else own}


@pytest.mark.slow
@pytest.mark.parametrize("channels", [5])
def test_images_of_any_number_of_channels_are_trained_on_and_drawn(
  tmp_path, channels
) -> None:
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (("train", 24), ("test", 8)):
    arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, channels), np.uint8)
    arrays[f"{split}_labels"] = np.arange(count) % 2
  np.savez(tmp_path / "mine.npz", **arrays)
  toy = TOY | {"num_models": "24", "folds": "1", "priors": "none"}
  toy = {k: v for k, v in toy.items() if not k.endswith("_per_class")}
  toy["arrays"] = str(tmp_path / "mine.npz")
  for stage in (train_subsets, fit_datamodels):
    start(stage.PROGRAM, tmp_path / "run", toy=toy)
  more = {"target": "0", "ks": "1", "explain_models": "2"}
  start(explain.PROGRAM, tmp_path / "run", toy=more)
  with PIL.Image.open(tmp_path / "run" / "explain_0.png") as picture:
    assert picture.width > 300 and len(set(picture.convert("L").getdata())) > 9


class _Linear:
  """Models whose margins are the sum of the kept examples' numbers and the seed."""

  labels = np.arange(8, dtype=np.int32) % 2

  def __init__(self) -> None:
    self.seeds = np.zeros(0, int)

  def __call__(self, masks, labels, seeds, progress) -> np.ndarray:
    self.seeds = np.asarray(seeds)
    changed = (labels != self.labels).sum(axis=1)
    margins = masks @ np.arange(8) - 0.125 * changed + np.argsort(np.argsort(seeds % 7))
    return np.stack([np.full(len(masks), np.nan), margins], axis=1)


def test_every_change_has_all_models_with_the_same_seeds() -> None:
  none, trainer = np.zeros(0, int), _Linear()
  changes = [
    explain.Change("3 and 4 removed", np.array([3, 4]), none),
    explain.Change("5 relabelled", none, np.array([5])),
  ]
  with flagsaver.flagsaver(explain_models=4):
    found = explain.train(trainer, 1, changes, 0)
  first, second = trainer.seeds.reshape(2, 4).tolist()
  assert first == second and len(set(first)) == 4
  assert [(o.change, o.models) for o in found] == [(c.name, 4) for c in changes]
  assert found[0].margin[0] - found[1].margin[0] == -(3 + 4) + 0.125


def test_the_softmax_is_that_of_the_targets_own_class() -> None:
  data = planted_tables.dataset(np.arange(24) % 3, np.array([0, 2]))
  logits = np.random.default_rng(0).normal(size=(5, 2, 3))
  weights = np.random.default_rng(1).normal(size=24)
  run, base = (
    types.SimpleNamespace(**x) for x in ({"dataset": data}, {"logits_rtk": logits})
  )
  found = explain._subject(run, base, 1, weights)
  shares = np.exp(logits[:, 1]) / np.exp(logits[:, 1]).sum(axis=1, keepdims=True)
  assert found.confidence == pytest.approx(shares[:, 2].mean())
  assert found.title.endswith(f"; softmax of class 2 {shares[:, 2].mean():.0%}")
  ascending = sorted(range(24), key=weights.__getitem__)
  supports, opposes = found.groups["supports class 2"], found.groups["opposes class 2"]
  assert opposes.tolist() == ascending[:10] and supports.tolist() == ascending[::-1][:10]
