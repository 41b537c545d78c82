"""From training sets to margins: models of networks, trained and stored.

Models for datamodels and models that verify removals and label flips are all trained by a
`Trainer`, which trains only those that its stores lack. It opens the stores itself, since
it knows everything that their models depend on: no caller can leave a part out.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import linen as nn

from jaxdm import margins, prng, training_sets
from jaxdm import progress as progress_lib
from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io
from jaxdm.training import fleet as fleet_lib
from jaxdm.training.base_trainer import BaseTrainer
from jaxdm.training.collection import Collection, Predictions, missing_models, write
from jaxdm.training.config import TrainConfig
from jaxdm.training.outputs import Outputs
from jaxdm.training.speed import Speed
from jaxdm.training_sets import ModelSpecs
from jaxdm.typing import Array

# Masks bool[m, n], labels int[n] or int[m, n], and m streams of random numbers.
_Part = tuple[np.ndarray, np.ndarray, Sequence[prng.Stream]]


class Trainer(BaseTrainer):
  """Trains a dataset's models; a `retrain` function of masks, labels and seeds.

  Attributes:
    fleet: trains many models at once.
    num_classes: k.
    values: uint8[n, h, w, c] or float32[n, d], the inputs of the training examples.
    labels: int32[n], theirs.
    target_values: uint8[t, h, w, c] or float32[t, d], the inputs of the targets.
    target_labels: int32[t].
    seed: root of every model's randomness.
    diverged: models trained here that diverged.

  >>> import jaxdm, numpy as np
  >>> shirts = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 20, 10)
  >>> config = jaxdm.TrainConfig(epochs=4, batch_size=10)
  >>> trainer = jaxdm.Trainer(shirts, config, network="linear")
  >>> masks = jaxdm.random_subsets(3, 40, alpha=0.5, seed=0)
  >>> trainer(masks, shirts.train_labels, np.arange(3)).shape
  (3, 20)
  """

  _knows_classes = True
  fleet: fleet_lib.Fleet

  def __init__(
    self,
    dataset: Dataset,
    config: TrainConfig = TrainConfig(),
    *,
    network: str | nn.Module = "resnet9",
    folder: str | epath.PathLike | None = None,
    seed: int = 0,
    speed: Speed = Speed(),
  ):
    """Uses no device and opens no store yet.

    Args:
      dataset: the training examples, and the targets whose margins are returned.
      config: how each model is trained.
      network: 'resnet9', 'mlp', 'linear' or a Flax module; see `networks.make`.
      folder: for stores, so that no model is trained twice; it may be in a bucket. None:
        nothing is remembered.
      seed: root of every model's randomness, in [0, 2**32).
      speed: how many models are trained side by side; changes results by rounding alone.

    Raises:
      UserError: on a network that does not fit the data, or data of one class.
    """
    if dataset.num_classes < 2:
      raise UserError(
        "dataset", f"must have two classes or more, got {dataset.name} of 1"
      )
    if folder is not None:  # The working directory may change before it is used.
      folder = atomic_io.as_path(folder).absolute()
    fleet = fleet_lib.Fleet(
      config, dataset.train_images, dataset.num_classes, speed, network=network
    )
    targets = dataset.test_images, dataset.test_labels
    self._set(fleet, folder, dataset.train_labels, *targets, seed, (0, 1))

  @classmethod
  def of(
    cls,
    fleet: fleet_lib.Fleet,
    folder: str | epath.PathLike | None,
    labels: np.ndarray,
    target_values: np.ndarray,
    target_labels: np.ndarray,
    *,
    seed: int,
    share: tuple[int, int] = (0, 1),
  ) -> "Trainer":
    """Binds a fleet to labels, targets and a seed.

    Args:
      fleet: trains them.
      folder: see above.
      labels: int[n], of the training examples.
      target_values: uint8[t, h, w, c] or float32[t, d].
      target_labels: int[t].
      seed: root of every model's randomness.
      share: (i, N): this is process i of N that ask for the same models, in the same
        order, and meet in the store: `__call__` trains an Nth of them and waits for the
        others to store the rest; `collect` trains an Nth and does not wait.

    Raises:
      ValueError: if `share` is not (i, N) with 0 <= i < N.
    """
    trainer = cls.__new__(cls)
    trainer._set(fleet, folder, labels, target_values, target_labels, seed, share)
    return trainer

  def _set(
    self,
    fleet: fleet_lib.Fleet,
    folder: str | epath.PathLike | None,
    labels: np.ndarray,
    target_values: np.ndarray,
    target_labels: np.ndarray,
    seed: int,
    share: tuple[int, int],
  ) -> None:
    """What both constructors do."""
    self.fleet = fleet
    train = fleet.num_classes, fleet.values, labels
    targets = target_values, target_labels
    self._bind(folder, *train, *targets, seed=seed, share=share)

  @property
  def rows(self) -> int:
    """Models that are trained and stored together."""
    return self.fleet.rows

  @property
  def provenance(self) -> dict[str, str]:
    """Settings that change rounding."""
    return self.fleet.provenance

  def _depends_on(self) -> dict[str, Any]:
    """What margins depend on beside labels, targets and seed."""
    return self.fleet.identity()

  def train_parts(self, parts: Iterable[ModelSpecs]) -> Iterator[np.ndarray]:
    """Margins of each part; checkpoints are removed when the part is stored."""
    for logits_mtk in self._logits(parts):
      yield self._margins(logits_mtk)
      self.fleet.settle()

  def collect(
    self,
    collection: Collection,
    *,
    progress: progress_lib.Progress = progress_lib.silent,
  ) -> None:
    """Trains this process's share of a collection's missing models, and stores them.

    Args:
      collection: of `open_subsets`.
      progress: called with (models done, models in all).
    """
    subsets, predict_training = collection.subsets, collection.training is not None
    chunks = missing_models(collection, self._share)
    numbers = np.concatenate([np.zeros(0, int), *(np.asarray(c) for c in chunks)])
    size = self.fleet.rows
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    masks: list[np.ndarray] = []
    pending: list[Predictions] = []

    def sets() -> Iterator[_Part]:
      for part in parts:
        masks_mn = subsets.masks(self.seed, len(self.labels), part)
        masks.extend(masks_mn)
        streams = [prng.Stream(subsets.family, int(number)) for number in part]
        yield masks_mn, self.labels, streams

    remaining, done = list(chunks), 0
    progress(done, len(numbers))
    for output in self._outputs(sets(), predict_training=predict_training):
      pending.extend(self._predictions(output).rows())
      while remaining and len(remaining[0]) <= len(pending):
        rows = len(remaining[0])
        some = Predictions.of_rows(pending[:rows])
        write(collection, remaining.pop(0), np.array(masks[:rows]), some)
        del masks[:rows], pending[:rows]
        if not pending:
          self.fleet.settle()
        done += rows
        progress(done, len(numbers))

  def _margins(self, logits_mtk: np.ndarray) -> np.ndarray:
    """float32[m, t]; models that diverged are noted, and rows of NaN."""
    margins_mt = margins.correct_class_margins(logits_mtk, self.target_labels)
    return self._mark_diverged(margins_mt)

  def _predictions(self, output: Outputs) -> Predictions:
    """What models say of the targets and, if wanted, of the training examples.

    Rows of models that diverged are NaN.
    """
    margins_mt = self._margins(output.logits)
    if output.training_logits is None:
      return Predictions(margins_mt, output.logits)
    margins_mn = margins.correct_class_margins(output.training_logits, self.labels)
    margins_mn[~np.isfinite(margins_mn).all(axis=1)] = np.nan
    classes_mn = output.training_logits.argmax(axis=-1)
    return Predictions(margins_mt, output.logits, margins_mn, classes_mn)

  def _logits(self, parts: Iterable[ModelSpecs]) -> Iterator[np.ndarray]:
    """Logits float32[m, t, k] of parts of at most `Fleet.rows` models each."""
    sets = (
      (part.masks_mn, part.labels_mn, [prng.stream_of(int(seed)) for seed in part.seeds])
      for part in parts
    )
    return (output.logits for output in self._outputs(sets))

  def _outputs(
    self, parts: Iterable[_Part], *, predict_training: bool = False
  ) -> Iterator[Outputs]:
    """Outputs of models on masks, labels and streams, without padding, on the host."""

    def calls() -> Iterator[tuple[training_sets.TrainingSets, Array]]:
      for masks_mn, labels, streams in parts:
        # Always as many keys, so that nothing is compiled for other numbers of models.
        padded = itertools.islice(itertools.cycle(streams), self.fleet.rows)
        keys = prng.keys_for(self.seed, list(padded))
        yield training_sets.from_masks(masks_mn, labels), keys

    outputs = self.fleet.train_models(
      calls(), self.target_values, predict_training=predict_training
    )
    for output in outputs:
      yield output.on_host()
