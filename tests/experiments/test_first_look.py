"""The first figure that training says."""

import re

import numpy as np
import scipy.stats
from support import planted

from experiments import train_subsets
from experiments.runtime import first_look


def test_training_says_once_how_well_margins_are_predicted(tmp_path, capsys) -> None:
  with planted.experiment(tmp_path / "run") as opened:
    train_subsets.main(opened)
    [rows] = [opened.subsets.fitted_rows()]
  said = capsys.readouterr().out
  [(lds, models)] = re.findall(r"LDS so far (0\.\d+), of a rough fit to (\d+) mod", said)
  total = opened.subsets.collections()[0].models
  assert total / 2 <= int(models) < total
  # The same by hand: covariances of the first four fifths, ranks of the others.
  masks, margins = rows.masks[:], np.asarray(rows.margins_mt[:])
  masks, margins = masks[: int(models)], margins[: int(models)]
  first = len(masks) - round(len(masks) / 5)
  x, y = masks[:first] - masks[:first].mean(0), margins[:first] - margins[:first].mean(0)
  guess = masks[first:] @ (x.T @ y)
  expected = np.mean(
    [
      scipy.stats.spearmanr(guess[:, t], margins[first:, t]).statistic
      for t in range(margins.shape[1])
    ]
  )
  assert abs(float(lds) - expected) <= 0.006


def test_of_few_models_nothing_is_said() -> None:
  masks = np.ones((4, 6), bool)
  assert first_look.of_models(masks, np.zeros((4, 2))) == ""
