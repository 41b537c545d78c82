"""Settings of speed: how many models are trained at a time, and how."""

import dataclasses
from typing import Literal, get_args

from jaxdm.errors import check_choice, check_count, check_number, use_python_numbers

ConvBackend = Literal["auto", "cpu", "im2col", "lax"]
# Models that a device trains per call, of networks with convolutions and of others.
_MODELS_PER_CALL = {True: 8, False: 128}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Settings of speed, which change what models are by rounding alone.

  They are no part of a model's identity: a run may go on with others, on another device.
  Stores note them (`Fleet.provenance`).

  >>> import jaxdm
  >>> jaxdm.Speed(vmap_width=4, chunk=32).chunk
  32

  Attributes:
    vmap_width: Number of models that one device trains in parallel, or auto: the fastest
      number is measured when a device, a network and an input size are first used, and
      then remembered. Default: on CPU 1 for networks with convolutions, else 32; on GPU
      and TPU auto.
    chunk: Number of models that a device trains per call. Default: 8 for networks with
      convolutions, else 128, and at least vmap_width.
    checkpoint_seconds: Largest number of seconds of training that are lost when a run
      is killed. Models that take longer are saved to disk during training. 0: never. A
      single step of a call must not take longer than a fifth of this time.
    conv_backend: How convolutions are computed: as matrix products (im2col), by XLA
      (lax), in the form that is fastest on CPU for each layer (cpu; with vmap_width > 1
      the same as im2col), or auto: im2col or lax, measured as vmap_width is. Default: on
      CPU cpu, on GPU and TPU auto.
  """

  vmap_width: int | Literal["auto"] | None = None
  chunk: int | None = None
  checkpoint_seconds: float = 300.0
  conv_backend: ConvBackend | None = None

  def __post_init__(self) -> None:
    use_python_numbers(self)
    if self.vmap_width not in (None, "auto"):
      check_count("vmap_width", self.vmap_width)
    if self.chunk is not None:
      check_count("chunk", self.chunk)
    check_number("checkpoint_seconds", self.checkpoint_seconds, least=0)
    if self.conv_backend is not None:
      check_choice("conv_backend", self.conv_backend, get_args(ConvBackend))

  def models_per_call(self, width: int, *, convolves: bool) -> int:
    """Models that a device trains per call, `width` of them side by side."""
    return self.chunk or max(_MODELS_PER_CALL[convolves], width)
