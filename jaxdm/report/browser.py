"""What the page's lists of targets and examples show: values and thumbnails."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdm import intervals
from jaxdm.brittleness.targets import right_targets
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels.model import Datamodels
from jaxdm.report import example_browser, image_figures

_MOST_TARGETS = 300
_MOST_MARGINS = 64
_NEIGHBOURS = 10
_CHANGED = 20
_CURVE_POINTS = 40
_THUMBNAIL = 32  # Pixels of a larger image's longer side.
_LOSSLESS_PIXELS = 2**20


class Browser(NamedTuple):
  """The browser of targets, and that of training examples if they were audited.

  Attributes:
    data: JSON values; the scripts of the page read them.
    sprite: all thumbnails in one picture, a WebP file; empty without images.
  """

  data: dict[str, Any]
  sprite: bytes


def make_browser(
  data: Dataset,
  base_margins_rt: np.ndarray,
  models: Datamodels,
  searches: Mapping[str, Sequence[Verdict]],
  audit_rows: Sequence[Mapping[str, str]] = (),
) -> Browser:
  """Collects what is known of each target, and of each audited training example.

  All targets that were searched are shown first, at most 300 in all.

  Args:
    data: examples and targets.
    base_margins_rt: of the models on all data.
    models: the datamodels.
    searches: verdicts by what was done to the examples: 'removed', 'relabelled'.
    audit_rows: of audit.csv, one a training example; none: there is no audit.
  """
  targets = _shown(base_margins_rt.shape[1], searches)
  full_t = models.predict(np.ones((1, models.weights_tn.shape[1]), bool))[0]
  searches_of: dict[int, list[dict[str, Any]]] = {target: [] for target in targets}
  for change, verdicts in searches.items():
    for v in verdicts:
      if v.target in searches_of:
        predicted_full = float(full_t[v.target])
        weights_n = models.weights_tn[v.target] if change == "removed" else None
        searches_of[v.target].append(_search(change, v, predicted_full, weights_n))
  right_t = right_targets(base_margins_rt)
  shown = []
  for target in targets:
    margins_r = base_margins_rt[:, target]
    shown.append(
      {
        "target": target,
        "class": int(data.test_labels[target]),
        "source": data.test_sources[target],
        "right": bool(right_t[target]),
        "accuracy": _number((margins_r > 0).mean()),
        "mean": [_number(x) for x in intervals.student(margins_r, 0.975)],
        "margins": [_number(x) for x in margins_r[:_MOST_MARGINS]],
        **_neighbours(models.weights_tn[target]),
        "searches": searches_of[target],
      }
    )
  audit = None
  if audit_rows:
    audit = example_browser.describe_examples(audit_rows, models.weights_tn, targets)
  audited = audit["shown"] if audit else []
  examples = sorted(
    {e for one in shown for e in _examples(one)}
    | {e for one in audited for e in (one["example"], one["stand_in"]) if e is not None}
  )
  images = [data.test_images[t] for t in targets] + [
    data.train_images[e] for e in examples
  ]
  sprite, cells = make_sprite(images) if data.has_images else (b"", None)
  return Browser(
    {
      "classes": list(data.class_names),
      "num_targets": base_margins_rt.shape[1],
      "targets": shown,
      "audit": audit,
      "examples": {
        str(e): [int(data.train_labels[e]), data.train_sources[e], len(targets) + place]
        for place, e in enumerate(examples)
      },
      "cells": cells,
    },
    sprite,
  )


def make_sprite(images: Iterable[np.ndarray]) -> tuple[bytes, dict[str, int]]:
  """One picture of many small ones, row by row, and its columns, rows and cell size.

  Args:
    images: uint8[h, w, c], all of one size; large ones are reduced.
  """
  small = [_thumbnail(image) for image in images]
  width, height = small[0].size
  columns = math.ceil(math.sqrt(len(small)))
  rows = math.ceil(len(small) / columns)
  sheet = Image.new("RGB", (columns * width, rows * height))
  for place, image in enumerate(small):
    sheet.paste(image, (place % columns * width, place // columns * height))
  buffer = io.BytesIO()
  lossless = sheet.width * sheet.height <= _LOSSLESS_PIXELS
  sheet.save(buffer, "WEBP", lossless=lossless, quality=80)
  cells = {"columns": columns, "rows": rows, "width": width, "height": height}
  return buffer.getvalue(), cells


def _thumbnail(image: np.ndarray) -> Image.Image:
  """An image of at most so many pixels a side."""
  small = Image.fromarray(image_figures.as_rgb(image))
  small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
  return small


def _shown(count: int, searches: Mapping[str, Sequence[Verdict]]) -> list[int]:
  """The targets that are shown, ascending; those that were searched go first."""
  searched = {v.target for verdicts in searches.values() for v in verdicts}
  others = [target for target in range(count) if target not in searched]
  return sorted([*sorted(searched), *others][:_MOST_TARGETS])


def _search(
  change: str, v: Verdict, predicted_full: float, weights_n: np.ndarray | None
) -> dict[str, Any]:
  """One verdict; for removals also what the datamodel predicts on the way."""
  fields: dict[str, Any] = {
    "change": change,
    "repair": v.is_repair,
    "method": v.method,
    "k": None if v.censored else v.k,
    "tried": v.k_tried,
    "mean": [_number(x) for x in (v.mean_margin, v.margin_low, v.margin_high)],
    "accuracy": _number(v.accuracy),
    "models": v.models,
    "largest": v.largest,
    "largest_margin": _number(v.largest_margin),
    "trained": v.models_used,
    "finished": v.finished,
    "examples": list(v.examples[: min(max(v.k_tried, 1), _CHANGED)]),
  }
  if weights_n is not None:
    margins = predicted_full - np.concatenate([[0], weights_n[list(v.examples)].cumsum()])
    sizes = np.linspace(0, len(v.examples), _CURVE_POINTS).round().astype(int)
    fields["predicted"] = [[int(k), _number(margins[k])] for k in np.unique(sizes)]
  return fields


def _neighbours(weights_n: np.ndarray) -> dict[str, Any]:
  """The examples with the largest and the smallest weights, and these."""
  order = np.argsort(-weights_n, kind="stable")
  sides = {
    "supporters": [e for e in order[:_NEIGHBOURS] if weights_n[e] > 0],
    "opposers": [e for e in order[::-1][:_NEIGHBOURS] if weights_n[e] < 0],
  }
  return {
    side: [[int(e), _number(weights_n[e])] for e in examples]
    for side, examples in sides.items()
  }


def _examples(one: Mapping[str, Any]) -> Iterable[int]:
  """The training examples that are shown of a target."""
  for side in ("supporters", "opposers"):
    yield from (example for example, _ in one[side])
  for search in one["searches"]:
    yield from search["examples"]


def _number(value: Any) -> float | None:
  """A number as JSON holds it: short, and None where it is not finite."""
  return round(float(value), 4) if np.isfinite(value) else None
