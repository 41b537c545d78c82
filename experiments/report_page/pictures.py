"""Figures of what an experiment found."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.report_page import words
from jaxdm import training_sets
from jaxdm.brittleness.summary import by_method
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data import names
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import metrics
from jaxdm.datamodels.model import Datamodels
from jaxdm.report import figures, image_figures, page

_STORIES = 4


def stories(
  data: Dataset,
  base_margins_rt: np.ndarray,
  verdicts: Sequence[Verdict],
  name: str = "target",
) -> tuple[dict[str, bytes], dict[str, str]]:
  """Pictures of the targets that fewest removals flip, or repair, and captions.

  Args:
    data: examples and targets.
    base_margins_rt: of the models on all data.
    verdicts: on removals.
    name: with which the names of the files begin.

  Returns:
    PNG files and captions, by file name.
  """
  pictures, captions = {}, {}
  for verdict in words.smallest_changes(verdicts)[:_STORIES]:
    examples = np.array(verdict.examples[: verdict.k])
    before = (base_margins_rt[:, verdict.target] > 0).mean()
    fig = image_figures.story(
      data.test_images[verdict.target],
      data.train_images[examples],
      title=(
        f"target {names.describe_target(data, verdict.target)}: P(correct) {before:.0%} "
        f"with all data, {verdict.accuracy:.0%} of {verdict.models} models without these "
        f"{verdict.k} images; mean margin {verdict.mean_margin:.2f} "
        f"[{verdict.margin_low:.2f}, {verdict.margin_high:.2f}]"
      ),
      removed_titles=[names.thumbnail_title(data, int(e)) for e in examples],
    )
    file = f"{name}_{verdict.target}.png"
    pictures[file] = page.png(fig)
    captions[file] = words.caption(data, verdict.target, examples)
  return pictures, captions


def calibration(
  base_margins_rt: np.ndarray, models: Datamodels, verdicts: Sequence[Verdict]
) -> Figure:
  """Predicted and true margins on all data, and after each search's largest removal."""
  full_t = models.predict(np.ones((1, models.weights_tn.shape[1]), bool))[0]
  predicted_v = [
    full_t[v.target] - models.weights_tn[v.target, list(v.examples)].sum()
    for v in verdicts
  ]
  removed = {}
  for method in by_method(verdicts):
    rows = [i for i, verdict in enumerate(verdicts) if verdict.method == method]
    pairs = [(predicted_v[i], verdicts[i].largest_margin) for i in rows]
    removed[method] = tuple(np.array(pairs).T)
  return figures.calibration((full_t, base_margins_rt.mean(axis=0)), removed)


def shares(
  data: Dataset,
  removals: Sequence[Verdict],
  label_flips: Sequence[Verdict],
  what: str = "flipped",
) -> Figure:
  """The shares of targets that removals and label flips of each size flip, or repair."""
  classes = np.unique(data.test_labels[[v.target for v in removals]])
  class_sizes = np.bincount(data.train_labels)[classes]
  return figures.cumulative_share(
    by_method(removals),
    by_method(label_flips),
    class_size=int(class_sizes.min()),
    of="a class" if np.ptp(class_sizes) == 0 else "the smallest class",
    what=what,
  )


def predictions(
  models: Datamodels, masks: training_sets.PackedMasks, margins_mt: np.ndarray
) -> Figure:
  """Predicted and true margins of the held-out models."""
  guess_mt = models.predict(masks)
  lds_t = metrics.evaluate(guess_mt, margins_mt, masks).lds_t
  return figures.predicted_against_true(guess_mt, margins_mt, lds_t)
