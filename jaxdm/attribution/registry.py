"""All methods that score training examples, by name: the one place to add another.

A method is a name, a way to make scores float32[t, n], and what reports know of it.
Some make scores from models on all data (`terms`), some from the data alone (`rows`).
Datamodels are fitted to models on random subsets, and relabel scores are made for given
targets; both have entries without either, so that searches and figures know them.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxdm.attribution import gradient, similarity
from jaxdm.attribution.full_data import FullDataModel
from jaxdm.attribution.random_scores import random_rows
from jaxdm.attribution.scores import ScoreRows, Term
from jaxdm.training.base_trainer import BaseTrainer

# The middles of the thirds of training, where TracIn looks.
_THIRDS = (1 / 6, 3 / 6, 5 / 6)


class Method(NamedTuple):
  """What is known of a method.

  Attributes:
    colour: of its curves.
    source: what it computes, and where that is described.
    all_classes: whether it ranks examples of all classes, or of the target's class only.
    terms: one model's part of the scores, of the model and the damping.
    moments: shares of training at which `terms` needs the models' gradients.
    by_doubt: whether the sum over models is multiplied by each example's mean 1 - p.
    rows: scores that need no models, of the trainer whose data they are of.
  """

  colour: str
  source: str
  all_classes: bool = False
  terms: Callable[[FullDataModel, float], list[Term]] | None = None
  moments: tuple[float, ...] = ()
  by_doubt: bool = False
  rows: Callable[[BaseTrainer], ScoreRows] | None = None


def _similar(model: FullDataModel, _: float) -> list[Term]:
  features = model.train_features_nf, model.features_tf
  return [Term(similarity.similarity, *features)]


def _close(model: FullDataModel, _: float) -> list[Term]:
  features = model.train_features_nf, model.features_tf
  return [Term(similarity.closeness, *features)]


def _tracin(model: FullDataModel, _: float) -> list[Term]:
  found = [(model.rates[moment], model.gradients[moment]) for moment in _THIRDS]
  return [
    Term(gradient.scores, rate * gradient.tracin(at), at.target_td) for rate, at in found
  ]


def _trak(model: FullDataModel, damping: float) -> list[Term]:
  last = model.gradients[1.0]
  return [Term(gradient.scores, gradient.trak(last, damping), last.target_td)]


def _influence(model: FullDataModel, damping: float) -> list[Term]:
  last = model.gradients[1.0]
  return [Term(gradient.scores, gradient.influence(last, damping), last.target_td)]


def _pixels(trainer: BaseTrainer) -> ScoreRows:
  return similarity.pixel_rows(trainer.values, trainer.target_values)


def _random(trainer: BaseTrainer) -> ScoreRows:
  shape = len(trainer.target_labels), len(trainer.labels)
  return random_rows(*shape, seed=trainer.seed)


METHODS = {
  "datamodel": Method(
    "#c1272d",
    "weights of linear models that predict margins from random subsets (Ilyas et al., "
    "arXiv:2202.00622)",
    all_classes=True,
  ),
  "influence": Method(
    "#eecc16",
    "influence functions with the Gauss-Newton matrix (Koh and Liang, arXiv:1703.04730)",
    all_classes=True,
    terms=_influence,
    moments=(1.0,),
  ),
  "trak": Method(
    "#008176",
    "TRAK (Park et al., arXiv:2303.14186)",
    all_classes=True,
    terms=_trak,
    moments=(1.0,),
    by_doubt=True,
  ),
  "tracin": Method(
    "#b3b3b3",
    "TracIn over three checkpoints (Pruthi et al., arXiv:2002.08484)",
    all_classes=True,
    terms=_tracin,
    moments=_THIRDS,
  ),
  "similar": Method(
    "#0000a7", "cosine similarity of penultimate features", terms=_similar
  ),
  "close": Method("#5b8ff9", "negative distance of penultimate features", terms=_close),
  "pixels": Method("#9467bd", "negative distance of the inputs", rows=_pixels),
  "random": Method("#777777", "random numbers", rows=_random),
  "relabel": Method(
    "#d35400", "what a changed label takes from the margin, by influence functions"
  ),
}


def from_full_data() -> tuple[str, ...]:
  """The methods whose scores are made from models on all data."""
  return tuple(name for name, method in METHODS.items() if method.terms)


def all_classes(name: str) -> bool:
  """Whether a method ranks examples of all classes; scores from elsewhere do."""
  return name not in METHODS or METHODS[name].all_classes
