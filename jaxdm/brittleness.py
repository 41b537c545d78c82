"""How few training examples must change before a prediction falls: search, then proof.

The search is cheap and noisy and only proposes a size; a claim rests on models
trained with fresh seeds that the search has never seen. It knows neither which
method ranked the examples nor how models are trained.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import scipy.special

from jaxdm import prng
from jaxdm import progress as progress_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """How hard to look, and what counts as shown.

  Attributes:
    max_share: the largest change tried, as a share of the target's class.
    num_sizes: sizes tried, geometrically spaced from 1.
    search_seeds: models a probe of the search.
    verify_seeds: fresh models a verification.
    max_verifications: sizes put to the proof for one target, from the largest down.
    confidence: that no claim of one target and method is false.
    num_targets: sampled from the targets that full-data models get right.
    seed: of the sample of targets.
  """

  max_share: float = 0.25
  num_sizes: int = 12
  search_seeds: int = 3
  verify_seeds: int = 10
  max_verifications: int = 4
  confidence: float = 0.95
  num_targets: int = 24
  seed: int = 0

  def __post_init__(self) -> None:
    if not 0 < self.max_share < 1:
      raise ValueError(f"max_share must be in (0, 1), got {self.max_share}")
    if not 0.5 < self.confidence < 1:
      raise ValueError(f"confidence must be in (0.5, 1), got {self.confidence}")
    least = {"num_sizes": 1, "search_seeds": 1, "verify_seeds": 2}
    least |= {"max_verifications": 1, "num_targets": 1}
    for name, low in least.items():
      if getattr(self, name) < low:
        raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")


class Case(NamedTuple):
  """One target and one way of choosing training examples for it.

  Attributes:
    target: index among the targets.
    method: who ranked.
    ranking: training examples, the one to change first in front; its length is the
      largest change tried.
  """

  target: int
  method: str
  ranking: np.ndarray


class Verdict(NamedTuple):
  """What was found for one case.

  Attributes:
    target: index among the targets.
    method: who ranked.
    k: examples changed in the smallest verified change; -1 if censored.
    censored: whether no change up to `k_tried` was verified.
    k_tried: the size that the margin below belongs to: k, or the largest one tried.
    mean_margin: of the models trained on that change, in logits.
    margin_low: lower bound of the expected margin.
    margin_high: upper bound; a claim is margin_high <= 0. Each bound is one-sided, at
      the stated confidence, by Student's t.
    accuracy: share of those models that are right about the target.
    models_used: trained for this case, search and verification together.
  """

  target: int
  method: str
  k: int
  censored: bool
  k_tried: int
  mean_margin: float
  margin_low: float
  margin_high: float
  accuracy: float
  models_used: int


Changes = Sequence[tuple[Case, int]]
Seeds = Sequence[prng.Seed]


class Retrain(Protocol):
  """Trains one model a (change, seed) and returns margins float[m, t].

  It calls `progress` with (models done, models in this call).
  """

  def __call__(
    self,
    changes: Changes,
    seeds: Seeds,
    *,
    progress: progress_lib.Progress,
  ) -> np.ndarray:
    """float[m, t], one row a (change, seed)."""
    ...


def largest_change(labels: np.ndarray, target_label: int, max_share: float) -> int:
  """The most examples tried for a target: a share of its class, at least 1."""
  return max(1, int(max_share * np.sum(np.asarray(labels) == target_label)))


def candidate_sizes(max_k: int, num_sizes: int) -> np.ndarray:
  """Distinct sizes from 1 to max_k, ascending, geometrically spaced."""
  return np.unique(np.round(np.geomspace(1, max_k, num_sizes)).astype(int))


def sample_targets(
  base_margins_rt: np.ndarray, num_targets: int, seed: int
) -> np.ndarray:
  """A uniform sample of the targets that full-data models get right.

  Right means a positive mean margin and right in at least half of the models.

  Args:
    base_margins_rt: float, margins of r models trained on all data.
    num_targets: sample size; all eligible targets if there are fewer.
    seed: of the sample.

  Returns:
    int[...], ascending.
  """
  right = (base_margins_rt.mean(axis=0) > 0) & ((base_margins_rt > 0).mean(axis=0) >= 0.5)
  eligible = np.flatnonzero(right)
  rng = prng.generator_for(seed, "targets")
  return np.sort(rng.permutation(eligible)[:num_targets])


def mean_bounds(margins: np.ndarray, level: float) -> tuple[float, float, float]:
  """Mean and one-sided Student-t bounds, each at `level`; infinite from one value."""
  count, mean = len(margins), float(margins.mean())
  if count < 2:
    return mean, -np.inf, np.inf
  half = scipy.special.stdtrit(count - 1, level) * margins.std(ddof=1) / np.sqrt(count)
  return mean, mean - float(half), mean + float(half)


def make_cases(
  method: str,
  scores_tn: np.ndarray,
  targets: np.ndarray,
  labels: np.ndarray,
  target_labels: np.ndarray,
  *,
  max_share: float,
  same_class: bool,
) -> list[Case]:
  """Turns scores into one case a target.

  Args:
    method: names the scores.
    scores_tn: float, how much each example supports each target.
    targets: int, indices of the targets wanted.
    labels: int[n], of the training examples.
    target_labels: int[t].
    max_share: largest change, as a share of the target's class.
    same_class: choose among the target's class only.

  Returns:
    Cases whose rankings have `largest_change` examples.

  Raises:
    ValueError: on scores of another shape, or with NaN.
  """
  expected = (len(target_labels), len(labels))
  if scores_tn.shape != expected:
    raise ValueError(f"scores of {method} must be [t, n] = {expected}")
  if np.isnan(scores_tn).any():
    raise ValueError(f"scores of {method} contain NaN")
  cases = []
  for target in targets:
    allowed = np.arange(len(labels))
    if same_class:
      allowed = allowed[np.asarray(labels) == target_labels[target]]
    max_k = largest_change(labels, target_labels[target], max_share)
    order = np.argsort(-scores_tn[target, allowed], kind="stable")[:max_k]
    cases.append(Case(int(target), method, allowed[order]))
  return cases


class _Search:
  """One case's state: bisection by probes, then proofs from the largest size down.

  The sizes to prove are fixed by the probes before the first proof and tried in that
  order until one fails; the smallest that held is claimed. In such a fixed sequence
  every proof may use the full level: a claim is false only if the first size whose
  true mean is positive passes (Maurer, Hothorn and Lehmacher, 1995).
  """

  def __init__(self, case: Case, config: SearchConfig):
    self.case, self._config = case, config
    self.sizes = candidate_sizes(len(case.ranking), config.num_sizes)
    self._last = len(self.sizes) - 1
    self._not_flipped, self._flipped = -1, len(self.sizes)
    self._proved = 0
    self.models_used = 0
    self._best: Verdict | None = None
    self.verdict: Verdict | None = None

  @property
  def verifying(self) -> bool:
    """Whether the next request is a verification rather than a probe."""
    return self._flipped - self._not_flipped == 1

  def _sequence(self) -> list[int]:
    """Which sizes to prove, the largest first, ending at the probes' proposal."""
    count = self._config.max_verifications
    places = np.linspace(self._last, self._flipped, count).round().astype(int)
    return list(dict.fromkeys(places.tolist()))

  def request(self) -> tuple[int, list[prng.Seed]]:
    """Which size to train next, with which seeds."""
    if self.verifying:
      count = self._config.verify_seeds
      fresh = range(self._proved * count, (self._proved + 1) * count)
      return self._sequence()[self._proved], [prng.Seed("verify", i) for i in fresh]
    # The largest size first, so that hopeless cases end at once.
    unprobed = self._flipped > self._last
    index = self._last if unprobed else (self._flipped + self._not_flipped) // 2
    return index, [prng.Seed("search", i) for i in range(self._config.search_seeds)]

  def models_expected(self) -> int:
    """Models that this case will still ask for, if its next ones go as most do."""
    config = self._config
    if self._flipped > self._last:  # Most cases turn out hopeless at once.
      return config.search_seeds + config.verify_seeds
    if self.verifying:
      return config.verify_seeds * (len(self._sequence()) - self._proved)
    probes = int(np.ceil(np.log2(self._flipped - self._not_flipped)))
    return probes * config.search_seeds + config.verify_seeds * config.max_verifications

  def observe(self, index: int, margins: np.ndarray) -> None:
    """Takes the margins of the size last asked for."""
    self.models_used += len(margins)
    if self.verifying:
      self._observe_proof(index, margins)
    elif np.mean(margins) <= 0:  # False for a diverged model's NaN.
      self._flipped = index
    else:
      self._not_flipped = index
      if index == self._last:
        self.verdict = self._judge(index, margins)

  def _observe_proof(self, index: int, margins: np.ndarray) -> None:
    """Keeps a proved size, and ends at the first failure or the sequence's end."""
    self._proved += 1
    judged = self._judge(index, margins)
    if self._best is None or not judged.censored:
      self._best = judged
    if judged.censored or self._proved == len(self._sequence()):
      self.verdict = self._best._replace(models_used=self.models_used)

  def _judge(self, index: int, margins: np.ndarray) -> Verdict:
    """The verdict if these models were the last; only proofs may claim."""
    size = int(self.sizes[index])
    mean, low, high = mean_bounds(margins, self._config.confidence)
    censored = not (self.verifying and high <= 0)
    return Verdict(
      self.case.target,
      self.case.method,
      -1 if censored else size,
      censored,
      size,
      mean,
      low,
      high,
      float(np.mean(margins > 0)),
      self.models_used,
    )


def search(
  cases: Sequence[Case],
  retrain: Retrain,
  config: SearchConfig,
  *,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Verdict]:
  """Finds the smallest change of each case that retraining verifies.

  All cases advance together: one `retrain` call a round holds every case's next
  probe or verification. Verifications use seeds that no probe has used, nor any
  earlier verification of the same case.

  Args:
    cases: targets and rankings.
    retrain: trains changes (case, size) and returns margins on all targets.
    config: how hard to look.
    progress: called with (models asked for so far, models expected in all).

  Returns:
    One Verdict a case, in order.
  """
  searches = [_Search(case, config) for case in cases]
  while open_searches := [s for s in searches if s.verdict is None]:
    changes: list[tuple[Case, int]] = []
    seeds: list[prng.Seed] = []
    spans = []
    for s in open_searches:
      index, names = s.request()
      spans.append((s, index, slice(len(seeds), len(seeds) + len(names))))
      changes += [(s.case, int(s.sizes[index]))] * len(names)
      seeds += names
    used = sum(s.models_used for s in searches)
    expected = used + sum(s.models_expected() for s in open_searches)
    told = progress_lib.shifted(progress, used, expected)
    margins_mt = retrain(changes, seeds, progress=told)
    for s, index, rows in spans:
      s.observe(index, margins_mt[rows, s.case.target])
  used = sum(s.models_used for s in searches)
  progress(used, used)
  return [s.verdict for s in searches if s.verdict is not None]


def share_flipped(verdicts: Sequence[Verdict], sizes: np.ndarray) -> np.ndarray:
  """Share of targets flipped by changing at most each size, as float[len(sizes)].

  Censored targets stay in the denominator.
  """
  found = np.array([np.inf if v.censored else v.k for v in verdicts])
  return np.array([np.mean(found <= size) for size in sizes])
