"""Lines that warn of a fit or a measurement that means little."""

import os

import pytest

from experiments.bench import machine_load
from experiments.runtime import imported_models


@pytest.mark.parametrize("load,is_busy", [(3.9, False), (4.0, False), (4.5, True)])
def test_a_machine_with_more_work_than_cores_is_busy(monkeypatch, load, is_busy) -> None:
  monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
  monkeypatch.setattr(os, "cpu_count", lambda: 4)
  assert machine_load.note().startswith("note: this machine is busy") == is_busy


@pytest.mark.parametrize("held_out,warned", [(120, False), (121, True), (200, True)])
def test_more_than_a_third_held_out_is_warned_of(held_out, warned) -> None:
  text = imported_models.note_held_out(held_out, 360)
  assert ("--num_held_out=72" in text) == warned == (f"{held_out} of 360" in text)
