"""The settings of the training of one model."""

import dataclasses
import math
from typing import Any

from jaxdm.errors import check_choice, check_count, check_number, use_python_numbers
from jaxdm.rounding import share_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """All that decides what a trained model is, besides its data and its seed.

  The defaults are the recipe of the datamodels paper's released code.

  >>> import jaxdm
  >>> config = jaxdm.TrainConfig(epochs=10, batch_size=100)
  >>> float(config.num_steps(2000))  # On 2,000 examples.
  200.0

  Attributes:
    width: Number of channels of the first layer of ResNet-9, or number of hidden units
      of the MLP.
    epochs: Number of passes over the training set; can be a fraction.
    epoch_examples: Number of examples that count as one epoch. 0: the size of the
      model's own training set, as published. With another number, all models take the
      same number of steps, whatever the size of their training sets.
    batch_size: Number of examples per step.
    peak_learning_rate: Maximum learning rate. The rate rises linearly from 0 to this
      value and then falls linearly to 0.
    peak_at: Share of the training steps after which the learning rate has its maximum.
    momentum: Momentum of SGD, and of Muon.
    weight_decay: Weight decay. With SGD, this multiple of a parameter is added to its
      gradient, as published. With Muon, weight decay is decoupled: at every step, a
      kernel shrinks by this multiple of its learning rate. Reason: the size of a term
      that is added before orthogonalisation would have no effect.
    muon_rate: Maximum learning rate of the optimiser Muon (Jordan, 2024: orthogonalised
      momentum), with the same schedule. Muon updates the kernels of all convolutions;
      of ResNet-9, all but the first. 0: SGD for all parameters, as published.
    label_smoothing: Label smoothing, in [0, 1).
    flip: Mirror training images at random. Average each prediction with the prediction
      for the mirrored image.
    translate_pixels: Largest random shift of a training image, in pixels.
    cutout_pixels: Side length, in pixels, of the square in a training image that is set
      to the mean; 0: no cutout.
    compute_dtype: Data type of activations and matrix products: 'float32' or
      'bfloat16'. Parameters are always float32.
  """

  width: int = 64
  epochs: float = 24.0
  epoch_examples: int = 0
  batch_size: int = 512
  peak_learning_rate: float = 0.5
  peak_at: float = 5 / 24
  momentum: float = 0.9
  weight_decay: float = 5e-4
  muon_rate: float = 0.0
  label_smoothing: float = 0.1
  flip: bool = True
  translate_pixels: int = 2
  cutout_pixels: int = 4
  compute_dtype: str = "float32"

  def __post_init__(self) -> None:
    use_python_numbers(self)
    for name in ("width", "batch_size"):
      check_count(name, getattr(self, name))
    for name in ("epoch_examples", "translate_pixels", "cutout_pixels"):
      check_count(name, getattr(self, name), 0)
    for name in ("epochs", "peak_learning_rate"):
      check_number(name, getattr(self, name), above=0)
    for name in ("muon_rate", "weight_decay"):
      check_number(name, getattr(self, name), least=0)
    for name in ("momentum", "label_smoothing"):
      check_number(name, getattr(self, name), least=0, below=1)
    check_number("peak_at", self.peak_at, above=0, below=1)
    check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))

  def num_steps(self, count: Any) -> Any:
    """Steps that a model on `count` examples takes; accepts arrays."""
    if self.epoch_examples:
      examples = share_of(self.epochs, self.epoch_examples)
      return 0 * count + math.ceil(examples / self.batch_size)
    exact = count * (self.epochs / self.batch_size)
    # Rounding up an almost-integer would depend on the float width in use. (Beyond some
    # 15,000 steps it does: in float32 there may be one more.)
    return (exact + (1 - 1e-3)) // 1
