"""The whole chain, from images to report.

  python -m experiments.pipeline --workdir=runs/fashion

It loads images, trains models on random subsets, fits a datamodel per target, finds
and verifies small removals and label flips, and writes report.html. Stages that the
workdir already holds are not done again, and a killed run continues where it was. The
processes of one job share all of it with --distributed.
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
