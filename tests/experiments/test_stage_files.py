"""A stage counts as finished only while what it has made is there."""

import pathlib
import shutil

import pytest
from absl.testing import flagsaver
from support.programs import contents, start

from experiments import brittleness, pipeline, report, train_subsets
from experiments.ops import make_problem, status
from experiments.runtime import stages
from experiments.runtime.workdir import Workdir, WorkdirError
from experiments.studies import compare_methods
from jaxdm.report import tables
from jaxdm.storage import atomic_io, checksummed_json

# Of the report, which is no stage, and of all stages.
_OTHERS = {".lock", "places.json", "report.html", "summary.json"}
# What stages know how to look for, without a list of files.
_MODELS = {"bank", "base_models"}
# What speeds up the next run, or tells of earlier ones.
_ASIDE = {"figures", "logs", "relabel.parts", "stages", "starts", "tuning"}


def _write(workdir: Workdir, *names: str) -> None:
  for name in names:
    path = workdir.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("text")


def _run(workdir: Workdir, calls: list[str], **given) -> None:
  def work():
    calls.append("work")
    _write(workdir, "table.csv", "folder/part", "picture.png")
    return {stages.FILES: ["picture.png"]}

  with workdir.lock():
    stages.run(workdir, "stage", {}, work, files=("table.csv", "folder"), **given)


@pytest.mark.parametrize("name", ["table.csv", "folder", "folder/part", "picture.png"])
def test_a_stage_whose_file_is_missing_is_done_again(tmp_path, name, capsys) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  _run(workdir, calls)
  _run(workdir, calls)
  assert calls == ["work"] and stages.is_finished(workdir, "stage")
  path = pathlib.Path(workdir.path / name)
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert not stages.is_finished(workdir, "stage")
  lost = name.partition("/")[0]
  with pytest.raises(WorkdirError, match=f"lacks {lost} of stage; run .*experiments.st"):
    stages.summary_of(workdir, "stage")
  _run(workdir, calls)
  assert len(calls) == 2 and path.exists() and stages.is_finished(workdir, "stage")
  assert f"done again with what is there, since: {lost} is missing" in (
    capsys.readouterr().out
  )


def test_an_empty_file_is_a_missing_one(tmp_path) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  _run(workdir, calls)
  (workdir.path / "table.csv").write_text("")
  _run(workdir, calls)
  assert len(calls) == 2


@pytest.mark.parametrize("name", ["table.csv", "picture.png"])
@pytest.mark.parametrize("content", ["TEXT", "te", "folder"])
def test_a_stage_whose_file_has_changed_is_done_again(
  tmp_path, name, content, capsys
) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  _run(workdir, calls)
  path = pathlib.Path(workdir.path / name)
  if content == "folder":
    path.unlink()
    path.mkdir()
    (path / "file").touch()
  else:
    path.write_text(content)
  assert not stages.is_finished(workdir, "stage")
  assert stages.changed_files(workdir) == {name}
  with pytest.raises(WorkdirError, match=f"another {name} than stage .*experiments.stag"):
    stages.summary_of(workdir, "stage")
  if content == "folder":
    shutil.rmtree(path)
  _run(workdir, calls)
  assert len(calls) == 2 and path.read_text() == "text"
  assert stages.is_finished(workdir, "stage") and not stages.changed_files(workdir)
  if content != "folder":
    assert f"since: {name} has changed since it was written" in capsys.readouterr().out


def test_notes_in_what_no_program_reads_change_nothing(tmp_path) -> None:
  workdir, path = Workdir(str(tmp_path / "run")), tmp_path / "run" / "table.columns.md"
  with workdir.lock():
    stages.run(
      workdir, "stage", {}, lambda: path.write_text("a") and {}, files=[path.name]
    )
  path.write_text("a, and notes")
  assert stages.is_finished(workdir, "stage")


def test_a_record_without_digests_counts_its_files_as_unchanged(tmp_path) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  _run(workdir, calls)
  record = checksummed_json.read(workdir.stages / "stage.json")
  assert record.pop("digests").keys() == {"table.csv", "picture.png"}
  checksummed_json.write(workdir.stages / "stage.json", record)
  (workdir.path / "table.csv").write_text("other")
  _run(workdir, calls)
  assert calls == ["work"] and not stages.changed_files(workdir)
  assert stages.summary_of(workdir, "stage") == record["summary"]


def test_a_record_of_an_earlier_version_says_nothing_of_files(tmp_path) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  with workdir.lock():
    stages.run(workdir, "stage", {}, dict)
  assert stages.is_finished(workdir, "stage")
  _run(workdir, calls)  # It says now which files it writes; they are not there.
  assert calls == ["work"]


def test_a_folder_in_the_place_of_a_table_is_named_before_any_work(tmp_path) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  (tmp_path / "run" / "stages").mkdir(parents=True)
  (tmp_path / "run" / "table.csv").mkdir()
  with pytest.raises(WorkdirError, match="holds a folder table.csv, where stage writes"):
    _run(workdir, calls)
  assert not calls and not stages.is_begun(workdir, "stage")


def test_a_record_that_is_a_link_to_nothing_is_missing(tmp_path) -> None:
  workdir = Workdir(str(tmp_path / "run"))
  _begin(workdir, "stage", 1)
  (tmp_path / "run" / "stages" / "other.json").symlink_to(tmp_path / "nothing")
  for read in (stages.stored_settings, stages.starts_by_stage):
    with pytest.raises(checksummed_json.DamageError, match="other.json is missing"):
      read(workdir)


def _begin(workdir: Workdir, stage: str, seed: int) -> None:
  with workdir.lock():
    stages.run(workdir, stage, {"search": {"seed": seed}}, dict)


def test_the_last_start_is_that_even_if_a_clock_was_wrong(tmp_path, monkeypatch) -> None:
  workdir = Workdir(str(tmp_path / "run"))
  with monkeypatch.context() as patch:
    patch.setattr(stages.provenance, "now", lambda: "2099-01-01T00:00:00.000Z")
    _begin(workdir, "b", 1)
  _begin(workdir, "c", 2)
  _begin(workdir, "a", 3)
  assert stages.stored_settings(workdir) == {"search": {"seed": 3}}
  _begin(workdir, "b", 4)
  assert stages.stored_settings(workdir) == {"search": {"seed": 4}}


def test_records_without_a_number_are_older_and_in_the_order_of_their_time(
  tmp_path, monkeypatch
) -> None:
  workdir = Workdir(str(tmp_path / "run"))
  for stage, seed, day in (("a", 1, 2), ("b", 2, 1)):
    monkeypatch.setattr(stages.provenance, "now", lambda day=day: f"2099-01-0{day}")
    _begin(workdir, stage, seed)
    path = workdir.stages / f"{stage}.json"
    record = checksummed_json.read(path)
    assert record.pop("number") == 1
    checksummed_json.write(path, record)
  assert stages.stored_settings(workdir) == {"search": {"seed": 1}}
  monkeypatch.setattr(stages.provenance, "now", lambda: "2026-01-01")
  _begin(workdir, "c", 3)
  assert stages.stored_settings(workdir) == {"search": {"seed": 3}}


def test_what_a_stage_lacks_beside_files_is_made_again(tmp_path, capsys) -> None:
  workdir, calls = Workdir(str(tmp_path / "run")), list[str]()
  _run(workdir, calls)
  _run(workdir, calls, lacks=lambda: "3 models are missing")
  assert len(calls) == 2
  assert "since: 3 models are missing" in capsys.readouterr().out


def test_stores_elsewhere_that_are_gone_are_no_missing_models(tmp_path) -> None:
  bank, calls = tmp_path / "disk" / "bank", list[str]()
  workdir = Workdir(str(tmp_path / "run"), str(bank))
  _run(workdir, calls)
  bank.rename(tmp_path / "unmounted")
  with pytest.raises(
    WorkdirError, match="bank is not there.*; name .*--bank_dir=NEW, or mount"
  ):
    _run(workdir, calls, lacks=lambda: pytest.fail("looked for models"))
  bank.mkdir()
  _run(workdir, calls, lacks=lambda: "3 models are missing")
  assert len(calls) == 2


def test_every_file_of_a_workdir_is_that_of_a_stage(finished) -> None:
  workdir = Workdir(str(finished))
  records = [
    workdir.stages / f"{stage}.json" for stage in stages.starts_by_stage(workdir)
  ]
  listed = {
    name for path in records for name in stages.checksummed_json.read(path)[stages.FILES]
  }
  found = {path.name for path in finished.iterdir()}
  assert found - _OTHERS - _MODELS - _ASIDE == listed


def _results(folder: pathlib.Path) -> dict[str, bytes]:
  """What stages have made, without the times at which they did."""
  kept = ("bank/", "base_models/", *(f"{t}." for t in ("targets", "brittleness")))
  names = ("done/", "manifest.json", "record.json")  # Who made them, of these.
  return {
    name: content
    for name, content in contents(folder).items()
    if name.startswith(kept) and not any(part in name for part in names)
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ("lost", "program"),
  [
    ("bank/subsets", train_subsets.PROGRAM),
    ("bank/subsets/done/00000000000001-16.json", train_subsets.PROGRAM),
    ("base_models/close.npy", train_subsets.PROGRAM),
    ("targets.csv", train_subsets.PROGRAM),
    ("brittleness.csv", brittleness.PROGRAM),
    ("brittleness.columns.md", brittleness.PROGRAM),
  ],
)
def test_what_is_lost_is_made_again_as_it_was(finished_copy, lost, program) -> None:
  before, path = _results(finished_copy), finished_copy / lost
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  start(program, finished_copy)
  assert _results(finished_copy) == before
  start(report.PROGRAM, finished_copy)


@pytest.mark.slow
def test_the_pipeline_makes_again_all_that_is_lost(finished_copy, capsys) -> None:
  before = _results(finished_copy)
  for name in ("brittleness.csv", "label_flip.csv", "targets.csv"):
    (finished_copy / name).unlink()
  shutil.rmtree(finished_copy / "datamodels")
  with pytest.raises(SystemExit, match="lacks targets.csv of train_subsets; run"):
    start(report.PROGRAM, finished_copy, toy={})
  with flagsaver.as_parsed(workdir=str(finished_copy)):
    status.PROGRAM.start(["prog"])
  assert capsys.readouterr().out.count("not finished") == 4
  start(pipeline.PROGRAM, finished_copy)
  assert _results(finished_copy) == before
  assert tables.read_verdicts(atomic_io.epath.Path(finished_copy / "label_flip.csv"))


@pytest.mark.slow
def test_a_cut_table_is_refused_where_it_is_read_and_made_again(
  finished_copy, capsys, tmp_path
) -> None:
  before, table = _results(finished_copy), finished_copy / "brittleness.csv"
  rows = table.read_text().splitlines(keepends=True)
  table.write_text("".join(rows[:-1]))
  message = "another brittleness.csv than brittleness has written; run python -m exp"
  for program, given in (
    (report.PROGRAM, {}),
    (make_problem.PROGRAM, {"name": str(tmp_path / "toy.npz")}),
  ):
    with pytest.raises(SystemExit, match=message):
      start(program, finished_copy, toy={}, **given)
  with (
    flagsaver.flagsaver(tables=[str(table)]),
    pytest.raises(SystemExit, match=message),
  ):
    compare_methods.main([""])
  (finished_copy / "explain_1.png").write_bytes(b"of no record")
  (finished_copy / "label_flip.csv").write_text("other")
  start(brittleness.PROGRAM, finished_copy, toy={})
  capsys.readouterr()
  start(report.PROGRAM, finished_copy, toy={})
  printed = capsys.readouterr().out
  assert "label_flip is not in the report: " in printed and "explain_1" not in printed
  start(pipeline.PROGRAM, finished_copy, toy={})
  assert _results(finished_copy) == before


@pytest.mark.slow
@pytest.mark.parametrize("rules", [None, "2"])
def test_what_earlier_rules_verified_is_verified_again(
  finished_copy, capsys, rules
) -> None:
  path = atomic_io.as_path(finished_copy / "stages" / "brittleness.json")
  record = checksummed_json.read(path)
  record["inputs"].pop("verification rules")
  if rules:
    record["inputs"]["verification rules"] = rules
  checksummed_json.write(path, record)
  with pytest.raises(SystemExit, match="holds other verification rules than brittleness"):
    start(report.PROGRAM, finished_copy, toy={})
  capsys.readouterr()
  start(brittleness.PROGRAM, finished_copy, toy={})
  printed = capsys.readouterr()
  assert "new verification rules" in printed.out + printed.err
  start(report.PROGRAM, finished_copy, toy={})
