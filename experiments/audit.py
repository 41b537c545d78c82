"""What the models say of the training set: wrong labels, memorised and opposed examples.

  python -m experiments.audit --workdir=runs/fashion

The workdir's models must have predicted their training examples. In a workdir that was
begun without `--audit`, this trains its models on random subsets again and stores these
predictions:

  python -m experiments.train_subsets --workdir=runs/fashion --audit

The results are in the workdir:

  audit.csv    a row an example: its label quality (low: the label looks wrong), the
               label that models without it suggest, its consistency (how often these are
               right), memorisation (how much more often models trained on it are right),
               and how much it supports and opposes the targets by the datamodels, if
               they are fitted; each with a 95 % interval
  audit.json   a summary, and pairs of examples of which one can replace the other
  audit_*.png  pictures, which the next report shows

Models that others trained are audited from files, with the labels and masks in .npy files
too, or those of the workdir (see experiments.ops.bank --do=import):

  python -m experiments.audit --workdir=runs/bank --train_margins=margins.npy \\
      --masks=masks.npy --train_labels=labels.npy
"""

from typing import Any

import numpy as np
from etils import epath

from experiments.report_page import words
from experiments.runtime import (
  audit_files,
  base_models,
  datamodels,
  launcher,
  margin_files,
  stages,
  workdir_models,
)
from experiments.runtime.audit_files import TrainingPredictions
from experiments.runtime.run import Run
from experiments.runtime.workdir import WorkdirError
from jaxdm import identity
from jaxdm.audits import stand_ins
from jaxdm.audits.audit import MEMORISED, SUSPICIOUS, Audit, audit
from jaxdm.report import audit_pictures, tables
from jaxdm.storage import atomic_io
from jaxdm.storage.matrix_view import MatrixView
from jaxdm.training.base_trainer import TRAINING
from jaxdm.training.collection import missing_models

STAGE = "audit"
_STORE = f"subsets{TRAINING}"  # In the bank, of the predictions.
_PRINTED = 10
# Estimates of `Audit`, in the order of the table.
_COLUMNS = ("label_quality", "consistency", "probability", "memorisation")
_TOTALS = ("support", "opposition")


def predictions_of(run: Run) -> TrainingPredictions:
  """What a workdir's own models predict of its training examples.

  Raises:
    WorkdirError: if they have not predicted them, saying how to make them.
  """
  how = (
    f"python -m experiments.train_subsets --workdir={run.workdir.path} --audit, with the "
    "same settings, adds them"
  )
  if not run.experiment.audit.audit:
    raise WorkdirError(
      "workdir",
      f"={run.workdir.path} lacks predictions of its training examples; {how}, and "
      "trains its models on random subsets again for that",
    )
  workdir_models.check_stores(run.workdir)
  models, training = run.subsets.sizes()[_STORE], None
  num_missing = models
  if run.trainer.has_store(_STORE):
    collection = run.subsets.first_collection()
    training, num_missing = collection.training, sum(map(len, missing_models(collection)))
  if num_missing or training is None:
    raise WorkdirError(
      "workdir",
      f"={run.workdir.path} lacks predictions of {num_missing} of {models} models; {how}",
    )
  rows = np.arange(models)
  classes = None
  if "classes" in training.columns:
    classes = MatrixView(training, "classes", rows)
  settings, scores = run.settings(STAGE), None
  inputs = {"predictions": identity.digest(training.identity(rows))}
  if stages.is_finished(run.workdir, datamodels.STAGE):
    inputs |= run.inputs("train_subsets", datamodels.STAGE)
    scores = datamodels.load(run.workdir).weights_tn
  else:
    print("no support and opposition: there are no datamodels; run fit_datamodels first")
  return TrainingPredictions(
    run.workdir,
    run.subsets.first_rows().masks,
    MatrixView(training, "margins", rows),
    run.dataset.train_labels,
    classes,
    scores,
    run.dataset,
    settings,
    inputs,
  )


def _cells(result: Audit, example: int) -> list[Any]:
  """One example's numbers and intervals."""
  cells: list[Any] = [int(result.models_in[example]), int(result.models_out[example])]
  for name in (*_COLUMNS, *_TOTALS):
    estimate = getattr(result, name)
    ends = () if estimate is None else estimate
    cells += [f"{part[example]:.6g}" for part in ends] or [""] * 3
  return cells


def write_table(
  path: epath.Path,
  predictions: TrainingPredictions,
  result: Audit,
  pairs: list[stand_ins.Pair],
) -> None:
  """Writes audit.csv."""
  twins: dict[int, int] = {}
  for pair in reversed(pairs):
    twins |= {pair.first: pair.second, pair.second: pair.first}
  rows = []
  for i, (label, suggestion) in enumerate(
    zip(result.labels, result.suggested_labels, strict=True)
  ):
    names = (
      predictions.source(i),
      predictions.class_name(label),
      predictions.class_name(suggestion),
    )
    rows.append((i, *names, *_cells(result, i), twins.get(i, "")))
  ends = [f"{n}{end}" for n in (*_COLUMNS, *_TOTALS) for end in ("", "_low", "_high")]
  header = ("index", "source", "label", "suggested_label", "models_in", "models_out")
  tables.write_rows(path, (*header, *ends, "stand_in"), rows)


def summarise(predictions: TrainingPredictions, result: Audit) -> dict[str, Any]:
  """The numbers of audit.json."""
  memorisation = result.memorisation
  return {
    "examples": len(result.labels),
    "models": len(predictions.margins_mn),
    "mean_consistency": float(np.nanmean(result.consistency.value)),
    "mean_memorisation": float(np.nanmean(memorisation.value)),
    "other_label_suggested": len(result.doubtful),
    "suspicious": len(result.suspicious),
    "memorised": int((memorisation.low > MEMORISED).sum()),
  }


def _print_worst(predictions: TrainingPredictions, result: Audit) -> None:
  """The most suspicious labels, and how many there are."""
  suspicious = result.suspicious
  print(
    f"suspicious labels: {len(suspicious)}, which (with 95 % confidence) fewer than "
    f"{words.percent(SUSPICIOUS)} of the models without the example choose; models "
    f"suggest another label for {len(result.doubtful)} examples"
  )
  if not suspicious.size:
    return
  print(f"{'example':>8}  {'label':<16}{'suggested':<16}{'label quality':<22}source")
  for i in suspicious[:_PRINTED]:
    value, low, high = (part[i] for part in result.label_quality)
    quality = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    labels = result.labels[i], result.suggested_labels[i]
    names = "".join(f"{predictions.class_name(label):<16}" for label in labels)
    print(f"{i:>8}  {names}{quality:<22}{predictions.source(i)}")


def write_audit(source: Run | TrainingPredictions) -> dict[str, Any]:
  """Audits, and writes table, summary and pictures."""
  predictions = predictions_of(source) if isinstance(source, Run) else source
  folder = predictions.workdir.path

  def work() -> dict[str, Any]:
    result = audit(
      predictions.masks,
      predictions.margins_mn,
      predictions.labels,
      predictions.classes_mn,
      predictions.scores,
    )
    pairs = stand_ins.find_pairs(
      predictions.masks, predictions.margins_mn, predictions.labels
    )
    pictures = (
      {}
      if predictions.data is None
      else audit_pictures.draw(predictions.data, result, pairs)
    )
    if isinstance(source, Run) and base_models.exist(source):
      margins_rt = base_models.load(source).margins_rt
      base_models.print_if_poor(margins_rt, source.dataset.test_labels)
    _print_worst(predictions, result)
    write_table(folder / "audit.csv", predictions, result, pairs)
    for name, picture in pictures.items():
      with atomic_io.writing(folder / name) as file:
        file.write(picture.content)
    summary = summarise(predictions, result)
    more = {
      "stand_ins": [pair._asdict() for pair in pairs],
      "captions": {name: picture.caption for name, picture in pictures.items()},
    }
    atomic_io.write_json(folder / "audit.json", summary | more)
    return summary | {stages.FILES: list(pictures)}

  return stages.run(
    predictions.workdir,
    STAGE,
    predictions.settings,
    work,
    predictions.inputs,
    files=(*tables.files_of(STAGE), f"{STAGE}.json"),
  )


def main(source: Run | TrainingPredictions) -> dict[str, Any]:
  """Audits, and says where the results are."""
  summary, workdir = write_audit(source), source.workdir
  pictures = [path.name for path in atomic_io.find(workdir.path, "audit_*.png")]
  names = ("audit.csv", "audit.json", *sorted(pictures))
  stages.say_written(workdir, names, to_report=isinstance(source, Run))
  return summary


def open_any() -> Run | TrainingPredictions:
  """Files if the flags name some, else the workdir's experiment."""
  return (
    audit_files.open_predictions() if audit_files.are_requested() else launcher.open_run()
  )


PROGRAM = launcher.Program(
  main, open_any, flag_modules=(audit_files, margin_files), groups=("audit",)
)

if __name__ == "__main__":
  PROGRAM.run()
