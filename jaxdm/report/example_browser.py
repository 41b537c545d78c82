"""What the page's browser of training examples shows, from the table of an audit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdm.audits.audit import MEMORISED
from jaxdm.report import csv_columns

_MOST_EXAMPLES = 1000
_TARGETS = 8
_NUMBERS = (
  "label_quality",
  "consistency",
  "probability",
  "memorisation",
  "support",
  "opposition",
)
# What readers look for: 1, the lowest numbers, or -1, the highest.
_SOUGHT = {"label_quality": 1, "memorisation": -1, "support": -1, "opposition": -1}

Row = Mapping[str, str]


def describe_examples(
  rows: Sequence[Row], weights_tn: np.ndarray, targets: Sequence[int]
) -> dict[str, Any]:
  """JSON values on the training examples; `examples.js` reads them.

  Of more than 1,000 examples those are shown that are extreme in something.

  Args:
    rows: of audit.csv, one an example, in order.
    weights_tn: of the datamodels.
    targets: that the page shows.
  """
  return {
    "total": len(rows),
    "memorised": MEMORISED,
    "numbers": [[name, csv_columns.COLUMNS["audit"][name]] for name in _NUMBERS],
    "shown": [
      _describe(rows[example], example, weights_tn[targets, example], targets)
      for example in most_extreme(rows)
    ],
  }


def most_extreme(rows: Sequence[Row]) -> list[int]:
  """At most 1,000 examples, ascending: the first by any of what readers look for."""
  ranks = []
  for name, sign in _SOUGHT.items():
    values = np.array([_number(row[name]) for row in rows], float)
    order = np.argsort(sign * values, kind="stable")  # What is unknown comes last.
    ranks.append(np.argsort(order))
  best = np.argsort(np.min(ranks, axis=0), kind="stable")
  return sorted(best[:_MOST_EXAMPLES].tolist())


def _describe(
  row: Row, example: int, weights_u: np.ndarray, targets: Sequence[int]
) -> dict[str, Any]:
  """One example: labels, numbers with their intervals, and targets."""
  order = np.argsort(-weights_u, kind="stable")
  sides = {
    "supports": [u for u in order[:_TARGETS] if weights_u[u] > 0],
    "opposes": [u for u in order[::-1][:_TARGETS] if weights_u[u] < 0],
  }
  numbers = {
    name: [_number(row[f"{name}{end}"]) for end in ("", "_low", "_high")]
    for name in _NUMBERS
  }
  return {
    "example": example,
    "label": row["label"],
    "suggested": row["suggested_label"],
    "models_in": int(row["models_in"]),
    "models_out": int(row["models_out"]),
    "numbers": {
      name: ends if ends[0] is not None else None for name, ends in numbers.items()
    },
    "stand_in": int(row["stand_in"]) if row["stand_in"] else None,
    **{
      side: [[int(targets[u]), round(float(weights_u[u]), 4)] for u in places]
      for side, places in sides.items()
    },
  }


def _number(text: str) -> float | None:
  """A number of the table; None where it is unknown."""
  value = float(text or "nan")
  return value if np.isfinite(value) else None
