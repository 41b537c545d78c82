"""Runs the whole pipeline, from images to the report.

  python -m experiments.pipeline --workdir=runs/fashion

It loads images, trains models on random subsets, and fits one datamodel per target.
It then finds small removals and label flips, verifies them, and writes report.html.
With --audit, it also says which labels of the training set look wrong; with
--nolabel_flip, it searches removals only.
Finished stages of the workdir are not repeated. A killed run continues where it
stopped. With --distributed, the processes of one job share the work of all stages.
"""

from absl import flags

from experiments import (
  audit,
  brittleness,
  fit_datamodels,
  label_flip,
  report,
  train_subsets,
)
from experiments.config import experiment_flags
from experiments.runtime import launcher, processes, score_files, searches
from experiments.runtime.run import Run
from jaxdm.datamodels import path

LABEL_FLIP = flags.DEFINE_boolean(
  "label_flip",
  True,
  "Also search label flips. Without them, a run is much shorter; experiments.label_flip "
  "can still add them.",
)


def main(run: Run) -> None:
  """Runs every stage in order."""
  # Raises UserError on fewer models than a fit needs.
  path.folds(run.experiment.collect.num_models, run.experiment.fit)
  train_subsets.main(run, then=_announce_searches)
  for stage in (fit_datamodels, brittleness, *[label_flip] * LABEL_FLIP.value):
    stage.main(run)
  if processes.is_follower():
    return
  if run.experiment.audit.audit:
    audit.write_audit(run)
  report.main(run)


def _announce_searches(run: Run) -> None:
  """Adds what the searches may cost to what is said after the first steps of training."""
  others = len(score_files.load(run.workdir.places, run.dataset))
  searches.announce(run, brittleness.STAGE, others)
  if not LABEL_FLIP.value:
    return
  searches.announce(run, label_flip.STAGE, others + 1)  # The method relabel.
  again = (
    f"{label_flip.STAGE} first trains the models on all examples again, for the "
    "gradients of relabel scores, which is not timed yet"
  )
  run.announce(lambda *_: again, len(run.dataset.train_labels))


PROGRAM = launcher.Program(
  main,
  hold="job",
  flag_modules=(searches, score_files),
  groups=tuple(experiment_flags.GROUPS),
)

if __name__ == "__main__":
  PROGRAM.run()
