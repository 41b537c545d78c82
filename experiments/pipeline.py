"""Runs the whole pipeline, from images to the report.

  python -m experiments.pipeline --workdir=runs/fashion

It loads images, trains models on random subsets, and fits one datamodel per target.
It then finds small removals and label flips, verifies them, and writes report.html.
Finished stages of the workdir are not repeated. A killed run continues where it
stopped. With --distributed, the processes of one job share the work of all stages.
"""

from experiments import brittleness, fit_datamodels, label_flip, report, train_subsets
from experiments.runtime import external, lab, launcher, processes
from jaxdm.datamodels import path


def main(opened: lab.Lab) -> None:
  """Runs every stage in order."""
  # Raises UserError on fewer models than a fit needs.
  path.folds(opened.experiment.collect.num_models, opened.experiment.fit)
  for stage in (train_subsets, fit_datamodels, brittleness, label_flip):
    stage.main(opened)
  if processes.follows():
    return
  report.main(opened)


PROGRAM = launcher.Program(main, hold="job", flag_modules=(brittleness, external))

if __name__ == "__main__":
  PROGRAM.run()
