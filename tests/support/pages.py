"""An experiment of few numbers, planted, for tests of the page."""

import csv
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels.model import Datamodels
from support.tables import dataset

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">&amp;'"


class Planted(NamedTuple):
  """What the browser of targets is made of."""

  data: Dataset
  base_margins_rt: np.ndarray
  models: Datamodels
  searches: dict[str, list[Verdict]]


def verdict(target: int, method: str, k: int, **changes: Any) -> Verdict:
  """A verdict on a change of k of 6 examples; a negative k is censored."""
  found = Verdict(
    target=target,
    method=method,
    k=k,
    censored=k < 0,
    k_tried=6 if k < 0 else k,
    mean_margin=-0.5,
    margin_low=-1.0,
    margin_high=-0.15,
    accuracy=0.25,
    models=4,
    largest=6,
    largest_margin=-2.0,
    models_used=16,
    finished=True,
    examples=(5, 3, 1, 0, 2, 4),
  )
  return found._replace(**changes)


def planted(**changes: Any) -> Planted:
  """12 examples and 4 targets in two classes; the last target is wrong.

  Args:
    **changes: of the dataset.
  """
  rng = np.random.default_rng(0)
  labels, target_labels = np.arange(12) % 2, np.arange(4) % 2
  images = {
    "train_images": rng.integers(0, 256, (12, 4, 6, 1)).astype(np.uint8),
    "test_images": rng.integers(0, 256, (4, 4, 6, 1)).astype(np.uint8),
  }
  base = np.array([2.0, 1.0, 3.0, -1.0]) + rng.normal(size=(5, 4)) * 0.1
  models = Datamodels(rng.normal(size=(4, 12)).astype(np.float32), *np.ones((5, 4)))
  return Planted(
    dataset(labels, target_labels, **images | changes),
    base,
    models,
    {
      "removed": [
        verdict(0, "datamodel", 3),
        verdict(1, "datamodel", -1, k_tried=4, mean_margin=0.875, margin_high=2.5),
        verdict(2, "datamodel", 1, mean_margin=-1.375),
        verdict(0, "random", -1),
        verdict(1, "random", -1, margin_low=-np.inf, margin_high=np.inf, models=1),
        verdict(2, "random", -1, mean_margin=np.nan, finished=False),
        repair(3, 2),
      ],
      "relabelled": [
        *(verdict(target, "datamodel", 2) for target in range(3)),
        repair(3, -1, k_tried=4, margin_low=-2.5),
      ],
    },
  )


def repair(target: int, k: int, **changes: Any) -> Verdict:
  """A verdict on what makes a wrong target right."""
  found = {"mean_margin": 1.25, "margin_low": 0.25, "margin_high": 2.25, "accuracy": 0.75}
  return verdict(target, "datamodel", k, is_repair=True, **(found | changes))


NUMBERS = (
  "label_quality",
  "consistency",
  "probability",
  "memorisation",
  "support",
  "opposition",
)


def write_audit(path: epath.Path, names: tuple[str, str]) -> list[dict[str, str]]:
  """Writes a table as `experiments.audit` does, of 12 examples, and returns its rows.

  Of example 4 nothing but the label is known. Of examples 1 and 2 another label is
  suggested, of 1 with confidence; example 5 is memorised; 8 and 9 stand in for each
  other.

  Args:
    path: of the CSV file.
    names: of the two classes.
  """
  rng = np.random.default_rng(1)
  values = rng.uniform(0.51, 0.9, (12, len(NUMBERS))).round(6)
  values[:, 3], values[5, 3], values[1:3, 0] = 0.1, 0.6, (0.2, 0.3)
  rows = []
  for i, row in enumerate(values):
    label = names[i % 2]
    found: dict[str, Any] = {"index": i, "source": f"train/{i}.png", "label": label}
    found["suggested_label"] = names[1 - i % 2] if i in (1, 2) else label
    found |= {"models_in": 30 + i, "models_out": 50 - i}
    for name, value in zip(NUMBERS, row, strict=True):
      half = 0.25 if i != 2 else 0.4
      cells = ("nan", "0", "1") if i == 4 else (value, value - half, value + half)
      found |= dict(zip((name, f"{name}_low", f"{name}_high"), cells, strict=True))
    rows.append(found | {"stand_in": {8: 9, 9: 8}.get(i, "")})
  rows[7] |= {f"support{end}": "" for end in ("", "_low", "_high")}
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
  return [{name: str(value) for name, value in row.items()} for row in rows]
