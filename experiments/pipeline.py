"""Runs the whole pipeline, from images to the report.

  python -m experiments.pipeline --workdir=runs/fashion

It loads images, trains models on random subsets, and fits one datamodel per target.
It then finds small removals and label flips, verifies them, and writes report.html.
With --audit, it also says which labels of the training set look wrong.
Finished stages of the workdir are not repeated. A killed run continues where it
stopped. With --distributed, the processes of one job share the work of all stages.
"""

from experiments import (
  audit,
  brittleness,
  fit_datamodels,
  label_flip,
  report,
  train_subsets,
)
from experiments.runtime import launcher, processes, score_files
from experiments.runtime.run import Run
from jaxdm.datamodels import path


def main(run: Run) -> None:
  """Runs every stage in order."""
  # Raises UserError on fewer models than a fit needs.
  path.folds(run.experiment.collect.num_models, run.experiment.fit)
  for stage in (train_subsets, fit_datamodels, brittleness, label_flip):
    stage.main(run)
  if processes.is_follower():
    return
  if run.experiment.audit.audit:
    audit.main(run)
  report.main(run)


PROGRAM = launcher.Program(main, hold="job", flag_modules=(brittleness, score_files))

if __name__ == "__main__":
  PROGRAM.run()
