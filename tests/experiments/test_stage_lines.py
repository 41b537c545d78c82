"""What a stage prints at its end."""

from etils import epath

from experiments import report
from experiments.runtime import stages
from experiments.runtime.workdir import Workdir


def test_a_stage_ends_with_its_numbers_in_plain_text(tmp_path, capsys) -> None:
  found = {
    "num_train": 1200,
    "lds": {"estimate": 0.61234, "low": 0.5, "high": 0.75},
    "share": 0.123456,
    "prior": "none",
    "lds_ceiling": None,
    "methods": {"random": {"targets": 3}},
    "points": [{"models": 3}],
    "caption": "Target 1.",
  }
  workdir = Workdir(str(tmp_path))
  with workdir.lock():
    stages.run(workdir, "stage", {}, lambda: dict(found))
  [line] = capsys.readouterr().out.splitlines()
  assert line.startswith(
    "stage: num train 1,200, lds 0.612 [0.500, 0.750], share 0.1235, prior none, seconds"
  )


def test_the_last_line_of_a_report_says_how_to_read_it(tmp_path, capsys) -> None:
  (tmp_path / "figures").mkdir()
  report._write(epath.Path(tmp_path), {}, "page", {"a.png": b"picture"})
  written = tmp_path / "report.html"
  assert written.read_text() == "page"
  assert capsys.readouterr().out.splitlines()[-1] == f"Open {written} in a browser"
