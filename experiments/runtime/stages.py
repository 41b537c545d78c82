"""Records of the stages of an experiment, with which no stage is done twice."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from experiments.runtime import processes, provenance, records
from experiments.runtime.workdir import Workdir, WorkdirError
from jaxdm.report import summary_text
from jaxdm.storage import atomic_io, checksummed_json

# Names the number of a stage's parts that are still to be done, in its summary.
UNFINISHED = "unfinished"
# Names the digests of what a stage leaves for others, in its summary.
OUTPUTS = "outputs"
# Names files that a stage has written beside those that `run` is told of, in its summary.
FILES = records.FILES
# Of a picture; too long for a line.
_CAPTION = "caption"


def stored_settings(workdir: Workdir) -> dict[str, dict[str, Any]]:
  """The settings of all stages begun in a workdir, by group; those of the last start."""
  by_start = sorted(
    records.read_all(workdir),
    key=lambda record: (record.get(records.NUMBER, 0), record.get("asked", "")),
  )
  return {k: v for record in by_start for k, v in record["settings"].items()}


def settings_of(workdir: Workdir, stage: str) -> dict[str, dict[str, Any]]:
  """The settings that a stage was begun with, by group; none if it was not."""
  return dict(records.read(workdir, stage).get("settings", {}))


def summary_of(workdir: Workdir, stage: str, *, partial: bool = False) -> dict[str, Any]:
  """What a finished stage reported.

  Args:
    workdir: that has its record.
    stage: its name.
    partial: one that has ended before it was finished will do.

  Raises:
    WorkdirError: if it is not finished, or a file that it wrote is no longer there, or
      has changed since.
  """
  record = records.read(workdir, stage)
  if not record.get("complete") and not (partial and "summary" in record):
    raise records.missing_error(workdir, f"a finished {stage}", stage)
  records.check_files(workdir, stage, record.get(records.FILES, ()))
  return record["summary"]


def check_table(path: epath.Path) -> None:
  """Raises WorkdirError if a search's table in its workdir is not as it was written.

  Tables in other places, or under other names, have no record, and are not checked.

  Args:
    path: of the table.
  """
  if atomic_io.exists(path.parent / "stages" / f"{path.stem}.json"):
    records.check_files(Workdir(os.fspath(path.parent)), path.stem, [path.name])


def changed_files(workdir: Workdir) -> set[str]:
  """The names of all files that are there, and not as the stages have written them."""
  return {
    name
    for record in records.read_all(workdir)
    for name in records.changed_files(workdir, record)
  }


def outputs_of(workdir: Workdir, stage: str) -> dict[str, str]:
  """Digests of what a finished stage left for others, by name.

  Raises:
    WorkdirError: if it is not finished.
  """
  return dict(summary_of(workdir, stage).get(OUTPUTS, {}))


def is_finished(workdir: Workdir, stage: str) -> bool:
  """Whether a stage has been done to its end, and its files are as it wrote them."""
  record = records.read(workdir, stage)
  is_done = bool(record.get("complete"))
  return is_done and not records.faults_of(workdir, record, record.get(records.FILES, ()))


def is_recorded(workdir: Workdir, stage: str) -> bool:
  """Whether a stage has been done to its end, whatever became of its files."""
  return bool(records.read(workdir, stage).get("complete"))


def is_begun(workdir: Workdir, stage: str) -> bool:
  """Whether a stage has been started, whatever became of it."""
  return bool(records.read(workdir, stage))


def check_inputs(
  workdir: Workdir,
  stage: str,
  inputs: Mapping[str, str],
  *,
  partial: bool = False,
  reads_all: bool = False,
) -> None:
  """Raises WorkdirError unless a stage is finished and has read what is there now.

  Args:
    workdir: that has its record.
    stage: its name.
    inputs: digests of what is there, by name.
    partial: one that has ended before it was finished will do.
    reads_all: whether the stage must have read all of them; else those that it has not
      read do not count.
  """
  summary_of(workdir, stage, partial=partial)
  recorded = records.read(workdir, stage)["inputs"]
  names = inputs.keys() if reads_all else recorded.keys() & inputs.keys()
  wrong = [name for name in sorted(names) if recorded.get(name) != inputs[name]]
  if wrong:
    raise WorkdirError(
      "workdir",
      f"={workdir.path} holds other {', '.join(wrong)} than {stage} has read; run "
      f"python -m experiments.{stage} --workdir={workdir.path} again first",
    )


def is_current(
  workdir: Workdir, stage: str, inputs: Mapping[str, str], *, reads_all: bool = False
) -> bool:
  """Whether a stage has a summary, if only a partial one, and has read what is there now.

  Args:
    workdir: that may have its record.
    stage: its name.
    inputs: see `check_inputs`.
    reads_all: see `check_inputs`.
  """
  try:
    check_inputs(workdir, stage, inputs, partial=True, reads_all=reads_all)
  except WorkdirError:
    return False
  return True


def run(
  workdir: Workdir,
  stage: str,
  settings: Mapping[str, Mapping[str, Any]],
  work: Callable[[], dict[str, Any]],
  inputs: Mapping[str, str] = {},
  *,
  files: Sequence[str] = (),
  lacks: Callable[[], str] = str,
  prepare: Callable[[], None] = lambda: None,
  stored: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
  """Runs a stage unless it is finished, records it, and prints its summary.

  One that is finished is done again if settings or what it reads have changed, or
  something that it has made is no longer there or has changed. One that fails has not
  happened: its record, and its settings, are what they were; but see `stored`. A file
  that it has written before differs from that record, so that the stage is done again.

  Args:
    workdir: for the record.
    stage: its name.
    settings: all settings that its result depends on, by group; JSON values.
    work: does it, continuing what a killed run left; returns a summary.
    inputs: digests of what it reads, by name (see `Run.inputs`).
    files: names, in the workdir, of the files and folders that it writes.
    lacks: says what else that it has made is missing; empty if nothing is.
    prepare: checks what the stage writes to, before anything is recorded.
    stored: what is stored that later runs must agree with. A stage that fails and has
      changed this remains recorded with its settings.

  Returns:
    The summary.
  """
  before = records.read(workdir, stage)
  depends_on = {"settings": dict(settings), "inputs": dict(inputs)}
  if before.get("complete"):
    workdir.check_bank_exists()
    names = [*dict.fromkeys([*files, *before.get(records.FILES, ())])]
    faults = records.faults_of(workdir, before, names)
    why = records.changes(before, depends_on)
    why += [f"{name} {fault}" for name, fault in faults.items()]
    if not why and (text := lacks()):
      why = [text]
    if not why:
      if not processes.is_follower():
        workdir.places.save()  # What it reads may have moved.
      return _print_summary(stage, before["summary"])
    print(f"{stage}: done again with what is there, since: {'; '.join(why)}")
  if processes.is_follower():
    prepare()
    return _follow(workdir, stage, depends_on, work, files)
  workdir.check_bank()
  records.check_no_folders(workdir, stage, [*files, *before.get(records.FILES, ())])
  prepare()
  path, paths = records.path_of(workdir, stage), workdir.places.stored()
  stored_before = stored()
  record = _begin(workdir, stage, depends_on)
  try:
    with provenance.Start(workdir.path, stage, records.result_of(depends_on)):
      summary = work()
  except Exception:
    # Others of several processes may go on with this record.
    if stored() == stored_before and processes.share()[1] == 1:
      records.restore(path, before)
      workdir.places.restore(paths)
    raise
  starts = provenance.of_stage(workdir.path, stage, records.result_of(depends_on))
  summary["seconds"] = starts.seconds
  complete = not summary.get(UNFINISHED)
  names = [*files, *summary.pop(records.FILES, ())]
  record |= {"complete": complete, "summary": summary, records.FILES: names}
  record[records.DIGESTS] = records.digests(workdir, names)
  checksummed_json.write(path, record | starts._asdict())
  return _print_summary(stage, summary)


def begin(
  workdir: Workdir,
  stage: str,
  settings: Mapping[str, Mapping[str, Any]],
  inputs: Mapping[str, str],
) -> None:
  """Records a stage as one that was started with these settings, unless it was already.

  Args:
    workdir: for the record.
    stage: its name.
    settings: see `run`.
    inputs: see `run`.
  """
  if not is_begun(workdir, stage):
    _begin(workdir, stage, {"settings": dict(settings), "inputs": dict(inputs)})


def _begin(workdir: Workdir, stage: str, depends_on: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the record of a stage that starts; returns it."""
  workdir.places.save()
  before = [record.get(records.NUMBER, 0) for record in records.read_all(workdir)]
  number = 1 + max(before, default=0)
  about = {"format": records.FORMAT, "asked": provenance.now(), records.NUMBER: number}
  record = about | dict(depends_on)
  checksummed_json.write(records.path_of(workdir, stage), {**record, "complete": False})
  return record


def _follow(
  workdir: Workdir,
  stage: str,
  depends_on: Mapping[str, Any],
  work: Callable[[], dict[str, Any]],
  files: Sequence[str],
) -> dict[str, Any]:
  """Runs a stage whose record, and files, another process of the job writes."""
  with provenance.Start(workdir.path, stage, records.result_of(depends_on)):
    summary = work()

  def is_recorded() -> bool:
    record = records.read(workdir, stage)
    is_current = record.get("complete") and not records.changes(record, depends_on)
    return bool(is_current) and not records.faults_of(workdir, record, files)

  if not summary.get(UNFINISHED):
    processes.wait_until(is_recorded, f"the record of {stage}")
  return summary


def say_written(workdir: Workdir, names: Sequence[str], *, to_report: bool) -> None:
  """Says which files a program has written, and which command shows them.

  Args:
    workdir: that has them.
    names: of the files.
    to_report: whether a report can show them.
  """
  if processes.is_follower():
    return
  print(f"written: {', '.join(str(workdir.path / name) for name in names)}")
  if to_report:
    program = "report" if is_finished(workdir, "brittleness") else "pipeline"
    command = f"python -m experiments.{program} --workdir={workdir.path}"
    print(f"next: {command} shows them in the report")


def starts_by_stage(workdir: Workdir) -> dict[str, provenance.Provenance]:
  """What made the stages that were begun here, by name: all their starts so far."""
  starts = {}
  for path in records.paths(workdir):
    result = records.result_of(records.read(workdir, path.stem))
    starts[path.stem] = provenance.of_stage(workdir.path, path.stem, result)
  return starts


def mixtures(workdir: Workdir) -> list[str]:
  """A sentence on each store and stage that several versions have made."""
  return provenance.mixtures(workdir.bank, starts_by_stage(workdir))


def provenance_of(workdir: Workdir) -> dict[str, Any]:
  """What made the stages and stores, for summary and page."""
  starts = starts_by_stage(workdir).items()
  return {
    "provenance": {stage: one._asdict() for stage, one in starts},
    "mixtures": mixtures(workdir),
  }


def reopen(workdir: Workdir, stage: str) -> None:
  """Makes a stage one that is not finished, so that it looks for what is missing."""
  record = records.read(workdir, stage)
  if record:
    checksummed_json.write(records.path_of(workdir, stage), record | {"complete": False})


def _print_summary(stage: str, summary: dict[str, Any]) -> dict[str, Any]:
  """The summary, of which single numbers have been printed; not its tables."""
  cells = {name: _text(value) for name, value in summary.items() if name != _CAPTION}
  parts = [f"{name.replace('_', ' ')} {text}" for name, text in cells.items() if text]
  print(f"{stage}: {', '.join(parts)}", flush=True)
  return summary


def _text(value: Any) -> str:
  """A number, an interval or a name in a line; empty for tables."""
  if isinstance(value, Mapping) and value.keys() == {"estimate", "low", "high"}:
    return summary_text.interval(value)
  if isinstance(value, float):
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
  if isinstance(value, str | bool):
    return str(value)
  return f"{value:,}" if isinstance(value, int) else ""
