"""The dataset of an experiment, from the source that its settings name."""

from collections.abc import Mapping

from experiments.config import settings as settings_lib
from jaxdm.data.dataset import Dataset
from jaxdm.data.load import load_dataset


def load(config: settings_lib.DataConfig, where: Mapping[str, str | None]) -> Dataset:
  """The dataset that a config describes, images at their native size."""
  loaded = load_dataset(config.dataset, background=config.background, **where)
  return select(loaded, config)


def select(full: Dataset, config: settings_lib.DataConfig) -> Dataset:
  """The classes and examples of a dataset that a config selects."""
  classes = config.classes.split(",") if config.classes else None
  return full.take(classes, config.train_per_class or None, config.test_per_class or None)
