"""All methods that score training examples, by name: the one place to add another.

A method is a name, a way to make scores float32[t, n], and what it computes in words.
Some make scores from models on all data (`terms`), some from the data alone (`rows`).
Datamodels are fitted to models on random subsets, and relabel scores are made for given
targets; both have entries without either, so that searches and reports know them.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from jaxdm.attribution import gradient, similarity
from jaxdm.attribution.exemplar_svm import exemplar_scores
from jaxdm.attribution.full_data import ModelOutputs, Snapshot, even_moments
from jaxdm.attribution.random_scores import random_rows
from jaxdm.attribution.scores import ScoreRows, Term
from jaxdm.training.base_trainer import BaseTrainer
from jaxdm.typing import Array

# The middles of the thirds of training, where TracIn looks.
_THIRDS = (1 / 6, 3 / 6, 5 / 6)


class Method(NamedTuple):
  """What is known of a method.

  Attributes:
    source: what it computes, and where that is described.
    colour: in figures, as #rrggbb; None: one of matplotlib's own.
    all_classes: whether it ranks examples of all classes, or of the target's class only.
    terms: one model's part of the scores at one moment of training, of the snapshot and
      the damping; the scores are the mean over models and moments.
    moments: shares of training at which there are terms, of the number of moments that
      a setting asks for.
    gradients: whether `terms` needs the gradients of the examples.
    by_doubt: whether the mean is multiplied by each example's mean 1 - p at the end.
    rows: scores that need no models, of the trainer whose data they are of.
    on_request: whether its scores are computed only if it is asked for by name, since
      they take long where there are many targets.
  """

  source: str
  colour: str | None = None
  all_classes: bool = False
  terms: Callable[[Snapshot, float], list[Term]] | None = None
  moments: Callable[[int], tuple[float, ...]] = lambda count: (1.0,)
  gradients: bool = False
  by_doubt: bool = False
  rows: Callable[[BaseTrainer], ScoreRows] | None = None
  on_request: bool = False


def _similar(snapshot: Snapshot, _: float) -> list[Term]:
  outputs = _outputs(snapshot)
  return [Term(similarity.similarity, outputs.train_features_nf, outputs.features_tf)]


def _close(snapshot: Snapshot, _: float) -> list[Term]:
  outputs = _outputs(snapshot)
  return [Term(similarity.closeness, outputs.train_features_nf, outputs.features_tf)]


def _svm(snapshot: Snapshot, _: float) -> list[Term]:
  outputs = _outputs(snapshot)

  def score(train_nf: Array, rows: Array) -> np.ndarray:
    return exemplar_scores(train_nf, rows[:, 1:], outputs.train_labels, rows[:, 0])

  labelled_rows = np.column_stack([outputs.target_labels, outputs.features_tf])
  return [Term(score, outputs.train_features_nf, labelled_rows)]


def _tracin(snapshot: Snapshot, _: float) -> list[Term]:
  at = _gradients(snapshot)
  rows_nd = snapshot.learning_rate * gradient.tracin(at)
  return [Term(gradient.scores, rows_nd, at.target_td)]


def _trak(snapshot: Snapshot, damping: float) -> list[Term]:
  at = _gradients(snapshot)
  return [_unit_term(gradient.trak(at, damping), at.target_td)]


def _influence(snapshot: Snapshot, damping: float) -> list[Term]:
  at = _gradients(snapshot)
  return [_unit_term(gradient.influence(at, damping), at.target_td)]


def _unit_term(rows_nd: Array, target_td: Array) -> Term:
  """Scores with a root mean square of 1: at some moments a model's are far larger."""
  unit = gradient.root_mean_square(rows_nd, target_td)
  return Term(gradient.scores, rows_nd / unit, target_td, unit)


def _gradients(snapshot: Snapshot) -> gradient.Gradients:
  assert snapshot.gradients is not None  # The entry asks for them.
  return snapshot.gradients


def _outputs(snapshot: Snapshot) -> ModelOutputs:
  assert snapshot.outputs is not None  # The entry has the moment 1.
  return snapshot.outputs


def _pixels(trainer: BaseTrainer) -> ScoreRows:
  return similarity.pixel_rows(trainer.values, trainer.target_values)


def _random(trainer: BaseTrainer) -> ScoreRows:
  shape = len(trainer.target_labels), len(trainer.labels)
  return random_rows(*shape, seed=trainer.seed)


METHODS = {
  "datamodel": Method(
    "weights of linear models that predict margins from random subsets (Ilyas et al., "
    "arXiv:2202.00622)",
    colour="#c1272d",
    all_classes=True,
  ),
  "influence": Method(
    "influence functions with the Gauss-Newton matrix (Koh and Liang, arXiv:1703.04730), "
    "averaged over moments of training",
    colour="#eecc16",
    all_classes=True,
    terms=_influence,
    moments=even_moments,
    gradients=True,
  ),
  "trak": Method(
    "TRAK (Park et al., arXiv:2303.14186), averaged over moments of training",
    colour="#008176",
    all_classes=True,
    terms=_trak,
    moments=even_moments,
    gradients=True,
    by_doubt=True,
  ),
  "tracin": Method(
    "TracIn over three moments of training (Pruthi et al., arXiv:2002.08484)",
    colour="#b3b3b3",
    all_classes=True,
    terms=_tracin,
    moments=lambda count: _THIRDS,
    gradients=True,
  ),
  "similar": Method(
    "cosine similarity of representations", colour="#0000a7", terms=_similar
  ),
  "close": Method("negative distance of representations", colour="#5b8ff9", terms=_close),
  "svm": Method(
    "linear SVM of the target against the examples of its class, on representations "
    "(Singla et al., arXiv:2311.03386)",
    colour="#e377c2",
    terms=_svm,
    on_request=True,
  ),
  "pixels": Method("negative distance of the inputs", colour="#9467bd", rows=_pixels),
  "random": Method("random numbers", colour="#777777", rows=_random),
  "relabel": Method(
    "what a changed label takes from the margin, by influence functions",
    colour="#d35400",
    all_classes=True,
  ),
}


def from_full_data(requested: Collection[str] = ()) -> tuple[str, ...]:
  """The methods whose scores are made from models on all data.

  Args:
    requested: methods that a user names; those on request are left out otherwise.
  """
  with_terms = {name: method for name, method in METHODS.items() if method.terms}
  return tuple(
    n for n, method in with_terms.items() if n in requested or not method.on_request
  )


def all_classes(name: str) -> bool:
  """Whether a method ranks examples of all classes; scores from elsewhere do."""
  return name not in METHODS or METHODS[name].all_classes


def colour(name: str) -> str | None:
  """A method's colour in figures; None for scores from elsewhere: matplotlib's own."""
  return METHODS[name].colour if name in METHODS else None
