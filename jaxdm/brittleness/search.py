"""How few training examples must change before a prediction falls: search, then proof.

The search is cheap and noisy and only proposes a size; a claim rests on models
trained with fresh seeds that the search has never seen. It knows neither which
method ranked the examples nor how models are trained.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxdm import prng
from jaxdm import progress as progress_lib
from jaxdm.brittleness.cases import Case
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.retraining import Changes
from jaxdm.brittleness.verdicts import Skewness, Verdict, mean_bounds

_LOGGED = 3  # First claims of a search.

_log = logging.getLogger("jaxdm")


class MarginsOfChanges(Protocol):
  """Trains one model a (change, seed); see `retraining.TrainChanges`."""

  def __call__(
    self, changes: Changes, seeds: np.ndarray, *, progress: progress_lib.Progress
  ) -> np.ndarray:
    """float[m], the margin of each change's own target.

    It calls `progress` with (models done, models in this call).
    """
    ...


class _Probing(NamedTuple):
  """The search for a size: bisection between indices of sizes.

  Attributes:
    stands: the largest size at which a probe's mean margin was positive; -1: none yet.
    falls: the smallest size at which it was not; the number of sizes: none yet.
  """

  stands: int
  falls: int


class _Verifying(NamedTuple):
  """The verification of some sizes, one after the other.

  Attributes:
    sequence: indices of the sizes, the largest first.
    place: of the size that is verified now.
    margins: float[m], of the models trained for it so far.
  """

  sequence: tuple[int, ...]
  place: int
  margins: np.ndarray


class _Search:
  """One case: bisection by probes, then verification from the largest size down.

  The probes fix the sizes to verify before the first verification. They are verified in
  that order until one fails; the smallest that passed is claimed. In such a fixed
  sequence every test may use the full level: a claim is false only if the first size
  whose true mean is positive passes (Maurer, Hothorn and Lehmacher, 1995).
  """

  def __init__(self, case: Case, config: SearchConfig, skewness: Skewness | None):
    self.case, self._config = case, config
    estimate = np.nan if skewness is None else float(skewness.estimate_t[case.target])
    self._test = config.test(*([skewness.allowed(case.target)] if skewness else []))
    self.sizes = case.sizes
    self._last = len(self.sizes) - 1
    self._state: _Probing | _Verifying = _Probing(-1, len(self.sizes))
    self.verdict = Verdict(
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
    """Models requested so far."""
    return self.verdict.models_used

  def _sequence(self, proposed: int) -> tuple[int, ...]:
    """Which sizes to verify, the largest first, ending at the probes' proposal.

    Probes are few, so that the size at which a verification passes is often larger than
    they propose; verifications of sizes that are clear take few models.
    """
    ends = self.sizes[proposed], self.sizes[self._last]
    wanted = np.geomspace(*ends, self._config.max_verifications)[::-1].round()
    return tuple(dict.fromkeys(np.searchsorted(self.sizes, wanted).tolist()))

  def request(self) -> tuple[int, np.ndarray]:
    """The index of the size to train next, and the seeds."""
    state = self._state
    if isinstance(state, _Verifying):
      first, done = state.place * self._config.verify_seeds, len(state.margins)
      until = next(look for look in self._test.looks if look > done)
      fresh = prng.model_seeds("verify", until - done, first + done)
      return state.sequence[state.place], fresh
    # The largest size first, so that hopeless cases end at once.
    unprobed = state.falls > self._last
    index = self._last if unprobed else (state.falls + state.stands) // 2
    return index, prng.model_seeds("search", self._config.search_seeds)

  def models_expected(self) -> int:
    """Models that this case will still request, if its next ones go as most do."""
    config, state = self._config, self._state
    verification = config.verify_seeds // 2
    if isinstance(state, _Verifying):
      left = verification * (len(state.sequence) - state.place)
      return max(left - len(state.margins), len(self.request()[1]))
    if state.falls > self._last:  # Most cases turn out hopeless at once.
      return config.search_seeds + verification
    probes = int(np.ceil(np.log2(state.falls - state.stands)))
    return probes * config.search_seeds + verification * config.max_verifications

  def observe(self, index: int, margins: np.ndarray) -> None:
    """Takes the margins of the last request."""
    self.verdict = self.verdict._replace(models_used=self.models_used + len(margins))
    if isinstance(self._state, _Verifying):
      self._observe_verification(index, margins, self._state)
    else:
      self._observe_probe(index, margins, self._state)

  def _observe_probe(self, index: int, margins: np.ndarray, state: _Probing) -> None:
    """Narrows the interval; ends the search where even the largest size does nothing."""
    mean = float(np.mean(margins))
    if index == self._last:
      self.verdict = self.verdict._replace(largest_margin=mean)
    if mean <= 0:  # False for a diverged model's NaN.
      state = state._replace(falls=index)
    else:
      state = state._replace(stands=index)
      if index == self._last:
        self._judge(index, margins, mean_bounds(margins, self._config.confidence))
        self.verdict = self.verdict._replace(finished=True)
    self._state = state
    if state.falls - state.stands == 1 and not self.verdict.finished:
      self._state = _Verifying(self._sequence(state.falls), 0, np.zeros(0))

  def _observe_verification(
    self, index: int, margins: np.ndarray, state: _Verifying
  ) -> None:
    """Keeps a verified size; ends at the first failure or at the end of the sequence."""
    margins = np.concatenate([state.margins, margins])
    passed = self._test.passed(margins)
    if passed is None:
      self._state = state._replace(margins=margins)
      return
    if passed or self.verdict.censored:
      self._judge(index, margins, self._test.bounds(margins))
    if passed:
      k = int(self.sizes[index])
      self.verdict = self.verdict._replace(k=k, censored=False)
    self._state = _Verifying(state.sequence, state.place + 1, np.zeros(0))
    if not passed or state.place + 1 == len(state.sequence):
      self.verdict = self.verdict._replace(finished=True)

  def _judge(
    self, index: int, margins: np.ndarray, bounds: tuple[float, float, float]
  ) -> None:
    """Records what these models say of a size; claims nothing."""
    mean, low, high = bounds
    self.verdict = self.verdict._replace(
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
  searches, logged = [_Search(case, config, skewness) for case in cases], 0
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
    report = progress_lib.shift(progress, used, expected)
    margins_m = retrain(changes, np.array(seeds), progress=report)
    for s, index, rows in spans:
      s.observe(index, margins_m[rows])
      if s.verdict.finished and not s.verdict.censored and logged < _LOGGED:
        logged += 1
        _log_claim(s.verdict)
  used = sum(s.models_used for s in searches)
  progress(used, used)
  return [s.verdict for s in searches]


def _log_claim(verdict: Verdict) -> None:
  """Logs what was verified, while other cases are still searched."""
  _log.info(
    "verified: target %d by %s: %d examples changed, mean margin %+.2f [%+.2f, %+.2f], "
    "clear after %d models",
    verdict.target,
    verdict.method,
    verdict.k,
    verdict.mean_margin,
    verdict.margin_low,
    verdict.margin_high,
    verdict.models,
  )
