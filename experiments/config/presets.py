"""The experiments that have names."""

import dataclasses

from experiments.config.settings import (
  METHODS,
  CollectConfig,
  CompareConfig,
  DataConfig,
  Experiment,
  FlipConfig,
  GradientConfig,
  NetworkConfig,
  PriorConfig,
)
from jaxdm.attribution import registry
from jaxdm.brittleness.config import SearchConfig
from jaxdm.datamodels.config import FitConfig
from jaxdm.training.config import TrainConfig


def _fashion() -> Experiment:
  """T-shirts against shirts, small enough for five minutes on two CPU cores.

  Label smoothing and mirroring are left out: both make models depend less on single
  examples, and so ask for more models than five minutes can train.
  """
  return Experiment(
    data=DataConfig(
      classes="T-shirt,shirt", train_per_class=100, test_per_class=60, downscale=4
    ),
    collect=CollectConfig(num_models=1200, num_held_out=200, equal_steps=True),
    network=NetworkConfig(),
    train=TrainConfig(
      width=8,
      epochs=20,
      batch_size=32,
      peak_learning_rate=0.2,
      label_smoothing=0.0,
      flip=False,
      translate_pixels=0,
      cutout_pixels=0,
    ),
    gradient=GradientConfig(),
    prior=PriorConfig(),
    fit=FitConfig(folds=5),
    search=SearchConfig(search_models=4, verify_seeds=8),
    compare=CompareConfig(),
    flip=FlipConfig(),
  )


def _fashion_all() -> Experiment:
  """`fashion` with every target searched that models on all data get right."""
  base = _fashion()
  every = 2 * base.data.test_per_class
  return dataclasses.replace(
    base, search=dataclasses.replace(base.search, num_targets=every)
  )


def _cifar10_two() -> Experiment:
  """Natural images for an afternoon on two CPU cores: CIFAR-10's airplanes and ships.

  Six models an example, as in `fashion`, and training to convergence: with three, and a
  third of the epochs, datamodels choose no better than influence functions.
  """
  base = _fashion()
  return dataclasses.replace(
    base,
    data=DataConfig(
      dataset="cifar10",
      classes="airplane,ship",
      train_per_class=250,
      test_per_class=100,
      downscale=2,
    ),
    collect=dataclasses.replace(base.collect, num_models=3000),
    train=dataclasses.replace(base.train, epochs=30),
    search=dataclasses.replace(base.search, max_share=0.2),
    compare=CompareConfig(methods="datamodel,influence,trak,similar,pixels,random"),
  )


def _quick_methods() -> list[str]:
  """All methods but those that take days on all of CIFAR-10."""
  return [name for name in METHODS if not registry.METHODS[name].on_request]


def _cifar10() -> Experiment:
  """The published recipe on all of CIFAR-10; wants accelerators."""
  return Experiment(
    data=DataConfig(dataset="cifar10"),
    collect=CollectConfig(num_models=300_000, num_held_out=10_000, num_base=64),
    network=NetworkConfig(),
    train=TrainConfig(compute_dtype="bfloat16"),
    gradient=GradientConfig(),
    prior=PriorConfig(priors="none,influence+size"),  # A covariance would need 120 GB.
    fit=FitConfig(num_lambdas=50, lambda_min_ratio=0.01),
    search=SearchConfig(num_targets=300, max_share=0.2),
    compare=CompareConfig(methods=",".join(_quick_methods())),
    flip=FlipConfig(),
  )


def _cifar10_fast() -> Experiment:
  """`cifar10` in a quarter of the epochs, with Muon."""
  base = _cifar10()
  recipe = dataclasses.replace(
    base.train, epochs=6, batch_size=256, peak_learning_rate=0.2, muon_rate=0.05
  )
  return dataclasses.replace(base, train=recipe)


PRESETS = {
  "fashion": _fashion,
  "fashion-all": _fashion_all,
  "cifar10-two": _cifar10_two,
  "cifar10": _cifar10,
  "cifar10-fast": _cifar10_fast,
}
