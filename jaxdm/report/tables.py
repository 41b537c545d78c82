"""Verdicts as CSV files, one row a target and method, and their summary."""

import csv
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdm import brittleness

_VERDICT: dict[str, Any] = brittleness.Verdict.__annotations__
_EXTRA = ("base_accuracy", "base_mean_margin", "share_of_class", "examples")


def write_verdicts(
  path: epath.Path,
  cases: Sequence[brittleness.Case],
  verdicts: Sequence[brittleness.Verdict],
  base_margins_rt: np.ndarray,
  class_sizes_t: np.ndarray,
) -> None:
  """Writes verdicts with what is needed to read and to replay them.

  Args:
    path: of the CSV file.
    cases: what was searched.
    verdicts: what was found, in the same order.
    base_margins_rt: float, margins of r models on all data.
    class_sizes_t: int, training examples in each target's class.
  """
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  with partial.open("w") as file:
    writer = csv.DictWriter(file, [*_VERDICT, *_EXTRA], lineterminator="\n")
    writer.writeheader()
    for case, verdict in zip(cases, verdicts, strict=True):
      base = base_margins_rt[:, verdict.target]
      changed = case.ranking[: verdict.k_tried]
      writer.writerow(
        verdict._asdict()
        | {
          "base_accuracy": float((base > 0).mean()),
          "base_mean_margin": float(base.mean()),
          "share_of_class": verdict.k_tried / int(class_sizes_t[verdict.target]),
          "examples": " ".join(map(str, changed)),
        }
      )
  partial.replace(path)


def read_verdicts(
  path: epath.Path,
) -> tuple[list[brittleness.Verdict], list[np.ndarray]]:
  """Verdicts and the training examples that each one changed."""
  parse: dict[Any, Any] = {bool: lambda text: text == "True"}
  verdicts, changed = [], []
  with path.open("r") as file:
    for row in csv.DictReader(file):
      fields = {name: parse.get(kind, kind)(row[name]) for name, kind in _VERDICT.items()}
      verdicts.append(brittleness.Verdict(**fields))
      changed.append(np.array(row["examples"].split(), int))
  return verdicts, changed


def by_method(
  verdicts: Sequence[brittleness.Verdict],
) -> dict[str, list[brittleness.Verdict]]:
  """Verdicts grouped by method, in order of appearance."""
  groups: dict[str, list[brittleness.Verdict]] = {}
  for verdict in verdicts:
    groups.setdefault(verdict.method, []).append(verdict)
  return groups


def summarise(verdicts: Sequence[brittleness.Verdict]) -> dict[str, Any]:
  """Per method: targets, share flipped, median k (null if censored), models used."""
  summary = {}
  for method, group in by_method(verdicts).items():
    found = [np.inf if v.censored else v.k for v in group]
    median = float(np.median(found))
    summary[method] = {
      "targets": len(group),
      "share_flipped": float(np.mean(np.isfinite(found))),
      "median_k": median if np.isfinite(median) else None,
      "largest_k_tried": max(v.k_tried for v in group),
      "models_used": sum(v.models_used for v in group),
    }
  return summary
