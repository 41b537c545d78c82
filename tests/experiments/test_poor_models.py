"""Models that are hardly better than a constant answer are called poor."""

import numpy as np
import pytest
from support import planted

from experiments import train_subsets
from experiments.report_page import opening
from experiments.runtime import base_models
from jaxdm.report import page


@pytest.mark.parametrize("right,is_poor", [(11, True), (18, False)])
def test_models_as_good_as_a_constant_answer_are_poor(capsys, right, is_poor) -> None:
  labels = np.repeat([0, 1], 10)
  margins_rt = np.where(np.arange(20) < right, 1.0, -1.0)[None].repeat(3, axis=0)
  text = base_models.describe_accuracy(margins_rt, labels)
  assert f"classify {5 * right}.0 % of the targets correctly" in text
  assert "correct for 50.0 %" in text and ("are poor" in text) == is_poor
  base_models.print_if_poor(margins_rt, labels)
  assert ("are poor, and what follows says little" in capsys.readouterr().out) == is_poor


def test_the_accuracy_is_said_when_the_models_are_trained(
  tmp_path, capsys, monkeypatch
) -> None:
  monkeypatch.setattr(opening, "_LEAST_GAIN", 1.0)  # All models are poor.
  # Undone before what `planted` patches, of which it would else be the last word.
  with planted.experiment(tmp_path / "run") as opened, monkeypatch.context() as patch:
    share = (base_models.load(opened).margins_rt > 0).mean()
    patch.setattr(base_models, "exist", lambda _: False)
    patch.setattr(base_models, "train_all", base_models.load)
    patch.setattr(train_subsets, "count_missing", lambda _: 0)
    train_subsets.main(opened)
  text = capsys.readouterr().out
  assert f"classify {100 * share:.1f} % of the targets correctly" in text
  assert "These models are poor: they have hardly learned the task" in text


def test_the_page_makes_a_warning_stand_out() -> None:
  mark = '<p class="warning" role="note">'
  assert f"{mark}poor &amp; more</p>" in page.page("title", [], warning="poor & more")
  assert mark not in page.page("title", [], opening=["poor"])
