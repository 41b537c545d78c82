"""How few training examples must change before a prediction falls: search, then proof.

The search is cheap and noisy and only proposes a size; a claim rests on models
trained with fresh seeds that the search has never seen. It knows neither which
method ranked the examples nor how models are trained.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxdm import prng
from jaxdm import progress as progress_lib
from jaxdm.brittleness.cases import Case
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.retraining import Changes
from jaxdm.brittleness.verdicts import Skewness, Verdict, mean_bounds


class MarginsOfChanges(Protocol):
  """Trains one model a (change, seed); see `retraining.TrainChanges`."""

  def __call__(
    self, changes: Changes, seeds: np.ndarray, *, progress: progress_lib.Progress
  ) -> np.ndarray:
    """float[m], the margin of each change's own target.

    It calls `progress` with (models done, models in this call).
    """
    ...


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
      examples=tuple(case.ranking[: case.sizes[-1]].tolist()),
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

  def request(self) -> tuple[int, np.ndarray]:
    """Which size to train next, with which seeds."""
    if self.verifying:
      first = self._proved * self._config.verify_seeds
      looks = self._test.looks
      done = len(self._proof)
      until = next(look for look in looks if look > done)
      fresh = prng.model_seeds("verify", until - done, first + done)
      return self._sequence()[self._proved], fresh
    # The largest size first, so that hopeless cases end at once.
    unprobed = self._flipped > self._last
    index = self._last if unprobed else (self._flipped + self._not_flipped) // 2
    return index, prng.model_seeds("search", self._config.search_seeds)

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
  retrain: MarginsOfChanges,
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
    retrain: trains changes (case, size), and returns the margin of each one's target.
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
    seeds: list[int] = []
    spans = []
    for s in open_searches:
      index, names = s.request()
      spans.append((s, index, slice(len(seeds), len(seeds) + len(names))))
      changes += [(s.case, int(s.sizes[index]))] * len(names)
      seeds += names.tolist()
    used = sum(s.models_used for s in searches)
    if budget is not None and used + len(seeds) > budget:
      break
    expected = used + sum(s.models_expected() for s in open_searches)
    told = progress_lib.shifted(progress, used, expected)
    margins_m = retrain(changes, np.array(seeds), progress=told)
    for s, index, rows in spans:
      s.observe(index, margins_m[rows])
  used = sum(s.models_used for s in searches)
  progress(used, used)
  return [s.verdict for s in searches]
