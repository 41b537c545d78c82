"""How few training examples flip a prediction: search, then verification.

Single models propose sizes. A claim needs several models of one size, trained with
new seeds. The search knows neither which method ranked the examples nor how models are
trained.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxdm import intervals, prng
from jaxdm import progress as progress_lib
from jaxdm.brittleness import next_size
from jaxdm.brittleness.cases import Case
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.margin_curve import BaseMargins, MarginCurve
from jaxdm.brittleness.retraining import Changes
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import check_count

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
  """A single model at a chosen size.

  Attributes:
    size: its index.
    done: models before this one.
  """

  size: int
  done: int


class _Verifying(NamedTuple):
  """The verification of one size.

  Attributes:
    size: its index.
    place: verifications before this one.
    margins: float[m], of the models trained for it so far.
  """

  size: int
  place: int
  margins: np.ndarray


class _Search:
  """One case: probes, then verifications of ever smaller sizes until one fails.

  The smallest size that passed is claimed. Each verification uses models of its own and
  the full level. Its size may depend on all models before it: a claim is false only if
  the first size whose true mean is positive passes, and whatever led to this size, its
  new models pass with at most that level (a fixed sequence of tests, as of Maurer,
  Hothorn and Lehmacher, 1995, has the same argument).
  """

  def __init__(self, case: Case, config: SearchConfig, base: BaseMargins):
    self.case, self._config = case, config
    target, estimate = case.target, float(base.skewness.estimate_t[case.target])
    self._test = config.test(base.skewness.bound(target))
    self.sizes = case.sizes
    mean, std = float(base.mean_t[target]), float(base.std_t[target])
    self._curve = MarginCurve(self.sizes, mean, std, self._test)
    # The largest size first, so that hopeless cases end at once.
    self._state: _Probing | _Verifying = _Probing(len(self.sizes) - 1, 0)
    self.verdict = Verdict(
      target=target,
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

  def request(self) -> tuple[int, np.ndarray]:
    """The index of the size to train next, and the seeds."""
    state = self._state
    if isinstance(state, _Verifying):
      first, before = state.place * self._config.verify_seeds, len(state.margins)
      until = next(look for look in self._test.looks if look > before)
      return state.size, prng.model_seeds("verify", until - before, first + before)
    return state.size, prng.model_seeds("search", 1, state.done)

  def models_expected(self) -> int:
    """An estimate of how many models this case will still request."""
    config, state = self._config, self._state
    verification = max(config.verify_seeds // 2, self._test.least_to_pass)
    if isinstance(state, _Verifying):
      return max(2 * verification - len(state.margins), len(self.request()[1]))
    if not state.done:  # Most cases end after the first model.
      return 1 + verification
    return (config.search_models - state.done + 1) // 2 + 5 * verification // 2

  def observe(self, index: int, margins: np.ndarray) -> None:
    """Takes the margins of the last request."""
    self.verdict = self.verdict._replace(models_used=self.models_used + len(margins))
    self._curve.add(index, margins)
    if isinstance(self._state, _Verifying):
      self._observe_verification(margins, self._state)
    else:
      self._observe_probe(margins, self._state)

  def _observe_probe(self, margins: np.ndarray, state: _Probing) -> None:
    """Probes again, verifies, or ends if even the largest size has no effect."""
    if not state.done:
      self.verdict = self.verdict._replace(largest_margin=float(margins[0]))
      self._record(
        state.size, margins, intervals.student(margins, self._config.confidence)
      )
    if next_size.is_hopeless(self._curve):
      self._end()
      return
    size, count = next_size.to_probe(self._curve), state.done + 1
    if size is None or count >= self._config.search_models:
      self._verify_next(0)
    else:
      self._state = _Probing(size, count)

  def _observe_verification(self, margins: np.ndarray, state: _Verifying) -> None:
    """Keeps a verified size and goes on below it; ends at the first failure."""
    margins = np.concatenate([state.margins, margins])
    passed = self._test.passed(margins)
    if passed is None:
      self._state = state._replace(margins=margins)
      return
    if passed or self.verdict.censored:
      self._record(state.size, margins, self._test.bounds(margins))
    if passed:
      k = int(self.sizes[state.size])
      self.verdict = self.verdict._replace(k=k, censored=False)
      self._verify_next(state.place + 1)
    else:
      self._end()

  def _verify_next(self, place: int) -> None:
    """Begins a verification, or ends."""
    claim = None if self.verdict.censored else self.verdict.k
    remaining = self._config.max_verifications - place
    size = next_size.to_verify(self._curve, claim, remaining)
    if size is None:
      self._end()
    else:
      self._state = _Verifying(size, place, np.zeros(0))

  def _end(self) -> None:
    self.verdict = self.verdict._replace(finished=True)

  def _record(
    self, index: int, margins: np.ndarray, bounds: tuple[float, float, float]
  ) -> None:
    """Records the margins of these models at a size, without a claim."""
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
  margins_of_changes: MarginsOfChanges,
  config: SearchConfig,
  base: BaseMargins,
  *,
  budget: int | None = None,
  progress: progress_lib.Progress = progress_lib.silent,
  restate: Callable[[Verdict], Verdict] = lambda verdict: verdict,
) -> list[Verdict]:
  """Finds the smallest change of each case that retraining verifies.

  All cases advance together: one call a round holds every case's next probe or models
  of its verification. Verifications use seeds that no probe has
  used, nor any earlier verification of the same case.

  Args:
    cases: targets and rankings.
    margins_of_changes: trains changes (case, size), and returns the margin of each one's
      target.
    config: settings of the search and of the verification.
    base: statistics of models on all data. The test of a target allows for the
      skewness of its margins; where that is unknown, for a skewness of up to 1, and then
      needs up to twice as many models as for normal margins.
    budget: models at most, all cases together; None: as many as it takes. A round that
      would exceed it is not begun. What was claimed until then holds.
    progress: called with (models trained so far, models expected in all).
    restate: restates a verdict for the caller, whose margins may be others.

  Returns:
    One Verdict a case, in order.
  """
  budget = None if budget is None else check_count("budget", budget, 0)
  searches, num_logged = [_Search(case, config, base) for case in cases], 0
  while open_searches := [s for s in searches if not s.verdict.finished]:
    changes: list[tuple[Case, int]] = []
    seeds: list[int] = []
    spans = []
    for s in open_searches:
      index, new_seeds = s.request()
      spans.append((s, index, slice(len(seeds), len(seeds) + len(new_seeds))))
      changes += [(s.case, int(s.sizes[index]))] * len(new_seeds)
      seeds += new_seeds.tolist()
    used = sum(s.models_used for s in searches)
    if budget is not None and used + len(seeds) > budget:
      break
    expected = used + sum(s.models_expected() for s in open_searches)
    report = progress_lib.shift(progress, used, expected)
    margins_m = margins_of_changes(changes, np.array(seeds), progress=report)
    for s, index, rows in spans:
      s.observe(index, margins_m[rows])
      if s.verdict.finished and not s.verdict.censored and num_logged < _LOGGED:
        num_logged += 1
        _log_claim(restate(s.verdict))
  used = sum(s.models_used for s in searches)
  progress(used, used)
  return [restate(s.verdict) for s in searches]


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
