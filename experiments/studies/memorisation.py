"""What memorised training examples are worth, and what direct retraining says of them.

  python -m experiments.studies.memorisation --workdir=runs/fashion

needs an audited workdir (experiments.audit). It trains models without the most memorised
1, 2, 5 and 10 % of the training examples, and without as many random ones (others for
each model), on the same seeds, and prints their accuracy on the targets: the figure of
Feldman and Zhang, 'What neural networks memorize and why', arXiv:2008.03703, in kind.

Then, for some examples that are spread over the range of memorisation, it trains models
on all data but this example, and others on all data, and compares the difference of their
accuracies on the example with the memorisation that the audit found, which is that of
models on random subsets. Intervals have 95 % confidence.
"""

from typing import Any

import numpy as np
import scipy.stats
from absl import flags

from experiments import audit as audit_launcher
from experiments.config import number_lists
from experiments.runtime import launcher, stages
from experiments.runtime.run import Run
from experiments.studies import label_errors, noisy_labels
from jaxdm import identity, intervals, prng
from jaxdm.audits import estimates
from jaxdm.errors import UserError
from jaxdm.report import tables

SHARES = flags.DEFINE_list(
  "memorised_shares", ["0.01", "0.02", "0.05", "0.1"], "Shares of examples to remove."
)
MODELS = flags.DEFINE_integer(
  "memorised_models", 32, "Models trained for each removal.", 2
)
LEFT_OUT = flags.DEFINE_integer(
  "left_out_examples", 20, "Examples that are left out one by one; 0: none.", 0
)
LEFT_OUT_MODELS = flags.DEFINE_integer(
  "left_out_models", 200, "Models trained without each of them, and on all data.", 2
)
STAGE = "memorisation"


def masks_without(
  ranking: np.ndarray, count: int, models: int, seed: int
) -> dict[str, np.ndarray]:
  """Training sets bool[m, n] without the first of a ranking, and without random ones."""
  n = len(ranking)
  masks = {name: np.ones((models, n), bool) for name in ("memorised", "random")}
  masks["memorised"][:, ranking[:count]] = False
  for model in range(models):
    order = prng.generator_for(seed, "memorisation", model).permutation(n)
    masks["random"][model, order[:count]] = False
  return masks


def utility(run: Run, ranking: np.ndarray, shares: list[float]) -> list[dict[str, Any]]:
  """Accuracies without the first examples of a ranking, and without random ones."""
  small = run.dataset.downscaled(run.experiment.data.downscale)
  n, seed, rows = len(ranking), run.experiment.collect.seed, []
  for share in [0.0, *shares]:
    count = round(share * n)
    masks = masks_without(ranking, count, MODELS.value, seed)
    if not count:
      del masks["random"]
    accuracies = {}
    for name, masks_mn in masks.items():
      fleet, bar = label_errors.fleet_of(run), run.bar(f"{count} {name} removed")
      predictions = noisy_labels.train(
        fleet, small, masks_mn, small.train_labels, seed, STAGE, bar
      )
      accuracies[name] = predictions.accuracy_m
    row: dict[str, Any] = {"share": share, "removed": count}
    row |= {name: intervals.student(a, 0.975) for name, a in accuracies.items()}
    if count:
      gap_m = accuracies["random"] - accuracies["memorised"]
      row["difference"] = intervals.student(gap_m, 0.975)
    rows.append(row)
  return rows


def direct(run: Run, examples: np.ndarray) -> estimates.Estimate:
  """Memorisation by models on all data, with and without each of some examples."""
  small = run.dataset.downscaled(run.experiment.data.downscale)
  labels, count = small.train_labels, LEFT_OUT_MODELS.value
  n, seed = len(labels), run.experiment.collect.seed

  def right(masks_mn: np.ndarray, family: str) -> np.ndarray:
    fleet, bar = label_errors.fleet_of(run), run.bar(family)
    predictions = noisy_labels.train(fleet, small, masks_mn, labels, seed, family, bar)
    return predictions.margins_mn > 0

  def mean(right_mu: np.ndarray) -> estimates.Estimate:
    total = right_mu.sum(axis=0)
    number = np.full(len(total), len(right_mu))
    return estimates.mean(estimates.Sums(number, total, total))

  everything = np.ones((count, n), bool)
  inside = mean(right(everything, "all data")[:, examples])
  without = []
  for example in examples:
    masks_mn = everything.copy()
    masks_mn[:, example] = False
    without.append(right(masks_mn, f"without {example}")[:, example])
  return estimates.difference(inside, mean(np.array(without).T))


def _text(interval: tuple[float, float, float]) -> str:
  """An estimate and its interval, in per cent."""
  return "{:.2%} [{:.2%}, {:.2%}]".format(*interval)


def ranking_of(memorisation_n: np.ndarray) -> np.ndarray:
  """Examples, int[n], the most memorised first, those without an estimate last.

  Raises:
    UserError: if none has an estimate.
  """
  if not np.isfinite(memorisation_n).any():
    raise UserError("num_models", "is too small: the audit knows no memorisation")
  return np.argsort(-memorisation_n, kind="stable")


def compare(run: Run, memorisation_n: np.ndarray, ranking: np.ndarray) -> dict[str, Any]:
  """Direct and estimated memorisation of some examples; prints and returns them."""
  known = ranking[: np.isfinite(memorisation_n).sum()]
  places = np.linspace(0, len(known) - 1, LEFT_OUT.value).round().astype(int)
  examples = known[places]
  estimate, audit_m = direct(run, examples), memorisation_n[examples]
  print("| example | audit | left out one by one |\n|---|---|---|")
  for row, example in enumerate(examples):
    ends = estimate.low[row], estimate.high[row]
    text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(estimate.value[row], *ends)
    print(f"| {example} | {audit_m[row]:+.2f} | {text} |")
  rank = scipy.stats.spearmanr(audit_m, estimate.value).statistic
  mean = float(np.mean(audit_m - estimate.value))
  print(f"rank correlation {rank:.2f}; mean difference {mean:+.3f}")
  return {
    "examples": examples.tolist(),
    "direct": [part.tolist() for part in estimate],
    "rank_correlation": float(rank),
    "mean_difference": mean,
  }


def main(run: Run) -> dict[str, Any]:
  """Trains, and prints both tables."""
  label_errors.fleet_of(run)
  stages.summary_of(run.workdir, audit_launcher.STAGE)
  rows = tables.read_audit(run.workdir.path / "audit.csv")
  memorisation_n = np.array([float(row["memorisation"]) for row in rows])
  ranking = ranking_of(memorisation_n)
  shares = number_lists.shares("memorised_shares", SHARES.value, below=1)

  def work() -> dict[str, Any]:
    shares_right = utility(run, ranking, shares)
    print("| removed | most memorised | random | random less memorised |")
    print("|---|---|---|---|")
    for row in shares_right:
      cells = [
        _text(row[name]) if name in row else ""
        for name in ("memorised", "random", "difference")
      ]
      print(f"| {row['share']:.0%} ({row['removed']}) | {' | '.join(cells)} |")
    compared = compare(run, memorisation_n, ranking) if LEFT_OUT.value > 1 else {}
    return {"curves": {"utility": shares_right, "left_out": compared}}

  settings = {
    "memorised_shares": shares,
    "memorised_models": MODELS.value,
    "left_out_examples": LEFT_OUT.value,
    "left_out_models": LEFT_OUT_MODELS.value,
    "ranking": identity.digest(ranking),
  }
  inputs = run.inputs("train_subsets")
  return stages.run(run.workdir, STAGE, {STAGE: settings}, work, inputs)


PROGRAM = launcher.Program(main)

if __name__ == "__main__":
  PROGRAM.run()
