"""Waits for other processes."""

import itertools
import warnings

import pytest

from jaxdm import waiting


@pytest.fixture
def clock(monkeypatch) -> list[float]:
  """Pauses, which take no time."""
  pauses: list[float] = []
  monkeypatch.setattr(waiting.time, "sleep", pauses.append)
  monkeypatch.setattr(waiting.time, "monotonic", lambda: sum(pauses))
  return pauses


def test_asks_ever_more_seldom_and_warns_ever_more_seldom(clock) -> None:
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    waiting.until(lambda: sum(clock) > 3600, "the end")
  assert clock == sorted(clock)
  assert max(clock) <= 3.0
  minutes = [2, 4, 8, 16, 32]
  assert [str(w.message).split(" for ")[0] for w in caught] == [
    f"waited {m} minutes" for m in minutes
  ]
  assert "leave the end;" in str(caught[0].message)


def test_does_not_sleep_if_there_is_nothing_to_wait_for(clock) -> None:
  waiting.until(lambda: True, "nothing")
  assert not clock
  answers = itertools.chain([False, False], itertools.repeat(True))
  waiting.until(lambda: next(answers), "the third answer")
  assert len(clock) == 2
