"""Pictures of an audit: the examples that it speaks of most."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdm.audits.audit import Audit
from jaxdm.audits.stand_ins import Pair
from jaxdm.data.dataset import Dataset
from jaxdm.report import image_figures, page

_SHOWN = 20


class PictureFile(NamedTuple):
  """A picture and its caption, as a workdir stores them.

  Attributes:
    content: a PNG.
    caption: what it shows, and which examples these are.
  """

  content: bytes
  caption: str


def draw(data: Dataset, audit: Audit, pairs: Sequence[Pair]) -> dict[str, PictureFile]:
  """The pictures by file name; none of what there is no example of.

  Args:
    data: the examples.
    audit: the audit of them.
    pairs: of which one can replace the other.
  """
  names = [data.class_names[label] for label in audit.labels]
  quality, memorisation = audit.label_quality.value, audit.memorisation.value
  doubtful = audit.doubtful[:_SHOWN]
  memorised = _largest(memorisation)
  pictures = {
    "audit_suspicious.png": _picture(
      data,
      doubtful,
      [
        f"{names[i]}: {data.class_names[audit.suggested_labels[i]]}?\n{quality[i]:.2f}"
        for i in doubtful
      ],
      "Most suspicious labels: label, suggested label, label quality",
    ),
    "audit_memorised.png": _picture(
      data,
      memorised,
      [f"{names[i]}\n{memorisation[i]:+.2f}" for i in memorised],
      "Most memorised: accuracy of models trained on the example, less that of others",
    ),
    "audit_stand_ins.png": _picture(
      data,
      np.array([i for pair in pairs for i in pair[:2]], int)[:_SHOWN],
      [f"{names[i]}\n{pair.effect:+.1f}" for pair in pairs for i in pair[:2]][:_SHOWN],
      "Pairs of which one can replace the other: logits that each adds to the margin of "
      "the other, where that is left out",
    ),
  }
  if audit.opposition is not None:
    opposed = _largest(audit.opposition.value)
    texts = [f"{names[i]}\n-{audit.opposition.value[i]:.1f}" for i in opposed]
    about = "Most opposed to targets: label, and sum of the negative scores"
    pictures["audit_opposed.png"] = _picture(data, opposed, texts, about)
  return {name: picture for name, picture in pictures.items() if picture}


def _largest(values: np.ndarray) -> np.ndarray:
  """The examples with the largest positive values."""
  order = np.argsort(-np.nan_to_num(values), kind="stable")[:_SHOWN]
  return order[np.nan_to_num(values[order]) > 0]


def _picture(
  data: Dataset, examples: np.ndarray, texts: Sequence[str], title: str
) -> PictureFile | None:
  """Some examples in a row; None if there are none."""
  if not len(examples):
    return None
  figure = image_figures.gallery(data.train_images[examples], texts, title=title)
  sources = "; ".join(f"{i}: {data.train_sources[i]}" for i in examples)
  caption = f"{title}. Training images, in order, by index: {sources}."
  return PictureFile(page.png(figure), caption)
