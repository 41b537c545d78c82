"""Figures of numbers."""

import itertools

import pytest

from jaxdm.report import figures


@pytest.mark.parametrize("scale", [1, 0.1])
def test_names_of_near_levels_do_not_lie_on_each_other(scale) -> None:
  levels = {"influence": 0.57, "trak": 0.56, "similar": 0.04, "close": 0.05, "far": 0.3}
  points = [
    {"way": way, "models": 0, "lds": scale * lds, "low": scale * lds, "high": scale * lds}
    for way, lds in levels.items()
  ]
  curve = [
    {"way": "published", "models": m, "lds": 0.03, "low": 0.02, "high": 0.04}
    for m in (10, 100)
  ]
  figure = figures.efficiency(points + curve)
  figure.canvas.draw()
  [axes] = figure.axes
  boxes = [text.get_window_extent() for text in axes.texts]
  assert [text.get_text().partition(":")[0] for text in axes.texts] == [
    "influence, trak",
    "far",
    "close, similar",
  ]
  assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
