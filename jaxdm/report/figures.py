"""Figures of numbers: targets flipped by few changes, LDS, predicted and true margins."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from jaxdm.attribution import registry
from jaxdm.brittleness import verdicts as verdicts_lib
from jaxdm.brittleness.summary import by_method, share_flipped
from jaxdm.report import colours

# A curve shows about so many intervals.
_INTERVALS = 5
# Of a name below a level line, as a share of the range of the axis.
_NAME_HEIGHT = 0.05


def _times(factor: float) -> Callable[[Any], Any]:
  """Multiplication, as a matplotlib axis transform."""
  return lambda values: np.asarray(values) * factor


def plot_share_flipped(
  verdicts: Iterable[verdicts_lib.Verdict], *, what: str = "removed"
) -> mpl_figure.Figure:
  """Share of targets flipped against the number of examples changed.

  >>> import jaxdm
  >>> verdict = jaxdm.Verdict(
  ...   target=0, method="mine", k=3, censored=False, k_tried=3, mean_margin=-1.0,
  ...   margin_low=-2.0, margin_high=-0.1, accuracy=0.2, models=8, largest=5,
  ...   largest_margin=-2.0, models_used=20, finished=True)
  >>> figure = jaxdm.plot_share_flipped([verdict])
  >>> figure.savefig("flipped.png")  # doctest: +SKIP

  Args:
    verdicts: of all methods, as `find_removals`, `find_label_flips` or `find_repairs`
      return them.
    what: what was done to the examples, for the axis.

  Returns:
    A matplotlib figure: one step curve a method, with 95 % intervals over targets at some
    of the sizes.

  Raises:
    ValueError: if there are no verdicts.
  """
  verdicts = list(verdicts)
  if not verdicts:
    raise ValueError("verdicts must not be empty")
  fig = mpl_figure.Figure(figsize=(6, 4.4), layout="constrained")
  axes = fig.subplots()
  largest = max(v.largest for v in verdicts)
  curves = [
    _Curve(group, method, registry.colour(method), "-")
    for method, group in by_method(verdicts).items()
  ]
  _draw_shares(axes, curves, largest)
  axes.set(
    xlabel=f"training examples {what}, at most",
    ylabel="share of targets flipped (verified)",
    xlim=(0, largest + 1),
    ylim=(0, 1),
  )
  axes.legend(frameon=False, fontsize="small")
  return fig


class _Curve(NamedTuple):
  """One method's verdicts, and how they are drawn."""

  verdicts: Sequence[verdicts_lib.Verdict]
  label: str
  colour: str | None
  style: str


def _draw_shares(axes: Any, curves: Sequence[_Curve], largest: int) -> None:
  """Step curves, with intervals at sizes that differ by curve so that none hides one."""
  sizes = np.arange(largest + 2)  # One more, so that the last step can be seen.
  stride = max(len(curves), (largest + 1) // _INTERVALS)
  for place, (verdicts, label, colour, style) in enumerate(curves):
    share, low, high = share_flipped(verdicts, sizes)
    (line,) = axes.step(
      sizes, share, where="post", linestyle=style, color=colour, label=label
    )
    at = sizes[1 + place * stride // len(curves) : -1 : stride]
    axes.vlines(at + 0.5, low[at], high[at], color=line.get_color(), alpha=0.7)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axes.grid(alpha=0.3)


def cumulative_share(
  groups: Mapping[str, Sequence[verdicts_lib.Verdict]],
  flips: Mapping[str, Sequence[verdicts_lib.Verdict]],
  *,
  class_size: int,
  of: str = "a class",
  what: str = "flipped",
) -> mpl_figure.Figure:
  """Share of targets flipped, or repaired, against the number of examples changed.

  Args:
    groups: verdicts on removals by method, drawn solid.
    flips: verdicts on label flips by method, drawn dashed beside the first method's
      removals.
    class_size: training examples in a class, for the upper axes.
    of: which class that is.
    what: what the changes do to the targets.

  Returns:
    A figure with removals on the left and label flips, if there are any, on the right;
    one step curve a method, over the sizes that were searched, with 95 % intervals over
    targets at some of them. Curves end at half of a class, beyond which every way of
    choosing flips targets.
  """
  changes = ("removed", "changed") if flips else ("removed",)
  fig = mpl_figure.Figure(figsize=(5.5 * len(changes), 4.9), layout="constrained")
  panels = fig.subplots(1, len(changes), sharey=True, squeeze=False)[0]
  largest = max(v.largest for g in [*groups.values(), *flips.values()] for v in g)
  largest = min(largest, class_size // 2)

  def curves(
    groups: Mapping[str, Sequence[verdicts_lib.Verdict]], kind: str, style: str
  ) -> list[_Curve]:
    return [
      _Curve(verdicts, f"{method}, {kind}", registry.colour(method), style)
      for method, verdicts in groups.items()
    ]

  removals = curves(groups, "removed", "-")
  shown = [removals, [*removals[:1], *curves(flips, "relabelled", "--")]]
  for axes, change, drawn in zip(panels, changes, shown[: len(changes)], strict=True):
    _draw_shares(axes, drawn, largest)
    axes.set(
      xlabel=f"training examples {change}, at most", xlim=(0, largest + 1), ylim=(0, 1)
    )
    top = axes.secondary_xaxis(
      "top", functions=(_times(100 / class_size), _times(class_size / 100))
    )
    top.set_xlabel(f"per cent of {of}")
    # Below the axes, where no curve is.
    axes.legend(
      frameon=False,
      fontsize="small",
      ncols=3,
      loc="upper center",
      bbox_to_anchor=(0.5, -0.14),
    )
  panels[0].set_ylabel(f"share of targets {what} (verified)")
  return fig


def efficiency(points: Sequence[Mapping[str, Any]]) -> mpl_figure.Figure:
  """LDS against the number of models on subsets, one curve a way of fitting.

  Args:
    points: way, models, lds, low and high of each; 0 models: a level line.
  """
  fig = mpl_figure.Figure(figsize=(7, 4.4), layout="constrained")
  axes = fig.subplots()
  curves: dict[str, list[Mapping[str, Any]]] = {}
  for point in points:
    curves.setdefault(point["way"] if point["models"] else "", []).append(point)
  ends = [point[name] for point in points for name in ("low", "high")]
  height = _NAME_HEIGHT * (max(ends, default=0) - min(ends, default=0))
  for group in _near(curves.pop("", []), height):
    for level in group:
      axes.axhline(level["lds"], color=colours.LEVEL_LINE, linestyle=":", linewidth=1)
    axes.annotate(
      ", ".join(level["way"] for level in group) + ": no models on subsets",
      (0.01, group[-1]["lds"]),
      xycoords=("axes fraction", "data"),
      fontsize="x-small",
      va="top",
    )
  colour_map = matplotlib.colormaps[colours.CURVE_MAP]
  axes.set_prop_cycle(color=colour_map.colors)  # type: ignore[attr-defined]
  for way, curve in curves.items():
    models, lds, low, high = (
      np.array([point[name] for point in curve])
      for name in ("models", "lds", "low", "high")
    )
    (line,) = axes.plot(models, lds, marker="o", markersize=3, label=way)
    axes.fill_between(models, low, high, alpha=0.12, color=line.get_color())
  axes.set(xscale="log", xlabel="models on random subsets", ylabel="LDS, held-out models")
  axes.margins(y=0.1)
  axes.grid(alpha=0.3)
  axes.legend(frameon=False, fontsize="small")
  return fig


def _near(
  levels: Sequence[Mapping[str, Any]], height: float
) -> list[list[Mapping[str, Any]]]:
  """Levels by descending LDS, in groups whose names of this height would overlap."""
  groups: list[list[Mapping[str, Any]]] = []
  for level in sorted(levels, key=lambda level: -level["lds"]):
    if groups and groups[-1][0]["lds"] - level["lds"] < height:
      groups[-1].append(level)
    else:
      groups.append([level])
  return groups


def predicted_against_true(
  predicted_mt: np.ndarray, margins_mt: np.ndarray, lds_t: np.ndarray
) -> mpl_figure.Figure:
  """Held-out margins against predictions for one typical target, and all LDS.

  Args:
    predicted_mt: float, datamodel predictions for held-out models.
    margins_mt: float, their margins.
    lds_t: float, each target's score; NaN for targets without one.
  """
  fig = mpl_figure.Figure(figsize=(7, 3.2), layout="constrained")
  left, right = fig.subplots(1, 2)
  scored_t = lds_t[np.isfinite(lds_t)]
  typical = int(np.argsort(lds_t)[len(scored_t) // 2])  # NaN is last.
  left.scatter(
    predicted_mt[:, typical], margins_mt[:, typical], s=6, color=colours.MARGIN_POINTS
  )
  left.set(
    xlabel="predicted margin",
    ylabel="margin of a held-out model",
    title=f"target {typical}, LDS {lds_t[typical]:.2f} (the median)",
  )
  right.hist(scored_t, bins=20, color=colours.LDS_HISTOGRAM)
  right.axvline(scored_t.mean(), color=colours.GUIDE_LINE, linewidth=1)
  right.set(
    xlabel="LDS of a target", ylabel="targets", title=f"mean {scored_t.mean():.2f} (line)"
  )
  right.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.title.set_fontsize("medium")
  return fig


def calibration(
  full: tuple[np.ndarray, np.ndarray],
  removed: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> mpl_figure.Figure:
  """Margins as datamodels predict them, against those of models trained so.

  Args:
    full: predicted and mean true margin of each target on all data, float[t] each.
    removed: by method, the same after its largest removals.
  """
  fig = mpl_figure.Figure(figsize=(8, 4), layout="constrained")
  left, right = fig.subplots(1, 2)
  left.scatter(*full, s=6, color=colours.FULL_DATA_POINTS)
  bias = float(np.mean(full[0] - full[1]))
  left.set_title(f"all data: bias {bias:+.2f} logits", fontsize="medium")
  for method, pair in removed.items():
    right.scatter(*pair, s=8, color=registry.colour(method), label=method)
  right.set_title("after the largest removals", fontsize="medium")
  right.legend(frameon=False, fontsize="x-small")
  for axes in (left, right):
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=colours.GUIDE_LINE, linewidth=1)
    axes.set(xlabel="predicted margin", ylabel="margin of retrained models")
    axes.grid(alpha=0.3)
  return fig
