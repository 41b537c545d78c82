"""How well predicted margins match those of models that were not fitted to."""

import concurrent.futures
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxdm import cgroups, margins, matrices, training_sets
from jaxdm.datamodels import jackknife, spearman
from jaxdm.datamodels.jackknife import Interval
from jaxdm.datamodels.quality import Quality
from jaxdm.errors import UserError

_TILE_NUMBERS = 2**19
_ROUNDING = 1e-12


def evaluate(predicted_mt: Any, margins_mt: Any, masks_mn: Any) -> Quality:
  """Compares predictions with margins.

  A target is left out if its margins are not finite in at least half of the models that
  have any finite margin. Of the models, those are left out that have a margin that is
  not finite for any other target. Then targets are left out whose margins are the same
  in all models that are left. A warning says how many.

  Intervals are jackknife intervals over subsets: Student's t on Fisher's scale, centred
  where the estimate's bias is taken away, and corrected for the skewness and the tails of
  the pseudo-values. The models of one subset are left out of the jackknife together. For
  Spearman correlations influence functions and the known bias (`spearman`) stand in
  for the recomputed ranks. With fewer than 5 subsets intervals hold all possible values.
  `experiments.bench.coverage` prints how often they cover a known truth.

  Args:
    predicted_mt: float[m, t], finite.
    margins_mt: float[m, t], of models that the predictions do not stem from.
    masks_mn: bool[m, n], their training sets, as an array or `training_sets.PackedMasks`.

  Returns:
    Quality.

  Raises:
    UserError: if there are not two models on different subsets, or every target is left
      out.
    ValueError: on shapes that do not match, or predictions that are not finite.
  """
  predicted_mt, margins_mt = _numbers(predicted_mt), _numbers(margins_mt)
  masks_mn = masks_mn if hasattr(masks_mn, "shape") else np.asarray(masks_mn)
  _check_shapes(predicted_mt, margins_mt, masks_mn)
  models, targets = margins.usable(margins_mt)
  if not len(models):
    raise UserError(
      "margins",
      f"of all {len(margins_mt)} held-out models are not finite: there is "
      "nothing to evaluate",
    )
  subset_m = subset_ids(masks_mn)[models]
  order = np.argsort(subset_m, kind="stable")
  starts_s = np.flatnonzero(np.diff(subset_m[order], prepend=-1))
  if len(starts_s) < 2:
    raise UserError(
      None,
      "held-out models must have at least 2 different training sets, got "
      f"{len(models)} models with finite margins on {len(starts_s)}",
    )
  targets = targets[_varies(margins_mt, models)[targets]]
  if not len(targets):
    raise UserError(
      "margins",
      f"of all {margins_mt.shape[1]} targets are the same in all models, or not "
      "finite in most of them: there is nothing to evaluate",
    )
  parts = _parts(predicted_mt, margins_mt, models[order], targets, starts_s)
  lds_t = np.full(margins_mt.shape[1], np.nan)
  lds_t[targets] = np.concatenate([part.lds_t for part in parts])
  quality = Quality(
    *_intervals(parts, starts_s, len(models)),
    lds_t,
    num_models=len(models),
    num_subsets=len(starts_s),
    num_left_out=len(margins_mt) - len(models),
    num_targets_left_out=margins_mt.shape[1] - len(targets),
  )
  if quality.left_out:
    warnings.warn(quality.left_out, stacklevel=2)
  return quality


def subset_ids(masks_mn: matrices.Matrix) -> np.ndarray:
  """Numbers the distinct rows in order of appearance, as int[m]."""
  id_of: dict[bytes, int] = {}
  digests = (
    hashlib.blake2b(row.tobytes(), digest_size=16).digest()
    for row in _pack_rows(masks_mn)
  )
  return np.array([id_of.setdefault(digest, len(id_of)) for digest in digests], int)


def _pack_rows(masks_mn: matrices.Matrix) -> Iterator[np.ndarray]:
  """Each row of some masks, eight examples to a byte."""
  if isinstance(masks_mn, training_sets.PackedMasks):
    yield from np.ascontiguousarray(masks_mn.bits)
    return
  for rows, block in matrices.blocks(masks_mn, np.arange(masks_mn.shape[0])):
    yield from np.packbits(training_sets.rows_of_masks(block, rows.start), axis=1)


def _numbers(values_mt: Any) -> np.ndarray:
  """An array of float32 or float64 that holds the values exactly."""
  values_mt = np.asarray(values_mt)
  if values_mt.dtype.kind not in "biuf":
    raise ValueError(
      f"predictions and margins must be real numbers, got dtype {values_mt.dtype}"
    )
  small = values_mt.dtype.kind in "biu" and values_mt.dtype.itemsize <= 2
  small |= values_mt.dtype.kind == "f" and values_mt.dtype.itemsize <= 4
  return values_mt.astype(np.float32 if small else np.float64, copy=False)


def _check_shapes(
  predicted_mt: np.ndarray, margins_mt: np.ndarray, masks_mn: matrices.Matrix
) -> None:
  """Raises ValueError on arrays that do not belong together."""
  shapes = {"predictions": predicted_mt.shape, "margins": margins_mt.shape}
  for name, shape in shapes.items():
    if len(shape) != 2 or not all(shape):
      raise ValueError(f"{name} must be [m, t] and not empty, got shape {shape}")
  if predicted_mt.shape != margins_mt.shape:
    raise ValueError(
      f"predictions and margins must have the same shape [m, t], got {shapes}"
    )
  if len(masks_mn.shape) != 2 or masks_mn.shape[0] != len(margins_mt):
    raise ValueError(
      f"masks must be [m, n] with m = {len(margins_mt)} as in margins, got shape "
      f"{tuple(masks_mn.shape)}"
    )


def _varies(margins_mt: np.ndarray, models: np.ndarray) -> np.ndarray:
  """Whether margins differ between some of the models, as bool[t]."""
  margins_mt = margins_mt if len(models) == len(margins_mt) else margins_mt[models]
  return np.asarray(margins_mt.max(axis=0) > margins_mt.min(axis=0))


class _Part(NamedTuple):
  """What some targets add to the scores. Models of one subset are neighbours.

  Attributes:
    lds_t: Spearman correlation of predictions and margins.
    lds_influence_m: of models on lds_t, summed over these targets.
    repeat_t: Spearman correlation of the margins of two models on one subset.
    repeat_influence_p: of such models on repeat_t, summed over these targets.
    r2: summed over these targets.
    r2_without_s: the same without one subset.
    moments_5s: sums of predictions, margins, their product and their squares over these
      targets and each subset's models.
  """

  lds_t: np.ndarray
  lds_influence_m: np.ndarray
  repeat_t: np.ndarray
  repeat_influence_p: np.ndarray
  r2: float
  r2_without_s: np.ndarray
  moments_5s: np.ndarray


def _parts(
  predicted_mt: np.ndarray,
  margins_mt: np.ndarray,
  models: np.ndarray,
  targets: np.ndarray,
  starts_s: np.ndarray,
) -> list[_Part]:
  """Scores tiles of targets, on all cores.

  Args:
    predicted_mt: float.
    margins_mt: float.
    models: rows to use, with those of one subset as neighbours.
    targets: columns to use.
    starts_s: where each subset begins in `models`.
  """
  size = max(1, _TILE_NUMBERS // len(models))
  tiles = [targets[i : i + size] for i in range(0, len(targets), size)]
  firsts = [x[models, targets[0]].astype(np.float64) for x in (predicted_mt, margins_mt)]
  centres = [float(values.mean()) for values in firsts]

  def score(tile: np.ndarray) -> _Part:
    rows = models[:, None]
    guess_tm, truth_tm = (
      np.ascontiguousarray(x[rows, tile].T) for x in (predicted_mt, margins_mt)
    )
    wrong = tile[~np.isfinite(guess_tm).all(axis=1)]
    if len(wrong):
      raise ValueError(f"predictions must be finite, and are not of target {wrong[0]}")
    return _part(guess_tm, truth_tm, starts_s, centres)

  with concurrent.futures.ThreadPoolExecutor(cgroups.cpu_count()) as pool:
    return list(pool.map(score, tiles))


def _part(
  guess_tm: np.ndarray, truth_tm: np.ndarray, starts_s: np.ndarray, centres: list[float]
) -> _Part:
  """Scores some targets."""
  m = guess_tm.shape[1]
  first_s = starts_s[np.diff(starts_s, append=m) > 1]
  pairs = (first_s[:, None] + np.arange(2)).ravel()
  lds_t, repeat_t = np.zeros((2, len(truth_tm)))
  lds_influence_m, repeat_influence_p = np.zeros(m), np.zeros(len(pairs))
  for i, (guess_m, truth_m) in enumerate(zip(guess_tm, truth_tm, strict=True)):
    ranks = spearman.rank(truth_m)
    lds_t[i], influence_m = spearman.correlate(spearman.rank(guess_m), ranks)
    lds_influence_m += influence_m
    if len(pairs) < m:
      ranks = spearman.rank(truth_m[pairs])
    repeat_t[i], influence_p = spearman.correlate(ranks, spearman.swap_neighbours(ranks))
    repeat_influence_p += influence_p
  guess_tm, truth_tm = (x.astype(np.float64) for x in (guess_tm, truth_tm))
  r2, r2_without_s = _r2(guess_tm, truth_tm, starts_s)
  a_tm, b_tm = guess_tm - centres[0], truth_tm - centres[1]
  moments = (a_tm, b_tm, a_tm * b_tm, a_tm * a_tm, b_tm * b_tm)
  moments_5s = [np.add.reduceat(x.sum(axis=0), starts_s) for x in moments]
  return _Part(
    lds_t,
    lds_influence_m,
    repeat_t,
    repeat_influence_p,
    r2,
    r2_without_s,
    np.stack(moments_5s),
  )


def _r2(
  guess_tm: np.ndarray, truth_tm: np.ndarray, starts_s: np.ndarray
) -> tuple[float, np.ndarray]:
  """1 - squared error / variance, summed over targets; and the same without a subset."""
  m = truth_tm.shape[1]
  count_s = np.diff(starts_s, append=m)
  centred_tm = truth_tm - truth_tm.mean(axis=1, keepdims=True)
  error_ts, sum_ts, square_ts = (
    np.add.reduceat(x, starts_s, axis=1)
    for x in ((truth_tm - guess_tm) ** 2, centred_tm, centred_tm**2)
  )
  error_t1, square_t1 = (x.sum(axis=1, keepdims=True) for x in (error_ts, square_ts))
  r2_t1 = 1 - error_t1 / square_t1
  left_ts = square_t1 - square_ts - sum_ts**2 / (m - count_s)
  # A target that varies in one subset alone has no R2 without it.
  varies_ts = left_ts > _ROUNDING * square_t1
  without_ts = 1 - (error_t1 - error_ts) / np.where(varies_ts, left_ts, 1)
  return float(r2_t1.sum()), np.where(varies_ts, without_ts, r2_t1).sum(axis=0)


def _intervals(
  parts: list[_Part], starts_s: np.ndarray, m: int
) -> tuple[Interval, Interval, Interval, Interval | None]:
  """LDS, pooled correlation, R2 and ceiling."""
  count_s = np.diff(starts_s, append=m)
  lds_t = np.concatenate([part.lds_t for part in parts])
  repeat_t = np.concatenate([part.repeat_t for part in parts])
  t, subsets = len(lds_t), len(starts_s)
  influence_m = np.sum([p.lds_influence_m for p in parts], axis=0)
  lds_s = np.add.reduceat(influence_m, starts_s) / t
  lds_bias = spearman.sampling_bias(lds_t, subsets).mean()
  lds_s = lds_t.mean() - lds_bias + lds_s * _jackknife_factor(subsets) * subsets / m
  pairs = int((count_s > 1).sum())
  repeat_p = np.sum([p.repeat_influence_p for p in parts], axis=0) / t
  repeat_bias = spearman.neighbours_bias(repeat_t, max(pairs, 1)).mean()
  repeat_p *= _jackknife_factor(pairs)
  repeat_s = repeat_t.mean() - repeat_bias + repeat_p.reshape(pairs, 2).mean(axis=1)
  moments_5s = np.sum([p.moments_5s for p in parts], axis=0)
  total_51 = moments_5s.sum(axis=1, keepdims=True)
  pooled = _pearson(total_51, np.array([m * t]))
  pooled_s = _pearson(total_51 - moments_5s, (m - count_s) * t)
  r2 = sum(p.r2 for p in parts) / t
  r2_s = np.sum([p.r2_without_s for p in parts], axis=0) / t
  repeat = jackknife.of_correlation(float(repeat_t.mean()), repeat_s)
  ceiling = Interval(*np.sqrt(np.maximum(repeat, 0)).tolist())
  return (
    jackknife.of_correlation(float(lds_t.mean()), lds_s),
    jackknife.of_correlation(
      float(pooled[0]), jackknife.pseudo_values(pooled[0], pooled_s)
    ),
    jackknife.of_r2(r2, jackknife.pseudo_values(r2, r2_s)),
    ceiling if pairs > 1 else None,
  )


def _jackknife_factor(count: int) -> float:
  """What leaving one of so many out changes, as a multiple of its influence."""
  return count / max(count - 1, 1)


def _pearson(moments_5s: np.ndarray, count_s: np.ndarray) -> np.ndarray:
  """Pearson's correlation from the sums of a, b, ab, aa and bb; 0 if one is constant."""
  a, b, ab, aa, bb = moments_5s / count_s
  norm = np.sqrt(np.maximum((aa - a * a) * (bb - b * b), 0))
  return np.divide(ab - a * b, norm, out=np.zeros_like(norm), where=norm > 0)
