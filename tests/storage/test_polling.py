"""Waits for other processes."""

import itertools
import warnings

import pytest

from jaxdm.storage import polling


@pytest.fixture
def clock(monkeypatch) -> list[float]:
  """Pauses, which take no time."""
  pauses: list[float] = []
  monkeypatch.setattr(polling.time, "sleep", pauses.append)
  monkeypatch.setattr(polling.time, "monotonic", lambda: sum(pauses))
  return pauses


def test_asks_ever_more_seldom_and_warns_ever_more_seldom(clock) -> None:
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    polling.until(lambda: sum(clock) > 3600, "the end")
  assert clock == sorted(clock)
  assert max(clock) <= 3.0
  minutes = [2, 4, 8, 16, 32]
  assert [str(w.message).split(" for ")[0] for w in caught] == [
    f"waited {m} minutes" for m in minutes
  ]
  assert "leave the end;" in str(caught[0].message)


def test_does_not_sleep_if_there_is_nothing_to_wait_for(clock) -> None:
  polling.until(lambda: True, "nothing")
  assert not clock
  answers = itertools.chain([False, False], itertools.repeat(True))
  polling.until(lambda: next(answers), "the third answer")
  assert len(clock) == 2
