"""How few training examples must change before a prediction falls: search, then proof.

The search is cheap and noisy and only proposes a size; a claim rests on models
trained with fresh seeds that the search has never seen. It knows neither which
method ranked the examples nor how models are trained.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import scipy.special

from jaxdm import prng
from jaxdm import progress as progress_lib
from jaxdm.errors import UserError
from jaxdm.lasso import design
from jaxdm.shares import share_of
from jaxdm.verdicts import (
  MOST_SKEWNESS,
  SequentialTest,
  Skewness,
  Verdict,
  mean_bounds,
)

_TILE_TARGETS = 1024
_WRONG_SIGN = 1e-6  # Chance of calling scores without information wrong.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """How hard to look, and what counts as shown.

  Attributes:
    max_share: the largest change tried, as a share of the target's class.
    size_law: grid: geometrically spaced from 1. surrogate, for datamodels: where they
      predict margins of 0 and below, in equal steps.
    num_sizes: how many sizes.
    search_seeds: models a probe of the search.
    verify_seeds: fresh models a verification, at most; it ends earlier once it is
      clear (`verdicts.SequentialTest`).
    max_verifications: sizes put to the proof for one target, geometrically spaced from
      the largest down to what the search proposes; 1: only that.
    confidence: that no claim of one target and method is false.
    num_targets: sampled from the targets that full-data models get right.
    seed: of the sample of targets.
  """

  max_share: float = 0.25
  size_law: Literal["grid", "surrogate"] = "grid"
  num_sizes: int = 40
  search_seeds: int = 3
  verify_seeds: int = 16
  max_verifications: int = 8
  confidence: float = 0.95
  num_targets: int = 24
  seed: int = 0

  def __post_init__(self) -> None:
    if not 0 < self.max_share < 1:
      raise UserError(f"max_share must be in (0, 1), got {self.max_share}")
    least = {"num_sizes": 1, "search_seeds": 1, "verify_seeds": 2}
    least |= {"max_verifications": 1, "num_targets": 1}
    for name, low in least.items():
      if getattr(self, name) < low:
        raise UserError(f"{name} must be >= {low}, got {getattr(self, name)}")
    _ = self.test()  # Checks the confidence.

  def test(self, skewness: float = MOST_SKEWNESS) -> SequentialTest:
    """What a verification must pass, for margins of such a skewness at most."""
    return SequentialTest(
      most=self.verify_seeds, confidence=self.confidence, skewness=skewness
    )


class Case(NamedTuple):
  """One target and one way of choosing training examples for it.

  Attributes:
    target: index among the targets.
    method: who ranked.
    ranking: training examples, the one to change first in front.
    sizes: numbers of them to try, ascending.
  """

  target: int
  method: str
  ranking: np.ndarray
  sizes: np.ndarray


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
  class_size = np.sum(np.asarray(labels) == target_label)
  return max(1, math.floor(share_of(max_share, class_size)))


def candidate_sizes(max_k: int, num_sizes: int) -> np.ndarray:
  """Distinct sizes from 1 to max_k, ascending, geometrically spaced."""
  return np.unique(np.round(np.geomspace(1, max_k, num_sizes)).astype(int))


def surrogate_sizes(predicted_margins: np.ndarray, num_sizes: int) -> np.ndarray:
  """The fewest removals at which a datamodel predicts a margin <= C, for several C.

  The coarse search of the datamodels paper's authors: C falls from 0 in equal steps to
  the lowest prediction.

  Args:
    predicted_margins: float, after the first 1, 2, ... removals of a ranking, in logits.
    num_sizes: values of C.

  Returns:
    int, ascending; the whole ranking alone if no prediction is below 0.
  """
  lowest = np.minimum.accumulate(predicted_margins)
  levels = np.linspace(0, min(lowest[-1], 0), num_sizes)
  found = np.searchsorted(-lowest, -levels, side="left") + 1
  return np.unique(np.minimum(found, len(lowest)))


def right_targets(base_margins_rt: np.ndarray) -> np.ndarray:
  """Targets with a positive mean margin, right in half of the models, as bool[t]."""
  often = (base_margins_rt > 0).mean(axis=0) >= 0.5
  return (base_margins_rt.mean(axis=0) > 0) & often


def sample_targets(
  base_margins_rt: np.ndarray, num_targets: int, seed: int
) -> np.ndarray:
  """A uniform sample of the targets that full-data models get right (`right_targets`).

  Args:
    base_margins_rt: float, margins of r models trained on all data.
    num_targets: sample size; all eligible targets if there are fewer.
    seed: of the sample.

  Returns:
    int[...], ascending.
  """
  eligible = np.flatnonzero(right_targets(base_margins_rt))
  rng = prng.generator_for(seed, "targets")
  return np.sort(rng.permutation(eligible)[:num_targets])


def make_cases(
  method: str,
  scores_tn: design.Matrix,
  targets: np.ndarray,
  labels: np.ndarray,
  target_labels: np.ndarray,
  *,
  config: SearchConfig,
  same_class: bool,
  predicted_full_t: np.ndarray | None = None,
) -> list[Case]:
  """Turns scores into one case a target.

  Args:
    method: names the scores.
    scores_tn: float, how much each example supports each target. It is read twice: all of
      it to check it, a tile of targets at a time, and the rows of `targets`.
    targets: int, indices of the targets wanted.
    labels: int[n], of the training examples.
    target_labels: int[t].
    config: which sizes to try.
    same_class: choose among the target's class only.
    predicted_full_t: float, margins that datamodels predict for the full training set,
      intercept included; then the scores are their weights in logits. Needed for
      size_law='surrogate', which other scores replace by the grid.

  Returns:
    Cases whose rankings have at most `largest_change` examples.

  Raises:
    ValueError: on scores of another shape, of the wrong sign, or with NaN; a target out
      of range.
  """
  expected = (len(target_labels), len(labels))
  if tuple(scores_tn.shape) != expected:
    raise ValueError(f"scores of {method} must be [t, n] = {expected}")
  _check_scores(method, scores_tn, np.asarray(labels), np.asarray(target_labels))
  wrong = [int(t) for t in targets if not 0 <= t < len(target_labels)]
  if wrong:
    raise ValueError(f"targets must be in [0, {len(target_labels)}), got {wrong}")
  cases = []
  rows_un = scores_tn[np.asarray(targets, int)]
  for target, scores_n in zip(targets, rows_un, strict=True):
    allowed = np.arange(len(labels))
    if same_class:
      allowed = allowed[np.asarray(labels) == target_labels[target]]
    max_k = largest_change(labels, target_labels[target], config.max_share)
    order = np.argsort(-scores_n[allowed], kind="stable")[:max_k]
    ranking = allowed[order]
    sizes = candidate_sizes(len(ranking), config.num_sizes)
    if config.size_law == "surrogate" and predicted_full_t is not None:
      left = predicted_full_t[target] - scores_n[ranking].cumsum()
      sizes = surrogate_sizes(left, config.num_sizes)
    cases.append(Case(int(target), method, ranking, sizes))
  return cases


def _check_scores(
  method: str, scores_tn: design.Matrix, labels: np.ndarray, target_labels: np.ndarray
) -> None:
  """Raises ValueError on NaN, and if targets' own classes have clearly lower scores.

  Every class counts alike: one that is spread out is farther from itself than from
  others, but on average over classes examples are nearer to their own (the energy
  distance of Szekely and Rizzo is never negative).
  """
  targets_k = np.bincount(target_labels, minlength=int(np.max(labels)) + 1)
  classes = [k for k in np.unique(labels) if targets_k[k] > 1]
  means_tk = _class_means(
    method, scores_tn, [np.flatnonzero(labels == k) for k in classes]
  )
  if len(classes) < 2:
    return
  excess, variance, freedom = 0.0, 0.0, 0
  for i, k in enumerate(classes):
    of_k = means_tk[target_labels == k]
    excess_t = of_k[:, i] - np.delete(of_k, i, axis=1).mean(axis=1)
    excess += excess_t.mean()
    variance += excess_t.var(ddof=1) / len(excess_t)
    freedom += len(excess_t) - 1
  if excess < 0 and (
    scipy.special.stdtr(freedom, excess / np.sqrt(max(variance, 1e-300))) < _WRONG_SIGN
  ):
    raise ValueError(
      f"scores of {method} have the wrong sign: the examples that support a target most "
      "must have the highest ones, and those of its own class have lower ones than others"
    )


def _class_means(
  method: str, scores_tn: design.Matrix, classes: Sequence[np.ndarray]
) -> np.ndarray:
  """Mean score of each class's examples, float64[t, k]; ValueError on NaN."""
  means_tk = np.empty((scores_tn.shape[0], len(classes)))
  for start in range(0, len(means_tk), _TILE_TARGETS):
    part = slice(start, start + _TILE_TARGETS)
    tile_un = scores_tn[part]
    if np.isnan(tile_un).any():
      raise ValueError(f"scores of {method} contain NaN")
    for k, examples in enumerate(classes):
      means_tk[part, k] = tile_un[:, examples].mean(axis=1, dtype=np.float64)
  return means_tk


class _Search:
  """One case's state: bisection by probes, then proofs from the largest size down.

  The sizes to prove are fixed by the probes before the first proof and tried in that
  order until one fails; the smallest that held is claimed. In such a fixed sequence
  every proof may use the full level: a claim is false only if the first size whose
  true mean is positive passes (Maurer, Hothorn and Lehmacher, 1995).
  """

  def __init__(self, case: Case, config: SearchConfig, skewness: Skewness | None):
    self.case, self._config = case, config
    estimate = np.nan if skewness is None else float(skewness.estimate_t[case.target])
    self._test = config.test(*([skewness.allowed(case.target)] if skewness else []))
    self.sizes = case.sizes
    self._last = len(self.sizes) - 1
    self._not_flipped, self._flipped = -1, len(self.sizes)
    self._proved = 0
    self._proof = np.zeros(0)
    self._verdict = Verdict(
      target=case.target,
      method=case.method,
      k=-1,
      censored=True,
      k_tried=0,
      mean_margin=np.nan,
      margin_low=-np.inf,
      margin_high=np.inf,
      accuracy=np.nan,
      models=0,
      largest=int(case.sizes[-1]),
      largest_margin=np.nan,
      models_used=0,
      finished=False,
      skewness=None if np.isnan(estimate) else estimate,
    )

  @property
  def models_used(self) -> int:
    """Models asked for."""
    return self._verdict.models_used

  @property
  def verdict(self) -> Verdict:
    """What is known so far."""
    return self._verdict

  @property
  def verifying(self) -> bool:
    """Whether the next request is a verification rather than a probe."""
    return self._flipped - self._not_flipped == 1

  def _sequence(self) -> list[int]:
    """Which sizes to prove, the largest first, ending at the probes' proposal.

    Probes are few, so that the size at which a proof succeeds is often larger than they
    propose; proofs of sizes that are clear take few models.
    """
    ends = self.sizes[self._flipped], self.sizes[self._last]
    wanted = np.geomspace(*ends, self._config.max_verifications)[::-1].round()
    return list(dict.fromkeys(np.searchsorted(self.sizes, wanted).tolist()))

  def request(self) -> tuple[int, list[prng.Seed]]:
    """Which size to train next, with which seeds."""
    if self.verifying:
      first = self._proved * self._config.verify_seeds
      looks = self._test.looks
      done = len(self._proof)
      until = next(look for look in looks if look > done)
      fresh = range(first + done, first + until)
      return self._sequence()[self._proved], [prng.Seed("verify", i) for i in fresh]
    # The largest size first, so that hopeless cases end at once.
    unprobed = self._flipped > self._last
    index = self._last if unprobed else (self._flipped + self._not_flipped) // 2
    return index, [prng.Seed("search", i) for i in range(self._config.search_seeds)]

  def models_expected(self) -> int:
    """Models that this case will still ask for, if its next ones go as most do."""
    config = self._config
    proof = config.verify_seeds // 2
    if self._flipped > self._last:  # Most cases turn out hopeless at once.
      return config.search_seeds + proof
    if self.verifying:
      left = proof * (len(self._sequence()) - self._proved)
      return max(left - len(self._proof), len(self.request()[1]))
    probes = int(np.ceil(np.log2(self._flipped - self._not_flipped)))
    return probes * config.search_seeds + proof * config.max_verifications

  def observe(self, index: int, margins: np.ndarray) -> None:
    """Takes the margins of the size last asked for."""
    used = self.models_used + len(margins)
    if index == self._last and not self.verifying:
      largest = float(np.mean(margins))
      self._verdict = self._verdict._replace(largest_margin=largest)
    self._verdict = self._verdict._replace(models_used=used)
    if self.verifying:
      self._observe_proof(index, margins)
    elif np.mean(margins) <= 0:  # False for a diverged model's NaN.
      self._flipped = index
    else:
      self._not_flipped = index
      if index == self._last:
        self._judge(index, margins, mean_bounds(margins, self._config.confidence))
        self._verdict = self._verdict._replace(finished=True)

  def _observe_proof(self, index: int, margins: np.ndarray) -> None:
    """Keeps a proved size, and ends at the first failure or the sequence's end."""
    self._proof = np.concatenate([self._proof, margins])
    passed = self._test.passed(self._proof)
    if passed is None:
      return
    if passed or self._verdict.censored:
      self._judge(index, self._proof, self._test.bounds(self._proof))
    if passed:
      k = int(self.sizes[index])
      self._verdict = self._verdict._replace(k=k, censored=False)
    self._proved, self._proof = self._proved + 1, np.zeros(0)
    if not passed or self._proved == len(self._sequence()):
      self._verdict = self._verdict._replace(finished=True)

  def _judge(
    self, index: int, margins: np.ndarray, bounds: tuple[float, float, float]
  ) -> None:
    """Notes what these models say of a size; claims nothing."""
    mean, low, high = bounds
    self._verdict = self._verdict._replace(
      k_tried=int(self.sizes[index]),
      mean_margin=mean,
      margin_low=low,
      margin_high=high,
      accuracy=float(np.mean(margins > 0)),
      models=len(margins),
    )


def search(
  cases: Sequence[Case],
  retrain: Retrain,
  config: SearchConfig,
  *,
  budget: int | None = None,
  skewness: Skewness | None = None,
  progress: progress_lib.Progress = progress_lib.silent,
) -> list[Verdict]:
  """Finds the smallest change of each case that retraining verifies.

  All cases advance together: one `retrain` call a round holds every case's next
  probe or models of its verification. Verifications use seeds that no probe has
  used, nor any earlier verification of the same case.

  Args:
    cases: targets and rankings.
    retrain: trains changes (case, size) and returns margins on all targets.
    config: how hard to look.
    budget: models at most, all cases together; None: as many as it takes. A round that
      would exceed it is not begun. What was claimed until then holds.
    skewness: of each target's margins, as `verdicts.estimate_skewness` finds it from
      other models, for instance those on all data. The test of a target allows for it.
      Where it is unknown or not given, the test allows for a skewness of up to 1 and
      needs up to a quarter more models than for normal margins.
    progress: called with (models asked for so far, models expected in all).

  Returns:
    One Verdict a case, in order.
  """
  searches = [_Search(case, config, skewness) for case in cases]
  while open_searches := [s for s in searches if not s.verdict.finished]:
    changes: list[tuple[Case, int]] = []
    seeds: list[prng.Seed] = []
    spans = []
    for s in open_searches:
      index, names = s.request()
      spans.append((s, index, slice(len(seeds), len(seeds) + len(names))))
      changes += [(s.case, int(s.sizes[index]))] * len(names)
      seeds += names
    used = sum(s.models_used for s in searches)
    if budget is not None and used + len(seeds) > budget:
      break
    expected = used + sum(s.models_expected() for s in open_searches)
    told = progress_lib.shifted(progress, used, expected)
    margins_mt = retrain(changes, seeds, progress=told)
    for s, index, rows in spans:
      s.observe(index, margins_mt[rows, s.case.target])
  used = sum(s.models_used for s in searches)
  progress(used, used)
  return [s.verdict for s in searches]
