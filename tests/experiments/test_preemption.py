"""A signal cancels a run between units of work, and only there."""

import logging
import os
import signal
import subprocess
import sys

import pytest
from support.programs import ROOT

from experiments.runtime import launcher, preemption, processes, program
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


@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_a_signal_during_imports_ends_with_the_same_code(number) -> None:
  command = [sys.executable, "-X", "importtime", "-m", "experiments.fit_datamodels"]
  with subprocess.Popen(
    command,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    # Under nohup, it is ignored.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  ) as process:
    for line in process.stderr:  # A line a module, before JAX and most others.
      if line.rstrip().endswith(" numpy"):
        process.send_signal(number)
        break
    said = process.stderr.read()
  assert process.returncode == preemption.EXIT_CODE
  assert f"{number.name}: nothing had begun" in said and "Traceback" not in said


def test_programs_that_do_not_listen_have_the_usual_signals_again(monkeypatch) -> None:
  before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
  preemption.listen_early()
  changed = {number: signal.getsignal(number) for number in preemption.SIGNALS}
  with monkeypatch.context() as patch:
    patch.setattr(program.app, "run", lambda *_, **__: None)
    patch.setattr(program.logging, "getLogger", lambda *_: logging.Logger("other"))
    program.run(print)
  assert before == {number: signal.getsignal(number) for number in preemption.SIGNALS}
  # What nohup has ignored stays ignored.
  assert set(changed.values()) - {signal.SIG_IGN} == {preemption._leave}


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
