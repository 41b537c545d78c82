"""Many cases of one test, in a folder that costs little."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st


def quick_and_all(few: int) -> pytest.MarkDecorator:
  """Of a test with an argument `count`: few cases in the quick part, 500 in the other."""
  every = pytest.param(500, marks=pytest.mark.slow)
  return pytest.mark.parametrize("count", [few, every])


def check(cases: st.SearchStrategy, body: Callable[[Any], None], count: int) -> None:
  """Runs a test's body on so many cases."""
  settings = hypothesis.settings(
    max_examples=count, suppress_health_check=list(hypothesis.HealthCheck)
  )
  settings(hypothesis.given(cases)(body))()


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
  """An empty folder, in memory where that can be had."""
  memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
  with tempfile.TemporaryDirectory(dir=memory) as folder:
    yield pathlib.Path(folder)


def assert_one_line(error: Exception, start: str, *words: str) -> None:
  """What a launcher would print begins with the flag, and says these words."""
  line = " ".join(str(error).split())
  assert line.startswith(start), line
  for word in words:
    assert " ".join(word.split()) in line, (word, line)
