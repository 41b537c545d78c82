"""How many models a search trains, what it finds, and how often it claims too much.

  python -m experiments.bench.searches --searches=1000

Margins are formulas, so that the smallest size whose mean margin is at most 0 is known.
A row is a kind of change: examples at random, removals and label flips, which differ in
how far the largest change moves the margin. In the last row probes always fool the
search, and all means are just above 0: each claim is false.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments.bench import measure
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm import prng
from jaxdm.brittleness.cases import Case, candidate_sizes
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.margin_curve import describe
from jaxdm.brittleness.retraining import Changes
from jaxdm.brittleness.search import search

SEARCHES = flags.DEFINE_integer("searches", 1000, "Searches for each row.", 1)
_BASE_MODELS = 32


class Kind(NamedTuple):
  """A kind of change.

  Attributes:
    largest: size of the largest change.
    effect: median effect of the largest change, in units of the mean margin.
    noise: range of the standard deviations of single models' margins, in logits.
    fooled: whether probes always come out negative, and no change has any effect.
  """

  largest: int
  effect: float
  noise: tuple[float, float]
  fooled: bool = False


KINDS = {
  "examples at random": Kind(25, 0.2, (0.5, 1.3)),
  "removals": Kind(25, 1.0, (0.5, 1.3)),
  "removals of up to 100": Kind(100, 1.3, (0.5, 1.3)),
  "label flips": Kind(50, 2.5, (0.4, 1.1)),
  "probes always fooled": Kind(25, 0.0, (0.5, 1.3), fooled=True),
}


class Margins:
  """Margins of made-up targets: start - effect * (size / largest)^power, plus noise."""

  def __init__(self, kind: Kind, count: int):
    rng = np.random.default_rng(0)
    self._kind, self._rng = kind, rng
    self.sizes = candidate_sizes(kind.largest, SearchConfig().num_sizes)
    start_t = np.full(count, 1e-6) if kind.fooled else rng.uniform(1, 6, count)
    effect_t = start_t * kind.effect * rng.lognormal(0, 0.6, count)
    power_t = rng.uniform(0.5, 1.3, count)
    share_s = self.sizes / kind.largest
    self.means_ts = start_t[:, None] - effect_t[:, None] * share_s ** power_t[:, None]
    self.noise_t = rng.uniform(*kind.noise, count)
    shown_t = np.where(kind.fooled, 3.0, start_t)
    noise_rt = self.noise_t * rng.normal(size=(_BASE_MODELS, count))
    self.base = describe(shown_t + noise_rt)

  def __call__(self, changes: Changes, seeds: np.ndarray, *, progress: Any) -> np.ndarray:
    """One margin a change."""
    targets = np.array([case.target for case, _ in changes])
    places = np.searchsorted(self.sizes, [k for _, k in changes])
    noise = self.noise_t[targets] * self._rng.normal(size=len(changes))
    margins_m = self.means_ts[targets, places] + noise
    if self._kind.fooled:
      probes = [prng.stream_of(seed).family == "search" for seed in seeds]
      margins_m = np.where(probes, -1.0, margins_m)
    return margins_m


def measure_kind(kind: Kind, count: int) -> dict[str, float]:
  """What so many searches with the default settings take and find."""
  margins, ranking = Margins(kind, count), np.arange(kind.largest)
  cases = [Case(t, "made-up", ranking, margins.sizes) for t in range(count)]
  verdicts = search(cases, margins, SearchConfig(), margins.base)
  k = np.array([v.changes_needed for v in verdicts])
  right_ts = margins.means_ts <= 0
  smallest = np.where(
    right_ts.any(axis=1), margins.sizes[right_ts.argmax(axis=1)], np.inf
  )
  both = np.isfinite(k) & np.isfinite(smallest)
  return {
    "models": float(np.mean([v.models_used for v in verdicts])),
    "found": float(np.isfinite(k).mean()),
    "exist": float(np.isfinite(smallest).mean()),
    "ratio": float(np.exp(np.log(k[both] / smallest[both]).mean())) if any(both) else 1,
    "false": float((k < smallest).mean()),
  }


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Prints the table."""
  program.check_no_arguments(argv)
  measure.check()
  logging.getLogger("jaxdm").setLevel(logging.WARNING)
  columns = "models a search", "verified", "exist", "k / smallest", "false claims"
  print(f"{'':<24}" + "".join(f"{column:>17}" for column in columns))
  results = {}
  for name, kind in KINDS.items():
    row = results[name] = measure_kind(kind, SEARCHES.value)
    texts = [
      f"{row['models']:.1f}",
      *(f"{row[share]:.1%}" for share in ("found", "exist")),
      f"{row['ratio']:.2f}",
      f"{row['false']:.1%}",
    ]
    print(f"{name:<24}" + "".join(f"{text:>17}" for text in texts), flush=True)
  measure.write(results)


if __name__ == "__main__":
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit()
  program.run(main)
