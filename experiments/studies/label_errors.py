"""How well an audit finds label errors that were planted, beside other ways of ranking.

  python -m experiments.studies.label_errors --workdir=runs/label_errors --classes=

changes the labels of some training examples, symmetric (to any other class) and confused
(to the class that models most often choose for theirs), and ranks all examples by

  audit             the label quality of jaxdm.audit, of models on random subsets
  cleanlab          confident learning on the probabilities of the same models, out of
                    sample: what cleanlab calls issues first, then all by self-confidence
  cleanlab, folds   the same, of as many models of repeated five-fold cross-validation
  loss              the mean loss of models trained on all data
  self-influence    TracIn of each example on itself, at the end of training on all data

It prints the average precision and the AUROC of each, as means over seeds, and the
accuracy on the test examples of models trained on the labels with errors, on those that
the audit suggests for suspicious ones (`Audit.suspicious`), and on the right ones.
Settings of the experiment are flags, as for `experiments.pipeline`. The study goes on
where it was stopped; a change of its flags adds what is missing. Without the package
cleanlab (extra bench), its rows are left out.
"""

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.config import number_lists
from experiments.runtime import launcher, stages
from experiments.runtime.run import Run, train_config
from experiments.studies import noisy_labels
from jaxdm import identity, intervals, training_sets
from jaxdm.audits.audit import SUSPICIOUS, audit
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, checksummed_json
from jaxdm.training.fleet import Fleet

RATES = flags.DEFINE_list(
  "noise_rates", ["0.05", "0.1", "0.2"], "Shares of the labels that are wrong."
)
SEEDS = flags.DEFINE_integer("noise_seeds", 3, "Choices of the wrong labels.", 1)
MODELS = flags.DEFINE_integer(
  "noise_models", 600, "Models on random subsets, and of cross-validation.", 10
)
FRESH = flags.DEFINE_integer(
  "noise_fresh_models", 32, "Models on all data for each set of labels.", 2
)
STAGE = "label_errors"
_FOLDS = 5
_PARTS = "label_errors.parts"


class Case(NamedTuple):
  """One set of wrong labels.

  Attributes:
    kind: 'symmetric' or 'confused'.
    rate: share of the labels that are wrong.
    seed: of the choice, and of the models.
  """

  kind: str
  rate: float
  seed: int


def cleanlab_doubt(labels: np.ndarray, probabilities_nk: np.ndarray) -> np.ndarray:
  """Confident learning's ranking: issues first, then by self-confidence.

  Northcutt, Jiang and Chuang, 'Confident learning', arXiv:1911.00068, by the package
  cleanlab with its default settings.
  """
  from cleanlab import filter as cleanlab_filter
  from cleanlab import rank

  is_issue = cleanlab_filter.find_label_issues(labels, probabilities_nk, n_jobs=1)
  quality = rank.get_label_quality_scores(labels, probabilities_nk)
  return is_issue + (1 - quality) / 2


def fleet_of(run: Run) -> Fleet:
  """What trains networks; raises UserError where a function of the user does."""
  if run.networks is None:
    raise UserError("retrain", ": this study needs the logits and gradients of networks")
  return run.networks.fleet


def study_case(run: Run, case: Case, confused_k: np.ndarray) -> dict[str, Any]:
  """Trains the models of one set of wrong labels, and ranks the examples."""
  data, fleet, count = run.dataset, fleet_of(run), MODELS.value
  small = data.downscaled(run.experiment.data.downscale)
  labels, seed = small.train_labels, case.seed
  wrong_classes = confused_k if case.kind == "confused" else np.zeros(0, int)
  noisy = noisy_labels.plant_errors(
    labels, case.rate, seed, data.num_classes, wrong_classes
  )
  is_wrong, n = noisy != labels, len(labels)
  name = f"{case.kind} {case.rate:g}, seed {seed}"

  def train(
    masks: np.ndarray, train_labels: np.ndarray, what: str
  ) -> noisy_labels.Predictions:
    bar = run.bar(f"{name}: {what}")
    return noisy_labels.train(
      fleet, small, masks, train_labels, seed, f"noisy {what}", bar
    )

  alpha = run.experiment.collect.alpha
  masks = training_sets.random_subsets(count, n, alpha, seed)
  bank = train(masks, noisy, "subsets")
  classes_mn = bank.training_mnk.argmax(axis=-1)
  result = audit(masks, bank.margins_mn, noisy, classes_mn)
  everything = np.ones((FRESH.value, n), bool)
  full = train(everything, noisy, "all data")
  own = full.training_mnk[:, np.arange(n), noisy].astype(np.float64)
  doubts = {"audit": -result.label_quality.value}
  if importlib.util.find_spec("cleanlab"):
    probabilities_nk = noisy_labels.out_of_sample(bank, masks)
    doubts["cleanlab"] = cleanlab_doubt(noisy, probabilities_nk)
    folds = noisy_labels.fold_masks(count, n, _FOLDS, seed)
    of_folds = noisy_labels.out_of_sample(train(folds, noisy, "folds"), folds)
    doubts["cleanlab, folds"] = cleanlab_doubt(noisy, of_folds)
  doubts["loss"] = -np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(axis=0)
  doubts["self-influence"] = noisy_labels.self_influence(fleet, noisy, seed)
  sure = result.suspicious
  suggested = noisy.copy()
  suggested[sure] = result.suggested_labels[sure]
  accuracies = {
    "with errors": full.accuracy_m,
    "relabelled": train(everything, suggested, "relabelled").accuracy_m,
    "right": train(everything, labels, "right").accuracy_m,
  }
  return {
    **case._asdict(),
    "average_precision": {
      method: noisy_labels.average_precision(is_wrong, doubt)
      for method, doubt in doubts.items()
    },
    "auroc": {m: noisy_labels.auroc(is_wrong, doubt) for m, doubt in doubts.items()},
    "accuracy": {k: intervals.student(v, 0.975) for k, v in accuracies.items()},
    "relabelled": len(sure),
    "relabelled_right": int((suggested[sure] == labels[sure]).sum()),
    "wrong": int(is_wrong.sum()),
  }


def _confused_classes(run: Run) -> np.ndarray:
  """The wrong label of each class, by models on random subsets with right labels."""
  small = run.dataset.downscaled(run.experiment.data.downscale)
  labels, seed = small.train_labels, run.experiment.collect.seed
  alpha = run.experiment.collect.alpha
  masks = training_sets.random_subsets(FRESH.value, len(labels), alpha, seed)
  predicted = noisy_labels.train(
    fleet_of(run), small, masks, labels, seed, "noisy classes", run.bar("classes")
  )
  classes_mn = predicted.training_mnk.argmax(axis=-1)
  return noisy_labels.most_confused(classes_mn, masks, labels)


def table(cases: list[dict[str, Any]]) -> str:
  """Means over seeds, a line for each kind, rate and method."""
  groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
  for case in cases:
    groups.setdefault((case["kind"], case["rate"]), []).append(case)
  lines = ["| labels | method | average precision | AUROC |", "|---|---|---|---|"]
  for (kind, rate), group in groups.items():
    for method in group[0]["average_precision"]:
      means = [
        np.mean([case[what][method] for case in group])
        for what in ("average_precision", "auroc")
      ]
      lines.append(f"| {kind} {rate:g} | {method} | {means[0]:.3f} | {means[1]:.3f} |")
  lines += ["", "| labels | relabelled (rightly) of wrong | test accuracy | |"]
  lines.append("|---|---|---|---|")
  for (kind, rate), group in groups.items():
    counts = [
      sum(case[what] for case in group)
      for what in ("relabelled", "relabelled_right", "wrong")
    ]
    for labels in group[0]["accuracy"]:
      mean, low, high = np.mean([case["accuracy"][labels] for case in group], axis=0)
      interval = f"{mean:.1%} [{low:.1%}, {high:.1%}]"
      many = "{} ({}) of {}".format(*counts) if labels == "relabelled" else ""
      lines.append(f"| {kind} {rate:g} | {many} | {labels} | {interval} |")
  return "\n".join(lines)


def main(run: Run) -> dict[str, Any]:
  """Studies all cases, and prints the table."""
  fleet_of(run)
  rates = number_lists.shares("noise_rates", RATES.value, below=0.5)
  kinds = ["symmetric", "confused"][: 1 + (run.dataset.num_classes > 2)]
  cases = [
    Case(kind, rate, seed)
    for kind in kinds
    for rate in rates
    for seed in range(SEEDS.value)
  ]
  sizes = {"noise_models": MODELS.value, "noise_fresh_models": FRESH.value}
  settings = run.settings("data", "network", "gradient")
  recipe = train_config(run.experiment, len(run.dataset.train_labels))
  settings["train"] = dataclasses.asdict(recipe)
  depends_on = {**settings, "sizes": sizes, "alpha": run.experiment.collect.alpha}
  depends_on["seed"] = run.experiment.collect.seed
  depends_on["suspicious"] = SUSPICIOUS
  depends_on["cleanlab"] = bool(importlib.util.find_spec("cleanlab"))

  def work() -> dict[str, Any]:
    results, confused_k = [], np.zeros(0, int)
    for case in cases:
      part = identity.digest([depends_on, case])
      path = run.workdir.path / _PARTS / f"{part}.json"
      if not path.exists():
        if case.kind == "confused" and not len(confused_k):
          confused_k = _confused_classes(run)
        atomic_io.make_folder(path.parent)
        atomic_io.write_json(path, study_case(run, case, confused_k))
      results.append(checksummed_json.read_without_digest(path))
    print(table(results))
    atomic_io.write_json(run.workdir.path / f"{STAGE}.json", results)
    return {"cases": len(results)}

  options = {"noise_rates": rates, "noise_seeds": SEEDS.value}
  # One group, so that nothing here is taken for a setting of the workdir's models.
  record = {STAGE: {"depends_on": identity.digest(depends_on), **sizes, **options}}
  return stages.run(run.workdir, STAGE, record, work, files=(f"{STAGE}.json",))


PROGRAM = launcher.Program(main)

if __name__ == "__main__":
  PROGRAM.run()
