"""A signal cancels a run between units of work, and only there."""

import pytest

from experiments.runtime import launcher, preemption, processes
from jaxdm.progress import Cancelled


@pytest.fixture
def signalled(monkeypatch) -> None:
  """As after a signal."""
  monkeypatch.setattr(preemption._shutdown, "is_set", lambda: True)


def test_without_a_signal_reports_pass_through() -> None:
  reports: list[tuple[int, int]] = []
  preemption.check_after(lambda *args: reports.append(args))(2, 3)
  assert reports == [(2, 3)]


def test_a_run_is_cancelled_after_the_report(signalled) -> None:
  reports: list[tuple[int, int]] = []
  with pytest.raises(Cancelled):
    preemption.check_after(lambda *args: reports.append(args))(2, 3)
  assert reports == [(2, 3)]


@pytest.mark.parametrize(
  "error,code,left",
  [(Cancelled(), 75, False), (SystemExit("error: x"), "error: x", True)],
)
def test_only_a_cancelled_run_ends_without_ending_its_job(
  monkeypatch, error, code, left
) -> None:
  failures: list[BaseException] = []
  monkeypatch.setattr(preemption, "listen", lambda: None)
  monkeypatch.setattr(processes, "leave", failures.append)

  def begin(*_) -> None:
    raise error

  monkeypatch.setattr(launcher.Program, "start", begin)
  with pytest.raises(SystemExit) as caught:
    launcher.Program(main=print)._begin(["program"])
  assert caught.value.code == code and bool(failures) == left
