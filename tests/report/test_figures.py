"""Figures of numbers."""

import itertools

import numpy as np
import pytest
import scipy.stats
from support.pages import verdict

from jaxdm.report import figures, image_figures


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


def test_curves_rise_at_the_size_that_flips_a_target_with_its_interval() -> None:
  ks = (2, 4, 4, -1)
  found = [verdict(target, "mine", k) for target, k in enumerate(ks)]
  figure = figures.plot_share_flipped([verdict(0, "other", 3, largest=9), *found])
  [axes] = figure.axes
  assert axes.get_xlim() == (0, 10)
  for line, group in zip(axes.lines, [(3,), ks], strict=True):
    assert line.get_drawstyle() == "steps-post"
    shares = [np.mean([0 < k <= size for k in group]) for size in line.get_xdata()]
    np.testing.assert_array_equal(line.get_ydata(), shares)
  bars = np.concatenate([part.get_segments() for part in axes.collections[1:]])
  assert len(bars) > 2
  for (x, low), (_, high) in bars:
    count = sum(0 < k <= x for k in ks)
    exact = scipy.stats.binomtest(count, len(ks)).proportion_ci()
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_the_typical_target_is_the_median_of_those_with_a_score() -> None:
  predicted, margins = np.random.default_rng(0).normal(size=(2, 6, 5))
  scores = np.array([np.nan, 0.1, np.nan, 0.5, 0.3])
  left, right = figures.predicted_against_true(predicted, margins, scores).axes
  assert left.get_title() == "target 4, LDS 0.30 (the median)"
  [dots] = left.collections
  np.testing.assert_array_equal(dots.get_offsets()[:, 0], predicted[:, 4])
  np.testing.assert_array_equal(dots.get_offsets()[:, 1], margins[:, 4])
  assert left.get_xlabel() == "predicted margin"
  assert right.get_title() == "mean 0.30 (line)"


def test_the_bias_is_what_datamodels_predict_too_much() -> None:
  figure = figures.calibration(
    (np.array([1.0, 2.0]), np.array([0.25, 1.75])), {"random": (np.ones(2), np.zeros(2))}
  )
  left, right = figure.axes
  assert left.get_title() == "all data: bias +0.50 logits"
  assert left.collections[0].get_offsets().tolist() == [[1, 0.25], [2, 1.75]]
  assert right.collections[0].get_offsets().tolist() == [[1, 0], [1, 0]]


def test_the_upper_axis_counts_in_per_cent_of_the_class() -> None:
  groups = {"random": [verdict(0, "random", 3, largest=19)]}
  figure = figures.cumulative_share(groups, {}, class_size=80)
  figure.draw_without_rendering()
  [axes] = figure.axes
  [top] = axes.child_axes
  assert axes.get_xlim() == (0, 20) and top.get_xlim() == pytest.approx((0, 25))


def test_curves_of_efficiency_are_the_lds_within_its_interval() -> None:
  points = [
    {
      "way": "published",
      "models": models,
      "lds": lds,
      "low": lds - 0.1,
      "high": lds + 0.2,
    }
    for models, lds in ((10, 0.25), (100, 0.5))
  ]
  [axes] = figures.efficiency(points).axes
  [line], [band] = axes.lines, axes.collections
  assert line.get_xydata().tolist() == [[10, 0.25], [100, 0.5]]
  for models, lds in line.get_xydata():
    corners = band.get_paths()[0].vertices
    ends = corners[corners[:, 0] == models, 1]
    assert (ends.min(), ends.max()) == pytest.approx((lds - 0.1, lds + 0.2))


def test_changes_have_their_own_intervals() -> None:
  images = np.zeros((2, 4, 4, 1), np.uint8)
  accuracies = np.array([[0.5, 0.25, 0.625], [1.0, 0.75, 1.0]])
  margins = np.array([[-1.0, -3.0, 2.0], [4.0, 3.0, 6.0]])
  figure = image_figures.explanation(
    images[0],
    images,
    title="",
    image_titles=["", ""],
    names=["first", "second"],
    accuracies=accuracies,
    margins=margins,
  )
  left, right = figure.axes[-2:]
  labels = [text.get_text() for text in left.get_yticklabels()]
  rows = dict(zip(labels, left.get_yticks(), strict=True))
  for axes, values in ((left, accuracies), (right, margins)):
    [drawn] = axes.containers
    points, _, (bars,) = drawn.lines
    for value, row, bar in zip(
      values, (rows["first"], rows["second"]), bars.get_segments(), strict=True
    ):
      assert [value[0], row] in points.get_xydata().tolist()
      np.testing.assert_allclose(bar, [[value[1], row], [value[2], row]])
