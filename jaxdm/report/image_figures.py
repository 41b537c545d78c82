"""Figures of training images and targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from jaxdm.report import colours

_COLUMNS = 10


def explanation(
  target_image: np.ndarray,
  images: np.ndarray,
  *,
  title: str,
  image_titles: Sequence[str],
  names: Sequence[str],
  accuracies: np.ndarray,
  margins: np.ndarray,
  columns: int = _COLUMNS,
) -> mpl_figure.Figure:
  """A target, the training images it depends on, and what changing them does.

  Args:
    target_image: uint8[h, w, c].
    images: uint8[r, h, w, c], row by row.
    title: over the whole picture.
    image_titles: some short lines an image.
    names: of the changes.
    accuracies: float[changes, 3], P(correct) with its lower and upper end.
    margins: the same of the mean margin, in logits.
    columns: images in a row.
  """
  fig = mpl_figure.Figure(figsize=(11, 7), layout="constrained")
  above, below = fig.subfigures(2, 1, height_ratios=(1, 1.2), squeeze=False)[:, 0]
  _draw_rows(above, images, image_titles, target_image, columns)
  places = np.arange(len(names))[::-1]
  left, right = below.subplots(1, 2, sharey=True)
  for axes, values, label in (
    (left, accuracies, "P(correct)"),
    (right, margins, "mean margin"),
  ):
    ends = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(
      values[:, 0], places, xerr=ends, fmt="o", color=colours.MARGIN_POINTS, capsize=2
    )
    axes.set_xlabel(f"{label}, 95 % interval")
    axes.grid(alpha=0.3)
  left.set(xlim=(0, 1), yticks=places, yticklabels=names)
  right.axvline(0, color=colours.GUIDE_LINE, linewidth=1)
  fig.suptitle(title, fontsize="medium", x=0.01, ha="left", parse_math=False)
  return fig


def story(
  target_image: np.ndarray,
  removed_images: np.ndarray,
  *,
  title: str,
  removed_titles: Sequence[str],
) -> mpl_figure.Figure:
  """A target beside the training images whose removal flips it.

  Args:
    target_image: uint8[h, w, c].
    removed_images: uint8[r, h, w, c], strongest support first.
    title: over the whole picture.
    removed_titles: one short line each.
  """
  size = 11, 1.4 * _count_rows(removed_images) + 0.6
  fig = mpl_figure.Figure(figsize=size, layout="constrained")
  _draw_rows(fig, removed_images, removed_titles, target_image)
  fig.suptitle(title, fontsize="medium", x=0.01, ha="left", parse_math=False)
  return fig


def gallery(
  images: np.ndarray, titles: Sequence[str], *, title: str
) -> mpl_figure.Figure:
  """Training images in rows of ten.

  Args:
    images: uint8[r, h, w, c], or float32[r, d].
    titles: a short text each.
    title: over the whole picture.
  """
  size = 11, 1.5 * _count_rows(images) + 0.6
  fig = mpl_figure.Figure(figsize=size, layout="constrained")
  _draw_rows(fig, images, titles)
  fig.suptitle(title, fontsize="medium", x=0.01, ha="left", parse_math=False)
  return fig


def _draw_rows(
  part: Any,
  images: np.ndarray,
  titles: Sequence[str],
  target_image: np.ndarray | None = None,
  columns: int = _COLUMNS,
) -> None:
  """Images row by row, in a figure or a part of one, and a target on their left."""
  first = 0 if target_image is None else 2
  grid = part.add_gridspec(_count_rows(images, columns), first + columns)
  if target_image is not None:
    _draw(part.add_subplot(grid[:, :first]), target_image, "target")
  for place, (image, title) in enumerate(zip(images, titles, strict=True)):
    cell = grid[place // columns, first + place % columns]
    _draw(part.add_subplot(cell), image, title)


def _count_rows(images: np.ndarray, columns: int = _COLUMNS) -> int:
  """Rows of so many columns that hold the images, at least one."""
  return max(1, -(-len(images) // columns))


def as_rgb(image: np.ndarray) -> np.ndarray:
  """An image in three channels; of many channels the first three.

  Args:
    image: uint8[h, w, c]. One channel is grey, and of two the third is 0.
  """
  shown = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
  return np.pad(shown, [(0, 0), (0, 0), (0, 3 - shown.shape[-1])])


def _draw(axes: Any, image: np.ndarray, title: str) -> None:
  """One image without axes; a feature vector is a strip of its numbers."""
  axes.set_title(title, fontsize="x-small", parse_math=False)
  axes.set_axis_off()
  if image.ndim == 1:
    axes.imshow(image[None], aspect="auto", cmap="viridis", interpolation="nearest")
    return
  axes.imshow(as_rgb(image))
