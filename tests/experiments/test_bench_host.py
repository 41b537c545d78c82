"""The host's benchmark on a toy size."""

import json

import pytest
from absl.testing import flagsaver

from experiments.bench import host, measure


@pytest.mark.slow
def test_every_step_is_measured_on_a_workdir_that_is_made_up(
  tmp_path, monkeypatch, capsys
) -> None:
  monkeypatch.setattr(
    measure, "run_child", lambda module, what: host.run_step(*what.split(","))
  )
  folder, path = tmp_path / "run", tmp_path / "bench.json"
  given = {"scale": "0.004", "workdir": str(folder), "json": str(path)}
  with flagsaver.as_parsed(**given):
    host.main(["prog"])
  printed = capsys.readouterr().out
  assert "n = 200, t = 40, 1,200 models, 40 held-out subsets x 2" in printed
  results = json.loads(path.read_text())
  assert [r["step"] for r in results] == list(host._STEPS)
  for r in results:
    assert f"| {r['step']} | {host._STEPS[r['step']].about} | " in printed
    assert r["seconds"] > 0 and 0 <= r["added_bytes"] < r["peak_bytes"]
  assert (folder / "report.html").stat().st_size > 10_000
  for name, methods in (("brittleness", 8), ("label_flip", 9)):
    rows = (folder / f"{name}.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * methods
  # The 37 chunks that hold models to fit to alone share one file of margins.
  links = sorted((folder / "bank" / "subsets" / "margins" / "c").glob("*/*"))
  assert len(links) == 39
  assert sum(link.stat().st_nlink == 37 for link in links) == 37


@pytest.mark.parametrize(
  "given,message",
  [
    ({"scale": "0"}, r"scale must be in \(0, 1\], got 0"),
    ({"steps": "cases,rest"}, r"--steps must be some of write, .*got \['rest'\]"),
    ({"train_per_class": "5001"}, "train_per_class must be in"),
  ],
)
def test_bad_flags_get_one_line(given, message, tmp_path) -> None:
  with (
    flagsaver.as_parsed(workdir=str(tmp_path / "w"), **given),
    pytest.raises(SystemExit, match=message),
  ):
    host.main(["prog"])
