"""Whether intervals and tests keep their levels, on made-up models whose truth is known.

  python -m experiments.bench.coverage --simulations=2000
  python -m experiments.bench.coverage --sides=full_size

Three tables. intervals: how often the 95 % intervals of `datamodels.metrics` cover the
population value, and how often they lie above or below it. levels: how often
`verification.SequentialTest` passes margins whose true mean is 0, by distribution and by
what is known of it; and its power and mean number of models for normal margins.
full_size: seconds and memory of one evaluation of 20,000 models on 10,000 targets.
"""

import resource
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from absl import flags

from experiments.bench import measure
from experiments.bench.centred_margins import SKEWNESS, centred_margins
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm.brittleness import verification
from jaxdm.datamodels import metrics

SIMULATIONS = flags.DEFINE_integer(
  "simulations", 2000, "Samples of held-out models for each row of the first table.", 1
)
RUNS = flags.DEFINE_integer(
  "runs", 20_000, "Tests for each level of the second table.", 1
)
CONFIDENCE = flags.DEFINE_float("level_confidence", 0.95, "Of the second table.")
MOST = flags.DEFINE_integer("level_models", 16, "Of a test of the second table.", 2)
SUBSETS = flags.DEFINE_list("subsets", ["100", "200"], "Held-out subsets, trained twice.")
FULL_MODELS = flags.DEFINE_integer("full_models", 20_000, "Models at full size.", 4)
FULL_TARGETS = flags.DEFINE_integer("full_targets", 10_000, "Targets at full size.", 1)
SIDES = ["intervals", "levels", "full_size"]
_POPULATION = 20_000
_EXAMPLES = 40
_BITS = 16
_TARGETS = 1000


class Setting(NamedTuple):
  """A made-up population of models and predictions.

  Attributes:
    targets: how many.
    error: of the predictions' weights, in units of the weights' mean size.
    noise: standard deviation between models on one subset, in units of that between
      subsets.
    common: share of the noise's variance that one model shares over targets.
    skewed: whether the noise is lognormal, with a skewness of 1.75, instead of normal.
    few_values: whether predictions see 2 of the 40 examples only, and are mostly ties.
  """

  targets: int
  error: float
  noise: float
  common: float
  skewed: bool = False
  few_values: bool = False


SETTINGS = {
  "usual": Setting(300, 1.2, 1.0, 0.3),
  "noisy": Setting(50, 1.2, 2.0, 0.5),
  "low LDS": Setting(50, 20.0, 1.0, 0.3),
  "high LDS": Setting(50, 0.3, 0.3, 0.2),
  "skewed noise": Setting(50, 1.2, 1.0, 0.3, skewed=True),
  "tied predictions": Setting(50, 0.5, 1.0, 0.3, few_values=True),
  "4 targets": Setting(4, 1.2, 1.5, 0.3),
  "1 target": Setting(1, 1.2, 1.0, 0.0),
}


class Population(NamedTuple):
  """All subsets that there are: samples with replacement have it as their truth.

  Attributes:
    predicted_st: float32, of each subset.
    margins_s2t: float32, of two models on each.
  """

  predicted_st: np.ndarray
  margins_s2t: np.ndarray


def population(setting: Setting, seed: int = 0) -> Population:
  """Margins that are linear in which examples a subset holds, plus noise."""
  rng = np.random.default_rng(seed)
  t, n, s = setting.targets, _EXAMPLES, _POPULATION
  present_sn = (rng.random((s, n)) < 0.5) - 0.5
  own_tn = rng.standard_t(4, (t, n)) * (rng.random((t, n)) < 0.3)
  weights_tn = own_tn + 0.5 * rng.normal(size=(1, n))
  size = np.abs(weights_tn).mean()
  guess_tn = weights_tn + setting.error * size * rng.normal(size=(t, n))
  if setting.few_values:
    guess_tn[:, 2:] = 0
  mean_st = present_sn @ weights_tn.T
  noise = setting.noise * mean_st.std(axis=0)
  margins = []
  for _ in range(2):
    own_st, model_s1 = rng.normal(size=(s, t)), rng.normal(size=(s, 1))
    luck_st = np.sqrt(1 - setting.common) * own_st + np.sqrt(setting.common) * model_s1
    if setting.skewed:
      luck_st = np.expm1(0.5 * luck_st) / 0.5
    margins.append(mean_st + noise * luck_st)
  level_t = 3 * noise.mean() * rng.normal(size=t)
  predicted_st = present_sn @ guess_tn.T + level_t
  margins_s2t = np.stack(margins, axis=1) + level_t
  return Population(predicted_st.astype(np.float32), margins_s2t.astype(np.float32))


def truth(sample: Population) -> np.ndarray:
  """LDS, pooled correlation, R2 and ceiling of the whole population, by SciPy."""
  predicted_mt = np.repeat(sample.predicted_st, 2, axis=0).astype(np.float64)
  margins_mt = sample.margins_s2t.reshape(predicted_mt.shape).astype(np.float64)
  other_mt = sample.margins_s2t[:, ::-1].reshape(predicted_mt.shape)

  def spearman(a: np.ndarray, b: np.ndarray) -> float:
    pairs = zip(a.T, b.T, strict=True)
    return float(np.mean([scipy.stats.spearmanr(x, y).statistic for x, y in pairs]))

  errors_t = ((margins_mt - predicted_mt) ** 2).mean(axis=0)
  return np.array(
    [
      spearman(predicted_mt, margins_mt),
      scipy.stats.pearsonr(predicted_mt.ravel(), margins_mt.ravel()).statistic,
      np.mean(1 - errors_t / margins_mt.var(axis=0)),
      np.sqrt(max(spearman(margins_mt, other_mt), 0)),
    ]
  )


def _masks(count: int) -> np.ndarray:
  """bool[2 count, 16]: any subsets, each for two models."""
  numbers = np.repeat(np.arange(count), 2)
  return (numbers[:, None] >> np.arange(_BITS)) % 2 == 1


def coverage(
  sample: Population, true: np.ndarray, subsets: int, simulations: int, seed: int = 1
) -> np.ndarray:
  """Shares of intervals that cover, lie above and lie below the truth, float[3, 4]."""
  rng = np.random.default_rng(seed)
  masks = _masks(subsets)
  counts = np.zeros((3, len(true)))
  for _ in range(simulations):
    rows = rng.integers(_POPULATION, size=subsets)
    predicted_mt = np.repeat(sample.predicted_st[rows], 2, axis=0)
    margins_mt = sample.margins_s2t[rows].reshape(predicted_mt.shape)
    quality = metrics.evaluate(predicted_mt, margins_mt, masks)
    intervals = [quality.lds, quality.pooled_correlation, quality.r2, quality.ceiling]
    low, high = np.array([x[1:] for x in intervals if x is not None]).T
    counts += [(low <= true) & (true <= high), low > true, high < true]
  return counts / simulations


def print_intervals() -> list[dict[str, Any]]:
  """Prints and returns the first table."""
  scores = ("LDS", "pooled", "R2", "ceiling")
  print("covered / interval above the truth / below it, in %")
  print(f"{'':<18}{'subsets':>8}" + "".join(f"{score:>28}" for score in scores))
  results = []
  for name, setting in SETTINGS.items():
    sample = population(setting)
    true = truth(sample)
    for subsets in map(int, SUBSETS.value):
      shares = coverage(sample, true, subsets, SIMULATIONS.value)
      cells = [
        f"{value:.3f}: {100 * a:.1f} / {100 * b:.1f} / {100 * c:.1f}"
        for value, (a, b, c) in zip(true, shares.T, strict=True)
      ]
      row = "".join(f"{cell:>28}" for cell in cells)
      print(f"{name:<18}{subsets:>6}x2{row}", flush=True)
      results.append(
        {
          "setting": name,
          "subsets": subsets,
          "truth": dict(zip(scores, true.tolist(), strict=True)),
          "covered_above_below": dict(zip(scores, shares.T.tolist(), strict=True)),
        }
      )
  return results


def passes(test: verification.SequentialTest, rows: np.ndarray) -> tuple[float, float]:
  """Share of rows of margins that pass, and the mean number of models."""
  passed, used = 0, 0
  for row in rows:
    for look in test.looks:
      if (verdict := test.passed(row[:look])) is not None:
        passed, used = passed + verdict, used + look
        break
  return passed / len(rows), used / len(rows)


def skewness_bounds(name: str, share: float, models: int = 32) -> np.ndarray:
  """What is allowed for, for targets that are a share of all; the others are normal.

  Args:
    name: of the distribution of these targets' margins.
    share: of the targets.
    models: that the skewness is estimated from.

  Returns:
    float[t], a multiple of the test's steps of 1/4.
  """
  count = _TARGETS
  others = round(count / share) - count
  own = centred_margins(name, (models, count), 1)
  normal = own.std() * centred_margins("normal", (models, others), 2)
  skewness = verification.estimate_skewness(np.concatenate([own, normal], axis=1))
  return np.ceil(4 * np.array([skewness.bound(i) for i in range(count)])) / 4


def print_levels() -> dict[str, Any]:
  """Prints and returns the second table."""
  tests = {
    bound: verification.SequentialTest(
      most=MOST.value, confidence=CONFIDENCE.value, skewness=bound
    )
    for bound in (0.0, 0.25, 0.5, 0.75, 1.0)
  }
  results: dict[str, Any] = {"level": {}, "power": {}}
  shape = RUNS.value, MOST.value
  print(
    f"margins of mean 0 that pass at a confidence of {CONFIDENCE.value:.6g}, in %, of"
  )
  print(f"at most {MOST.value} models; skewness known,")
  print("estimated from 32 models of each target (a share of the targets are of this")
  print(
    "kind, the others normal), unknown, or taken for 0, as in a test for normal margins"
  )
  shares = {"all": 1.0, "half": 0.5, "a fifth": 0.2}
  header = ["known", *(f"est., {text}" for text in shares), "unknown", "taken for 0"]
  print(f"{'':<34}" + "".join(f"{cell:>15}" for cell in header))
  for i, (name, skewness) in enumerate(SKEWNESS.items()):
    rows = centred_margins(name, shape, i)
    rate = {bound: passes(test, rows)[0] for bound, test in tests.items()}
    rates = [rate[np.ceil(4 * max(skewness, 0)) / 4]]
    for share in shares.values():
      bounds = skewness_bounds(name, share)
      rates.append(float(np.mean([rate[bound] for bound in bounds])))
    rates += [rate[1.0], rate[0.0]]
    print(f"{name:<34}" + "".join(f"{cell:>15.1%}" for cell in rates), flush=True)
    results["level"][name] = rates
  print("normal margins: power, and mean number of models, by the skewness allowed for")
  print(f"{'mean / deviation':<18}" + "".join(f"{bound:>16g}" for bound in tests))
  unit = centred_margins("normal", (-(-RUNS.value // 4), MOST.value), len(SKEWNESS))
  for mean in (0.0, -0.3, -0.5, -0.7, -1.0, -1.5, -2.5, -4.0):
    powers = [passes(test, unit + mean) for test in tests.values()]
    cells = [f"{power:.3f}, {models:5.2f}" for power, models in powers]
    print(f"{mean:<18g}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    results["power"][str(mean)] = powers
  return results


def measure_full_size() -> dict[str, float]:
  """Prints and returns what one evaluation of made-up predictions takes."""
  rng = np.random.default_rng(0)
  m, t = FULL_MODELS.value, FULL_TARGETS.value
  predicted_mt = np.repeat(rng.standard_normal((m // 2, t), np.float32), 2, axis=0)
  margins_mt = rng.standard_normal((m, t), np.float32)
  margins_mt += predicted_mt
  masks = np.repeat(rng.random((m // 2, 64)) < 0.5, 2, axis=0)
  unit = 1 if sys.platform == "darwin" else 1024
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  wall, used = time.monotonic(), time.process_time()
  quality = metrics.evaluate(predicted_mt, margins_mt, masks)
  result = {
    "models": m,
    "targets": t,
    "seconds": time.monotonic() - wall,
    "cpu_seconds": time.process_time() - used,
    "gigabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    * unit
    / 1e9,
    "lds": quality.lds.estimate,
  }
  print("evaluation of {models:,} models on {targets:,} targets:".format(**result))
  print(
    "{seconds:.1f} s, {cpu_seconds:.1f} CPU-seconds, {gigabytes:.2f} GB beside the "
    "inputs".format(**result)
  )
  return result


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Prints the tables that --sides asks for."""
  program.check_no_arguments(argv)
  measure.check()
  sides = measure.select_sides(SIDES)
  print_side = {
    "intervals": print_intervals,
    "levels": print_levels,
    "full_size": measure_full_size,
  }
  measure.write({side: print_side[side]() for side in sides})


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit()
  program.run(main)
