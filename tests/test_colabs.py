"""Notebooks have the same form, run as they are, and compute what they say."""

import configparser
import csv
import json
import pathlib
import re
from typing import Any

import nbformat
import numpy as np
import pytest
import scipy.stats
from nbclient import NotebookClient
from sklearn.linear_model import Lasso, LogisticRegression

import jaxdm

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
all_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
NAMES = {
  *("audit_and_repair", "cifar10", "masks_and_margins", "one_prediction"),
  *("own_model", "quickstart"),
}
# Lets imports of PyTorch fail, as where it is not installed.
NO_TORCH = """
import sys

class NoTorch:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] == "torch":
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
"""


def url() -> str:
  """The address of the repository, from its metadata."""
  metadata = configparser.ConfigParser()
  metadata.read(ROOT / "setup.cfg")
  return metadata["metadata"]["url"]


def run(name: str, values: dict[str, str], before: str = "") -> dict[str, Any]:
  """Runs a notebook at its small size in the checkout; it must show pictures.

  Args:
    name: of the notebook.
    values: expressions by name, which are evaluated in the notebook at its end.
    before: code to run first.

  Returns:
    The values of the expressions, as JSON has them.
  """
  notebook = nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)
  pairs = ", ".join(f"{key!r}: {text}" for key, text in values.items())
  last = f"import json\nprint(json.dumps({{{pairs}}}))"
  notebook.cells = [
    nbformat.v4.new_code_cell(before),
    *notebook.cells,
    nbformat.v4.new_code_cell(last),
  ]
  where = {"metadata": {"path": str(ROOT / "colabs")}}  # As in Jupyter.
  NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
  outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
  assert sum("image/png" in out.get("data", {}) for out in outputs) >= 3
  return json.loads(notebook.cells[-1].outputs[0].text)


def lds_of(weights_tn: Any, masks_mn: Any, margins_mt: Any) -> float:
  """Mean Spearman correlation over targets, by SciPy."""
  predicted_mt = np.asarray(masks_mn, float) @ np.asarray(weights_tn, float).T
  pairs = zip(predicted_mt.T, np.asarray(margins_mt, float).T, strict=True)
  return float(np.mean([scipy.stats.spearmanr(*pair).statistic for pair in pairs]))


def test_there_are_six_notebooks() -> None:
  assert {path.stem for path in NOTEBOOKS} == NAMES


@all_notebooks
def test_outputs_are_stripped_and_ids_are_stable(path) -> None:
  notebook = json.loads(path.read_text(encoding="utf-8"))
  nbformat.validate(notebook)
  assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
  for number, cell in enumerate(notebook["cells"]):
    assert cell["id"] == f"cell-{number}"
    assert not cell.get("outputs") and cell.get("execution_count") is None
    assert cell["metadata"] == {}


@pytest.mark.parametrize("start", ["colabs", "."])
def test_the_first_cell_goes_to_the_checkout(start, tmp_path, monkeypatch) -> None:
  checkout = tmp_path / "jaxdm"  # The name that `git clone` gives it.
  for folder in ("jaxdm", "colabs"):
    (checkout / folder).mkdir(parents=True)
  for path in NOTEBOOKS:
    cells = nbformat.read(path, as_version=4).cells
    code = next(cell.source for cell in cells if cell.cell_type == "code")
    monkeypatch.chdir(checkout / start)
    exec(re.sub(r"(?m)^  [%!].*$", "  pass", code), {})
    assert pathlib.Path.cwd() == checkout, path.name


@all_notebooks
def test_the_first_cells_are_a_badge_an_installation_and_one_switch(path) -> None:
  cells = nbformat.read(path, as_version=4).cells
  colab, repository = "https://colab.research.google.com", url().split("github.com/")[1]
  address = f"{colab}/github/{repository}/blob/main/colabs/{path.name}"
  badge = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({address})"
  assert cells[0].cell_type == "markdown" and cells[0].source.startswith(badge)
  code = [cell.source for cell in cells if cell.cell_type == "code"]
  assert re.search(rf'%pip install -q "jaxdm\[run,data.*\] @ git\+{url()}"', code[0])
  assert 'if "google.colab" in sys.modules:' in code[0]
  assert 'elif os.path.basename(os.getcwd()) == "colabs":\n  os.chdir("..")' in code[0]
  assert code[1] == "REAL = False"
  assert len(re.findall(r"\bREAL *=", "\n".join(code))) == 1
  assert any(re.search(r"\bREAL\b", text) for text in code[2:])
  # Programs are in a checkout only.
  assert ("git clone" in code[0]) == ("experiments." in "\n".join(code[1:]))


@all_notebooks
def test_only_public_names_are_imported(path) -> None:
  notebook = nbformat.read(path, as_version=4)
  code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
  assert not re.search(r"(from|import) +(jaxdm\.|experiments|jaxdm +import)", code)
  assert set(re.findall(r"\bjaxdm\.([A-Za-z_]+)", code)) <= {*jaxdm.__all__}


@pytest.mark.slow
def test_the_quickstarts_lds_is_that_of_scipy() -> None:
  found = run(
    "quickstart",
    {
      "lds": "quality.lds.estimate",
      "weights": "fit.weights_tn.tolist()",
      "masks": "masks[num_models:].astype(int).tolist()",
      "margins": "margins[num_models:].tolist()",
      "flipped": "jaxdm.summarise(verdicts)",
    },
  )
  assert found["lds"] > 0.3
  expected = lds_of(found["weights"], found["masks"], found["margins"])
  assert found["lds"] == pytest.approx(expected, abs=1e-3)
  share = {name: one["share_flipped"] for name, one in found["flipped"].items()}
  assert share["datamodel"] > share["random"]


@pytest.mark.slow
def test_supporters_of_one_prediction_are_those_that_models_show() -> None:
  found = run(
    "one_prediction",
    {
      "target": "int(target)",
      "weights": "weights.tolist()",
      "supporters": "without_supporters.mean(axis=1).tolist()",
      "random": "without_random.mean(axis=1).tolist()",
      "removal": "removal._asdict()",
    },
  )
  problem = jaxdm.load_problem("fashion")
  masks_mn = problem.masks
  margins_m = problem.margins[:, found["target"]].astype(float)
  # Without a fit: mean margin of models with an example, less that of models without.
  effects_n = [margins_m[mask].mean() - margins_m[~mask].mean() for mask in masks_mn.T]
  assert np.corrcoef(effects_n, found["weights"])[0, 1] > 0.8
  assert found["supporters"][0] > 0 > found["supporters"][-1]
  assert found["random"][-1] > 0
  assert not found["removal"]["censored"] and found["removal"]["margin_high"] <= 0


@pytest.mark.slow
def test_the_audit_finds_the_wrong_labels_and_their_correction_helps() -> None:
  found = run(
    "audit_and_repair",
    {
      "doubtful": "[name_of(i) for i in doubtful]",
      "repairs": "[[name_of(i) for i in r.examples[:1]] for r in repairs]",
      "files": "sorted(str(p.relative_to(folder)) for p in folder.rglob('*.png'))",
      "before": "accuracy_before",
      "after": "accuracy_after",
    },
  )
  shapes = {"disc": "square", "square": "disc"}
  wrong = {
    f"train/{other}/{shape}_{i:03}.png"
    for shape, other in shapes.items()
    for i in range(6)
  }
  assert len(wrong & set(found["doubtful"])) >= 10
  assert len(set(found["doubtful"]) - wrong) <= 6
  # The first example of a repair has a wrong label more often than 1 in 10, as all have.
  firsts = [name for [name] in found["repairs"]]
  assert len(firsts) >= 3 and np.mean([name in wrong for name in firsts]) >= 0.5
  assert found["after"] > found["before"]
  # Most files have been moved to the class that their names say.
  moved = [
    name.split("/")[1] == name.split("/")[2][: -len("_000.png")]
    for name in found["files"]
  ]
  assert len(moved) == 200 and moved.count(False) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("has_torch", [True, False])
def test_removals_of_ones_own_models_hold_when_trained_here(has_torch) -> None:
  before = ""
  if has_torch:
    pytest.importorskip("torch")
  else:
    before = NO_TORCH
  found = run(
    "own_model",
    {"verdicts": "[v._asdict() for v in verdicts]", "agreement": "agreement"},
    before,
  )
  methods = {"scikit-learn", "Flax", *(["PyTorch"] if has_torch else [])}
  assert {one["method"] for one in found["verdicts"]} == methods
  assert all(value > 0.5 for value in found["agreement"].values())
  claims = [
    one
    for one in found["verdicts"]
    if one["method"] == "scikit-learn" and not one["censored"]
  ]
  assert claims
  data = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 40, 20).downscaled(4)
  x, x_target = (
    images.reshape(len(images), -1) / 255
    for images in (data.train_images, data.test_images)
  )
  for one in claims:
    kept = np.setdiff1d(np.arange(80), one["examples"][: one["k"]])
    model = LogisticRegression(solver="liblinear").fit(x[kept], data.train_labels[kept])
    target = one["target"]
    assert model.predict(x_target[[target]])[0] != data.test_labels[target]
    whole = LogisticRegression(solver="liblinear").fit(x, data.train_labels)
    assert whole.predict(x_target[[target]])[0] == data.test_labels[target]


@pytest.mark.slow
def test_the_pipelines_removals_hold_for_further_seeds() -> None:
  found = run(
    "cifar10",
    {
      "images": "{name: array.tolist() for name, array in arrays.items()}",
      "table": "(workdir / 'brittleness.csv').read_text()",
      "summary": "summary['brittleness']['methods']",
      "accuracy": "accuracy",
    },
  )
  assert found["accuracy"] > 0.7
  rows = list(csv.DictReader(found["table"].splitlines()))
  searched = [row for row in rows if row["method"] == "datamodel"]
  claims = [row for row in searched if row["censored"] == "False"]
  share = found["summary"]["datamodel"]["share_flipped"]
  assert claims and share == len(claims) / len(searched)
  classes = ["airplane", "ship"]
  arrays = {
    name: np.array([classes.index(label) for label in values], np.int32)
    if name.endswith("labels")
    else np.array(values, np.uint8)
    for name, values in found["images"].items()
  }
  data = jaxdm.Dataset("drawn", **arrays, class_names=tuple(classes)).downscaled(4)
  config = jaxdm.TrainConfig(
    width=32,
    epochs=20,
    epoch_examples=40,
    batch_size=32,
    peak_learning_rate=0.05,
    label_smoothing=0.0,
    flip=False,
    translate_pixels=0,
    cutout_pixels=0,
  )
  trainer = jaxdm.Trainer(data, config, network="mlp", seed=1)
  for row in claims:
    masks = np.ones((32, 80), bool)
    masks[:, json.loads(row["changed"])] = False
    margins = trainer(masks, data.train_labels, np.arange(32))[:, int(row["target"])]
    assert margins.mean() <= 2 * margins.std() / 32**0.5


@pytest.mark.slow
def test_datamodels_of_files_are_lassos_and_those_of_the_program() -> None:
  found = run(
    "masks_and_margins",
    {
      "lds": "quality.lds.estimate",
      "weights": "fit.weights_tn.tolist()",
      "penalties": "fit.lambdas_t.tolist()",
      "difference": "float(difference)",
    },
  )
  problem = jaxdm.load_problem("fashion")
  masks_mn, margins_mt = problem.masks.astype(float), problem.margins.astype(float)
  expected = lds_of(found["weights"], masks_mn[1000:], margins_mt[1000:])
  assert found["lds"] == pytest.approx(expected, abs=2e-3)
  for target in (0, 60, 119):
    lasso = Lasso(alpha=found["penalties"][target], tol=1e-8, max_iter=100_000)
    lasso.fit(masks_mn[:1000], margins_mt[:1000, target])
    np.testing.assert_allclose(found["weights"][target], lasso.coef_, atol=0.03)
  assert found["difference"] < 1e-5
